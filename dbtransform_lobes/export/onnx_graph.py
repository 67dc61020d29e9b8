"""A model as one graph of real arithmetic, for whole signals or for streams.

noisy (B, L)
  -> STFT by a convolution with cosines and sines   (B, T, F, 2)
  -> DBTransform                                    (B, T, F, 2)
  -> inverse STFT by a transposed convolution -> enhanced (B, L)

or the middle line alone. For a causal model also one call of a live stream,
what ``torch.export`` sees of its ``advance``: a frame and states in and out;
all shapes are fixed, states begin with zeros.
"""

import math

import torch
import torch.nn.functional as F
from onnx_ir.passes import common as passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import pattern
from onnxscript.rewriter.rules import common
from torch import nn

from dbtransform_lobes.models.chunks import Whole
from dbtransform_lobes.models.waveform import continued

OPSET = 23


def _moves_nothing(context, x, y, **_):
    """Whether a node of fixed shapes leaves its numbers in their order."""
    shapes = x.shape, y.shape
    if None in shapes or not all(shape.is_static() for shape in shapes):
        return False
    order = y.producer().attributes.get("perm")
    order = order.as_ints() if order else ()
    moved = [axis for axis in order if x.shape[axis] != 1]
    return moved == sorted(moved)


def _reshape(op, x, y, **_):
    """Give the numbers of x the shape of y."""
    return op.Reshape(x, op.Constant(value_ints=list(y.shape)))


def _as_reshape(target):
    """Return the rule that makes a node a Reshape, which the next absorbs."""
    return pattern.RewriteRule(target, _reshape, _moves_nothing)


# Fewer nodes for ONNX Runtime to call.
RULES = (
    common.no_op_cast_rule,
    common.no_op_expand_rule,
    common.no_op_transpose_rule,
    common.transpose_transpose_rule,
    common.reshape_reshape_rule,
    common.unsqueeze_unsqueeze_rule,
    common.slice_split_rule,
    _as_reshape(lambda op, x: op.Transpose(x, _outputs=["y"])),
    _as_reshape(lambda op, x, a: op.Squeeze(x, a, _outputs=["y"])),
    _as_reshape(lambda op, x, a: op.Unsqueeze(x, a, _outputs=["y"])),
)
CLEANERS = (
    passes.DeduplicateInitializersPass(),
    passes.CommonSubexpressionEliminationPass(),
    passes.ClearMetadataAndDocStringPass(),  # paths of the source code
)
LARGE = 2**24  # numbers of a constant, more than any weight has
COUNT = torch.zeros(1, dtype=torch.int64)  # of the frames of a new stream


