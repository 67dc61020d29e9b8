"""A causal model as a graph of one call of a live stream.

frames and states in, frames and states out; all shapes are fixed, states
begin with zeros. The graph is what ``torch.export`` sees of the model's own
``advance``, given the count of frames as a tensor.
"""

import torch
from torch import nn

from dbtransform_lobes.inference.onnx_offline import fourier_rows, to_onnx


class SpectrumStream(nn.Module):
    """One call of a stream, on real and imaginary parts.

    Arguments
    ---------
    model : DBTransform
        A causal one.
    frames : int
        N, frames of a call.

    Example
    -------
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> from dbtransform_lobes.models.db_transform import DBTransform
    >>> from dbtransform_lobes.models.multi_scale_fusion import (
    ...     MultiScaleFusion,
    ... )
    >>> blocks = {"fusion": MultiScaleFusion}
    >>> model = DBTransform(BandLayout(), 8, blocks, causal=True)
    >>> stream = SpectrumStream(model)
    >>> spec, states = torch.randn(1, 1, 257, 2), stream.initial_states()
    >>> estimate, *states = stream(spec, *states)
    >>> estimate.shape, len(states)
    (torch.Size([1, 1, 257, 2]), 4)
    """

    names = ("frames",)

    def __init__(self, model, frames=1):
        super().__init__()
        self.model = model
        block = torch.zeros(1, frames, model.layout.num_bins, 2)
        with torch.no_grad():
            _, self.caches = model.advance(block, None, self._count())

    def _count(self):
        return torch.zeros(1, dtype=torch.int64)

    def initial_states(self):
        """Zeros: the count of frames and all caches."""
        flat = [torch.zeros_like(x) for part in self.caches for x in part]
        return [self._count(), *flat]

    def forward(self, spec, frames, *caches):
        """Map (1, N, F, 2) and the states to (1, N, F, 2) and the next."""
        flat = iter(caches)
        nested = [tuple(next(flat) for _ in part) for part in self.caches]
        estimate, nested = self.model.advance(spec, nested, frames)
        following = [cache for part in nested for cache in part]
        return estimate, frames + spec.shape[1], *following


class WaveformStream(nn.Module):
    """SpectrumStream between STFT and inverse STFT, a hop a call.

    Arguments
    ---------
    model : DBTransform
        A causal one.
    window : torch.Tensor
        (n_fft,).
    hop_length : int
        In samples, half of n_fft.
    """

    names = ("past_noisy", "past_overlap", *SpectrumStream.names)

    def __init__(self, model, window, hop_length):
        super().__init__()
        self.spectral, self.hop_length = SpectrumStream(model), hop_length
        # (2 F, n_fft), real and imaginary parts of a bin side by side
        rows, inverse = (
            rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
            for rows in fourier_rows(window, len(window))
        )
        weight = window.square().unflatten(0, (2, hop_length)).sum(0)
        self.register_buffer("rows", rows.T)
        self.register_buffer("inverse_rows", inverse / weight.repeat(2))

    def initial_states(self):
        """Zeros: the last samples, the open half, the states within."""
        hop = torch.zeros(1, self.hop_length)
        return [hop, hop.clone(), *self.spectral.initial_states()]

    def forward(self, noisy, past, overlap, *states):
        """Map (1, hop) to the hop before, which is now complete."""
        spec = torch.cat((past, noisy), dim=1) @ self.rows
        spec = spec.view(1, 1, -1, 2)
        spec, *states = self.spectral(spec, *states)
        both = spec.flatten(1) @ self.inverse_rows
        first, second = both.split(self.hop_length, dim=1)
        return first + overlap, noisy.clone(), second, *states


def streaming_model(model, frames=1, stft=None):
    """Export one call of a stream.

    Arguments
    ---------
    model : DBTransform
        A causal one.
    frames : int
        N, frames of a call.
    stft : tuple, optional
        Window (n_fft,) and hop length, half of n_fft, for a graph of
        samples, one hop a call; without it the graph is one of spectra.

    Returns
    -------
    onnx.ModelProto
        Inputs: ``spec`` (1, N, F, 2), or ``noisy`` (1, hop); ``frames``,
        int64, how many the stream had; the caches of the model. Outputs:
        ``estimate`` or ``enhanced``, and all states with ``next_`` before
        their names.

    Raises
    ------
    ValueError
        If the model is not causal, N < 1, or a STFT inside has other hops
        than n_fft / 2 or more than one frame a call.
    """
    _check(model, frames, stft)
    if stft is None:
        graph, names = SpectrumStream(model, frames), ("spec", "estimate")
        block = torch.randn(1, frames, model.layout.num_bins, 2)
    else:
        graph, names = WaveformStream(model, *stft), ("noisy", "enhanced")
        block = torch.randn(1, stft[1])
    states = graph.initial_states()
    caches = range(len(states) - len(graph.names))
    places = [*graph.names, *(f"cache_{number}" for number in caches)]
    return to_onnx(
        graph,
        (block, *states),
        (names[0], *places),
        (names[1], *(f"next_{place}" for place in places)),
    )


def _check(model, frames, stft):
    if not model.causal:
        raise ValueError(
            "this model sees the future, so it has no streaming form: leave "
            "out --streaming, or export a model made with causal: True"
        )
    if frames < 1:
        raise ValueError(f"frames is {frames}, expected at least 1")
    if stft is not None and (2 * stft[1] != len(stft[0]) or frames > 1):
        raise ValueError(
            f"the hop is {stft[1]} samples, n_fft {len(stft[0])} and a call "
            f"{frames} frames, expected half of n_fft and one frame for a "
            "STFT inside a stream: export with --stft outside"
        )
