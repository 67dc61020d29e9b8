"""A model as one graph of real arithmetic for signals of any length.

noisy (B, L)
  -> STFT by a convolution with cosines and sines   (B, T, F, 2)
  -> DBTransform                                    (B, T, F, 2)
  -> inverse STFT by a transposed convolution -> enhanced (B, L)

or the middle line alone.
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
    >>> from dbtransform_lobes.models.multi_scale_fusion import (
    ...     MultiScaleFusion,
    ... )
    >>> blocks = {"fusion": MultiScaleFusion}
    >>> graph = SpectrumGraph(DBTransform(BandLayout(), 8, blocks))
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
    >>> from dbtransform_lobes.models.multi_scale_fusion import (
    ...     MultiScaleFusion,
    ... )
    >>> blocks = {"fusion": MultiScaleFusion}
    >>> model = DBTransform(BandLayout(), 8, blocks)
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
