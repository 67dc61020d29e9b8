"""Linear maps and norms over channels, with weights per band or shared."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.compose import check_choice

FEW_ROWS = 300


def _pointwise(x, weight, bias):
    """Map (K, B, T, in) to (K, B, T, out) as F.linear, as fast as a CPU can.

    On the CPU torch maps float32 by MKL but convolves by oneDNN, which was
    measured to be twice as fast where MKL does not use AVX-512, and slower
    on the few rows of a live stream.
    """
    if (
        torch.compiler.is_exporting()
        or x[..., 0].numel() < FEW_ROWS
        or x.device.type != "cpu"
        or x.dtype == torch.float64
    ):
        return F.linear(x, weight, bias)
    x = x.permute(0, 3, 1, 2)  # (K, in, B, T), channels last in memory
    x = F.conv2d(x, weight[:, :, None, None], bias)
    return x.permute(0, 2, 3, 1)


class BandLinear(nn.Module):
    """An affine map of the channels of every band, as one batched product.

    Arguments
    ---------
    in_features : int
        Channels in.
    out_features : int
        Channels out.
    num_bands : int | None
        K for own weights in every band; None for weights shared by all.

    Example
    -------
    >>> x = torch.randn(31, 2, 10, 8)  # (K, B, T, C)
    >>> BandLinear(8, 6, num_bands=31)(x).shape
    torch.Size([31, 2, 10, 6])
    """

    def __init__(self, in_features, out_features, num_bands=None):
        super().__init__()
        self.num_bands = num_bands
        lead = () if num_bands is None else (num_bands,)
        bound = 1 / math.sqrt(in_features)
        weight = torch.empty(*lead, out_features, in_features)
        bias = torch.empty(*lead, out_features)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))
        self.bias = nn.Parameter(bias.uniform_(-bound, bound))

    def forward(self, x):
        """Map (K, B, T, in_features) to (K, B, T, out_features).

        With weights of every band (K, B T, in_features) will do.
        """
        if self.num_bands is None:
            return _pointwise(x, self.weight, self.bias)
        rows = x if x.dim() == 3 else x.flatten(1, 2)
        bias = self.bias.unsqueeze(1)
        out = torch.baddbmm(bias, rows, self.weight.transpose(1, 2))
        return out if x.dim() == 3 else out.unflatten(1, x.shape[1:3])

    def split(self, x, sizes):
        """Map (K, B, T, in_features) to parts (K, B, T, size) of given sizes.

        They are views of one product. ONNX has no views, a part would be a
        copy: in an exported graph each is a product of its own.

        Example
        -------
        >>> linear, x = BandLinear(8, 6), torch.randn(31, 2, 10, 8)
        >>> [part.shape[-1] for part in linear.split(x, [4, 2])]
        [4, 2]
        """
        if not torch.compiler.is_exporting() or self.num_bands is not None:
            return self(x).split(sizes, dim=-1)
        # Slices, as exporters fold no split of a constant.
        ends = itertools.accumulate(sizes)
        rows = [slice(e - n, e) for e, n in zip(ends, sizes, strict=True)]
        return [_pointwise(x, self.weight[r], self.bias[r]) for r in rows]


class BandNorm(nn.Module):
    """Normalisation of the channels of a band.

    ``group`` is GroupNorm(1, C): mean and variance over the channels and
    frames of a band, so level differences between frames survive. ``frame``
    is LayerNorm: over the channels of each frame, as a causal model needs.

    Arguments
    ---------
    num_channels : int
        C.
    kind : str
        "group" or "frame".
    num_bands : int
        K, needed for ``per_band``.
    per_band : bool
        Whether every band has a gain and bias of its own.

    Example
    -------
    >>> BandNorm(8, "group")(torch.randn(31, 2, 10, 8)).shape
    torch.Size([31, 2, 10, 8])
    """

    eps = 1e-5  # added to the variance

    def __init__(
        self, num_channels, kind="frame", num_bands=None, per_band=False
    ):
        super().__init__()
        check_choice("norm", kind, ("group", "frame"))
        self.kind = kind
        self.ahead = None if kind == "group" else 0  # None: all frames
        # Those of every band broadcast over batch and frames.
        lead = (num_bands, 1, 1) if per_band and num_bands else ()
        shape = (*lead, num_channels)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        """Normalise (K, B, T, C)."""
        if self.kind == "frame" and self.weight.dim() == 1:
            shape = x.shape[-1:]
            return F.layer_norm(x, shape, self.weight, self.bias, self.eps)
        shape = x.shape[-1:] if self.kind == "frame" else x.shape[-2:]
        x = F.layer_norm(x, shape, eps=self.eps)
        return torch.addcmul(self.bias, x, self.weight)