class _Spectra(nn.Module):
    """DBTransform on real and imaginary parts, (B, T, F, 2) to the same."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, spec):
        return self.model.run(Whole(), spec)


def _fourier_rows(window):
    """Return rows (2 F, n_fft), real parts first, of DFT and inverse."""
    n_fft = len(window)
    bins = torch.arange(n_fft // 2 + 1)[:, None]
    turn = bins * torch.arange(n_fft) % n_fft  # exact, unlike large angles
    angle = turn.double() * (2 * math.pi / n_fft)
    rows = torch.cat((angle.cos(), -angle.sin())) * window.double()
    # All bins but the first and the last stand for two of the whole DFT.
    twice = torch.full((n_fft // 2 + 1, 1), 2.0, dtype=torch.float64)
    twice[0] = twice[-1] = 1.0
    inverse = rows * torch.cat((twice, twice)) / n_fft
    return rows.float(), inverse.float()


class _Waveforms(nn.Module):
    """DBTransform between STFT and inverse STFT, (B, L) to the same."""

    def __init__(self, model, window, hop_length):
        super().__init__()
        self.spectra, self.hop_length = _Spectra(model), hop_length
        forward, inverse = _fourier_rows(window)
        square = window.square()[None, None]
        self.register_buffer("forward_rows", forward.unsqueeze(1))
        self.register_buffer("inverse_rows", inverse.unsqueeze(1))
        self.register_buffer("window_square", square)

    def forward(self, noisy):
        half, hop = self.window_square.shape[-1] // 2, self.hop_length
        samples = noisy.shape[-1]
        # To whole hops, so that the end is not louder.
        end = (samples + hop - 1) // hop * hop - samples
        x = continued(noisy, half, half, half + end).unsqueeze(1)
        spec = F.conv1d(x, self.forward_rows, stride=hop)  # (B, 2 F, T)
        spec = spec.unflatten(1, (2, -1)).permute(0, 3, 2, 1)  # (B, T, F, 2)
        spec = self.spectra(spec)
        spec = spec.permute(0, 3, 2, 1).flatten(1, 2)  # (B, 2 F, T)
        x = F.conv_transpose1d(spec, self.inverse_rows, stride=hop)
        weight = F.conv_transpose1d(
            torch.ones_like(spec[:1, :1]), self.window_square, stride=hop
        )
        x, weight = (y[..., half : half + samples] for y in (x, weight))
        return (x / weight).squeeze(1)


def offline_model(model, stft=None):
    """Export a DBTransform for signals of any length, to a ModelProto.

    With ``stft``, a window (n_fft,) and a hop length, from ``noisy`` (B, L) to
    ``enhanced``; without it from ``spec`` (B, T, F, 2) to ``estimate``.
    """
    if stft is None:
        graph, axis = _Spectra(model), "frames"
        block = torch.randn(2, 20, model.layout.num_bins, 2)
    else:
        graph, axis = _Waveforms(model, *stft), "samples"
        block = torch.randn(2, 20 * stft[1])
    return _to_onnx(graph, stft, block, {}, ({0: "batch", 1: axis},))


class _SpectrumStream(nn.Module):
    """One call of a stream, on real and imaginary parts (1, 1, F, 2)."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        block = torch.zeros(1, 1, model.layout.num_bins, 2)
        with torch.no_grad():
            _, self.caches = model.advance(block, None, COUNT)

    def states(self):
        """Return zeros by name: the count of frames and all caches."""
        flat = [torch.zeros_like(x) for part in self.caches for x in part]
        caches = {f"cache_{number}": x for number, x in enumerate(flat)}
        return {"frames": COUNT.clone(), **caches}

    def forward(self, spec, frames, *caches):
        flat = iter(caches)
        nested = [tuple(next(flat) for _ in part) for part in self.caches]
        estimate, nested = self.model.advance(spec, nested, frames)
        following = [cache for part in nested for cache in part]
        return estimate, frames + 1, *following


class _WaveformStream(nn.Module):
    """One call of a stream, (1, hop) to the hop before; n_fft is two hops."""

    def __init__(self, model, window, hop_length):
        super().__init__()
        self.spectra, self.hop_length = _SpectrumStream(model), hop_length
        # (2 F, n_fft), real and imaginary parts of a bin side by side
        rows, inverse = (
            rows.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)
            for rows in _fourier_rows(window)
        )
        weight = window.square().unflatten(0, (2, hop_length)).sum(0)
        self.register_buffer("rows", rows.T)
        self.register_buffer("inverse_rows", inverse / weight.repeat(2))

    def states(self):
        """Return zeros by name, also of the last samples and the open half."""
        names, hop = ("past_noisy", "past_overlap"), self.hop_length
        past = {name: torch.zeros(1, hop) for name in names}
        return {**past, **self.spectra.states()}

    def forward(self, noisy, past, overlap, *states):
        spec = torch.cat((past, noisy), dim=1) @ self.rows
        spec, *states = self.spectra(spec.view(1, 1, -1, 2), *states)
        both = spec.flatten(1) @ self.inverse_rows
        first, second = both.split(self.hop_length, dim=1)
        return first + overlap, noisy.clone(), second, *states


def streaming_model(model, stft=None):
    """Export one call of a stream of a causal DBTransform, to a ModelProto.

    Inputs are ``spec`` (1, 1, F, 2), or with ``stft``, whose hop is half of
    n_fft, ``noisy`` (1, hop); ``frames``, int64, how many the stream had; the
    caches. Outputs are ``estimate`` or ``enhanced``, and the next states.
    """
    if stft is None:
        graph = _SpectrumStream(model)
        block = torch.randn(1, 1, model.layout.num_bins, 2)
    else:
        graph = _WaveformStream(model, *stft)
        block = torch.randn(1, stft[1])
    return _to_onnx(graph, stft, block, graph.states())


@torch.no_grad()
def _to_onnx(module, stft, block, states, dynamic_shapes=None):
    """Export a module of a spectrum or waveform and of states by name."""
    names = ("spec", "estimate") if stft is None else ("noisy", "enhanced")
    program = torch.onnx.export(
        module.eval(),
        (block, *states.values()),
        input_names=[names[0], *states],
        output_names=[names[1], *(f"next_{state}" for state in states)],
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
    for clean in CLEANERS:
        clean(program.model)
    proto = program.model_proto
    del proto.graph.value_info[:]  # shapes, which ONNX Runtime infers
    return proto
