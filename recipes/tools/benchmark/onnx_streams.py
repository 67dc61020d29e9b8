"""Speed of streaming ONNX graphs, one call after the other, side by side."""

import time
from statistics import median

import numpy as np

from dbtransform_lobes.inference.onnx_model import import_onnxruntime

NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
CALLS = 20


def time_streams(paths, rounds=50):
    """Time graphs in turns, so that a busy machine slows all alike.

    Arguments
    ---------
    paths : sequence of str
        Graphs of fixed shapes whose first input is the signal. States go
        round: input ``x`` is fed from output ``next_x`` or ``x_out``.
    rounds : int
        Turns; in each, every graph is called 20 times on one thread.

    Returns
    -------
    dict
        By path: seconds of a call in each round, a list.

    Raises
    ------
    ValueError
        If onnxruntime is missing, or a graph cannot be loaded or called.
    """
    calls = {str(path): _caller(path) for path in paths}
    times = {path: [] for path in calls}
    for number in range(rounds + 1):
        for path, call in calls.items():
            call()  # brings the graph back into the caches
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            if number:  # the first round warms up
                elapsed = time.perf_counter() - start
                times[path].append(elapsed / CALLS)
    return times


def describe(times, hop_seconds):
    """The times as lines of text: median, least and real-time factor.

    Arguments
    ---------
    times : dict
        Of ``time_streams``.
    hop_seconds : float
        Seconds of audio of a call.

    Returns
    -------
    str

    Example
    -------
    >>> print(describe({"a.onnx": [0.002, 0.001, 0.003]}, 0.016))
    a.onnx: median 2.000 ms, least 1.000 ms a call, real-time factor 0.1250
    """
    return "\n".join(
        f"{path}: median {1e3 * median(each):.3f} ms, least "
        f"{1e3 * min(each):.3f} ms a call, real-time factor "
        f"{median(each) / hop_seconds:.4f}"
        for path, each in times.items()
    )


def _caller(path):
    """A function that calls a graph, keeps its states, returns its outputs."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        first, *states = session.get_inputs()
        outputs = [each.name for each in session.get_outputs()]
        kept = {each.name: _kept(each.name, outputs) for each in states}
        values = {
            each.name: np.zeros(each.shape, NUMPY_TYPES[each.type])
            for each in states
        }
        noise = np.random.default_rng(0).standard_normal(first.shape)
        values[first.name] = 0.1 * noise.astype(np.float32)
        session.run(None, values)
    except Exception as error:
        # ONNX Runtime has a class of its own for every kind of error.
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: expected a streaming graph of fixed shapes with states "
            f"in and out ({reason}); export with --streaming"
        ) from error

    def call():
        found = session.run(None, values)
        for name, place in kept.items():
            values[name] = found[place]
        return found

    return call


def _kept(name, outputs):
    """Place of the output that follows on a state."""
    for each in (f"next_{name}", f"{name}_out"):
        if each in outputs:
            return outputs.index(each)
    raise ValueError(f"no output follows on the state {name}")
