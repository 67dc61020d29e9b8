"""A stream through a graph of ONNX Runtime, which keeps its states."""

from itertools import cycle

import numpy as np

NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class GraphStream:
    """Call a graph of fixed shapes block by block, from states of zeros.

    The first input and output are the block and its result, the others are
    states: what comes out in a place goes in there at the next call, by two
    sets of buffers in turns. ``session`` is an onnxruntime.InferenceSession.
    States ``in_place`` have one buffer, written where it was read, so that a
    ring of frames is not copied: only the node that writes it may read it.
    """

    def __init__(self, session, in_place=()):
        block, *states = session.get_inputs()
        result, *following = session.get_outputs()
        if len(states) != len(following):
            raise ValueError(
                f"the graph has {len(states)} states in and {len(following)} "
                "out, expected as many"
            )
        self._session = session
        self._block, self._result = _buffer(block), _buffer(result)
        one = [_buffer(state) for state in states]
        other = [
            buffer if state.name in in_place else _buffer(state)
            for state, buffer in zip(states, one, strict=True)
        ]
        self._states = one, other  # they own the memory that is bound
        turns = self._bind(one, other), self._bind(other, one)
        self._turns = cycle(turns)

    def _bind(self, before, after):
        binding = self._session.io_binding()
        ends = (
            (binding.bind_ortvalue_input, self._session.get_inputs()),
            (binding.bind_ortvalue_output, self._session.get_outputs()),
        )
        buffers = [self._block, *before], [self._result, *after]
        for (bind, places), values in zip(ends, buffers, strict=True):
            for place, value in zip(places, values, strict=True):
                bind(place.name, value)
        return binding

    def __call__(self, block):
        """Return what the graph makes of the next block, an array."""
        block = np.ascontiguousarray(block, np.float32)
        self._block.update_inplace(block)
        self._session.run_with_iobinding(next(self._turns))
        return self._result.numpy().copy()


def _buffer(place):
    """Return zeros of the type and shape of an input or output."""
    from onnxruntime import OrtValue

    zeros = np.zeros(place.shape, NUMPY_TYPES[place.type])
    return OrtValue.ortvalue_from_numpy(zeros)
