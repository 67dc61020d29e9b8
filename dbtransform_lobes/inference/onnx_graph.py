"""A model as one graph of real arithmetic, for whole signals or for streams.

noisy (B, L)
  -> STFT by a convolution with cosines and sines   (B, T, F, 2)
  -> DBTransform                                    (B, T, F, 2)
  -> inverse STFT by a transposed convolution -> enhanced (B, L)

or the middle line alone. For a causal model also one call of a live stream:
frames and states in, frames and states out; all shapes are fixed, states begin
with zeros. That graph is what ``torch.export`` sees of the model's own
``advance``, given the count of frames as a tensor.
"""

import math

import torch
import torch.nn.functional as F
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common
from torch import nn

from dbtransform_lobes.models.chunks import Whole

OPSET = 18
# Fewer nodes for ONNX Runtime to call.
RULES = (
    common.no_op_cast_rule,
    common.no_op_expand_rule,
    common.no_op_transpose_rule,
    common.transpose_transpose_rule,
    common.reshape_reshape_rule,
    common.unsqueeze_unsqueeze_rule,
    common.slice_split_rule,
)
LARGE = 2**24  # numbers of a constant, more than any weight has


class SpectrumGraph(nn.Module):
    """DBTransform on real and imaginary parts.

    Arguments
    ---------
    model : DBTransform
        The model; ``torch.export`` follows its own forward passes.

    Example
    -------
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> from dbtransform_lobes.models.db_transform import DBTransform
    >>> graph = SpectrumGraph(DBTransform(BandLayout(), 8, {}))
    >>> graph(torch.randn(1, 5, 257, 2)).shape
    torch.Size([1, 5, 257, 2])
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, spec):
        """Map (B, T, F, 2) to (B, T, F, 2)."""
        return self.model.run(Whole(), spec)


def fourier_rows(window, n_fft):
    """Cosines and sines of the windowed DFT and of its inverse.

    Arguments
    ---------
    window : torch.Tensor
        (n_fft,).
    n_fft : int
        Even.

    Returns
    -------
    torch.Tensor
        (2 F, n_fft), real parts first: rows @ samples is the spectrum.
    torch.Tensor
        (2 F, n_fft): spectrum @ rows are the windowed samples.

    Example
    -------
    >>> forward, inverse = fourier_rows(torch.ones(8), 8)
    >>> x = torch.randn(8)
    >>> torch.allclose((forward @ x) @ inverse, x, atol=1e-5)
    True
    """
    bins = torch.arange(n_fft // 2 + 1)[:, None]
    turn = bins * torch.arange(n_fft) % n_fft  # exact, unlike large angles
    angle = turn.double() * (2 * math.pi / n_fft)
    rows = torch.cat((angle.cos(), -angle.sin())) * window.double()
    # All bins but the first and the last stand for two of the whole DFT.
    twice = torch.full((n_fft // 2 + 1, 1), 2.0, dtype=torch.float64)
    twice[0] = twice[-1] = 1.0
    inverse = rows * torch.cat((twice, twice)) / n_fft
    return rows.float(), inverse.float()


class WaveformGraph(nn.Module):
    """SpectrumGraph between STFT and inverse STFT.

    Arguments
    ---------
    model : DBTransform
        The model.
    window : torch.Tensor
        (n_fft,).
    hop_length : int
        In samples, at most n_fft / 2.

    Example
    -------
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> from dbtransform_lobes.models.db_transform import DBTransform
    >>> model = DBTransform(BandLayout(), 8, {})
    >>> graph = WaveformGraph(model, torch.hann_window(512), 128)
    >>> graph(torch.randn(2, 1000)).shape
    torch.Size([2, 1000])
    """

    def __init__(self, model, window, hop_length):
        super().__init__()
        self.spectral, self.hop_length = SpectrumGraph(model), hop_length
        forward, inverse = fourier_rows(window, len(window))
        square = window.square()[None, None]
        self.register_buffer("forward_rows", forward.unsqueeze(1))
        self.register_buffer("inverse_rows", inverse.unsqueeze(1))
        self.register_buffer("window_square", square)

    def forward(self, noisy):
        """Map (B, L) to (B, L)."""
        half, hop = self.window_square.shape[-1] // 2, self.hop_length
        samples = noisy.shape[-1]
        # To whole hops, so that the end is not louder.
        end = (samples + hop - 1) // hop * hop - samples
        x = F.pad(noisy, (half, half + end)).unsqueeze(1)
        spec = F.conv1d(x, self.forward_rows, stride=hop)  # (B, 2 F, T)
        spec = spec.unflatten(1, (2, -1)).permute(0, 3, 2, 1)  # (B, T, F, 2)
        spec = self.spectral(spec)
        spec = spec.permute(0, 3, 2, 1).flatten(1, 2)  # (B, 2 F, T)
        x = F.conv_transpose1d(spec, self.inverse_rows, stride=hop)
        weight = F.conv_transpose1d(
            torch.ones_like(spec[:1, :1]), self.window_square, stride=hop
        )
        x, weight = (y[..., half : half + samples] for y in (x, weight))
        return (x / weight).squeeze(1)


def offline_model(model, stft=None):
    """Export a model for signals of any length.

    Arguments
    ---------
    model : DBTransform
        In evaluation mode.
    stft : tuple, optional
        Window (n_fft,) and hop length for a graph of waveforms; without it
        the graph is one of spectra.

    Returns
    -------
    onnx.ModelProto
        From ``noisy`` (B, L) to ``enhanced``; or from ``spec`` (B, T, F, 2)
        to ``estimate``.
    """
    if stft is None:
        graph, names, output = SpectrumGraph(model), ("spec",), "estimate"
        inputs = (torch.randn(2, 20, model.layout.num_bins, 2),)
        sizes = ({0: "batch", 1: "frames"},)
    else:
        graph, names, output = (
            WaveformGraph(model, *stft),
            ("noisy",),
            "enhanced",
        )
        inputs = (torch.randn(2, 20 * stft[1]),)
        sizes = ({0: "batch", 1: "samples"},)
    return to_onnx(graph, inputs, names, (output,), sizes)


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
    >>> model = DBTransform(BandLayout(), 8, {}, causal=True)
    >>> stream = SpectrumStream(model)
    >>> spec, states = torch.randn(1, 1, 257, 2), stream.initial_states()
    >>> estimate, *states = stream(spec, *states)
    >>> estimate.shape, len(states)
    (torch.Size([1, 1, 257, 2]), 3)
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


@torch.no_grad()
def to_onnx(module, inputs, input_names, output_names, dynamic_shapes=None):
    """Export a module; the arguments are those of ``torch.onnx.export``."""
    program = torch.onnx.export(
        module.eval(),
        inputs,
        input_names=input_names,
        output_names=output_names,
        dynamic_shapes=dynamic_shapes,
        opset_version=OPSET,
        optimize=False,
        verbose=False,
    )
    # Not ``optimize``: among its rules is one that takes x + 1e-12 for x.
    optimizer.inline(program.model)
    for _ in range(2):  # folding shows what can be rewritten
        optimizer.fold_constants(
            program.model, input_size_limit=LARGE, output_size_limit=LARGE
        )
        rewriter.rewrite(program.model, RULES)
    optimizer.remove_unused_nodes(program.model)
    proto = program.model_proto
    for part in (*proto.graph.node, *proto.graph.value_info, proto.graph):
        part.ClearField("metadata_props")  # paths of the source code
    return proto
