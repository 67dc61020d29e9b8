"""Frequency-adaptive multi-scale fusion: convolutions over time by band.

Source: DB-Transform proposal, "frequency-adaptive multi-scale fusion". The
window ranges are a heuristic prior inspired by modulation perception, not an
established fact.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear
from dbtransform_lobes.models.chunks import TimeBlock
from dbtransform_lobes.models.compose import check_choice

RANGES_HZ = (500.0, 2000.0, math.inf)
FORMS = ("static", "adaptive", "uniform")
PRIORS = ((0.1, 0.3, 0.6), (0.3, 0.4, 0.3), (0.6, 0.3, 0.1))


def band_groups(centres):
    """Return the slice of bands of each of the three frequency ranges.

    Centre frequencies are in Hz, ascending.

    Example
    -------
    >>> band_groups([100.0, 400.0, 900.0, 3000.0])
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    groups, first = [], 0
    for limit in RANGES_HZ:
        last = sum(centre < limit for centre in centres)
        groups.append(slice(first, last))
        first = last
    return groups


class AdaptiveBlend(nn.Module):
    """Blend weights that follow the signal.

    alpha = softmax(Linear([mean over time, std over time, band embedding])),
    returned is b alpha + (1 - b) softmax(w_k) with b = sigmoid of one learned
    number for each band.

    Example
    -------
    >>> x, weights = torch.randn(3, 2, 10, 8), torch.full((3, 3), 1 / 3)
    >>> AdaptiveBlend(8, num_bands=3)(x, weights).shape
    torch.Size([3, 2, 3])
    """

    def __init__(self, num_channels, num_bands, embedding_size=8):
        super().__init__()
        self.embedding = nn.Parameter(
            0.1 * torch.randn(num_bands, embedding_size)
        )
        self.linear = nn.Linear(2 * num_channels + embedding_size, 3)
        self.logit = nn.Parameter(torch.zeros(num_bands, 1, 1))

    def forward(self, x, weights):
        """Map (K, B, T, C) and static weights (K, 3) to (K, B, 3)."""
        mean = x.mean(2)  # (K, B, C)
        spread = ((x - mean.unsqueeze(2)).square().mean(2) + 1e-8).sqrt()
        band = self.embedding.unsqueeze(1).expand(-1, x.shape[1], -1)
        features = torch.cat((mean, spread, band), dim=-1)
        alpha = self.linear(features).softmax(-1)
        share = self.logit.sigmoid()
        return share * alpha + (1 - share) * weights.unsqueeze(1)


class MultiScaleFusion(TimeBlock):
    """Three convolutions of different length over time, blended by band.

    One convolution for each length, shared by all bands that use it. The
    blend softmax(w_k) starts at the prior exactly. Since a sum of linear maps
    is linear, the three kernels of a band are folded into one before they
    are applied, in training too. Output length = input length; the frames a
    kernel reaches back are at most one more than those it looks ahead. A
    ValueError tells of windows that are not three by three positive lengths,
    of an unknown form, and of an adaptive blend that is to be causal.

    Arguments
    ---------
    num_channels : int
        C.
    centres : sequence of float
        Centre frequency of each band in Hz.
    form : str
        "static": a blend learned for each band; "adaptive": see
        ``AdaptiveBlend``; "uniform": the middle windows and prior for every
        band (a control).
    windows : sequence of three sequences of three ints
        Kernel lengths in frames below 500 Hz, below 2000 Hz and above.
    separable : bool
        Depthwise convolutions and one pointwise map, instead of full ones.
    activation : bool
        SiLU on the blend (before the pointwise map).
    causal : bool
        Whether kernels look back only.

    Example
    -------
    >>> fusion = MultiScaleFusion(8, centres=[100.0, 900.0, 3000.0])
    >>> fusion(torch.randn(3, 2, 10, 8)).shape
    torch.Size([3, 2, 10, 8])
    """

    def __init__(
        self,
        num_channels,
        centres,
        form="static",
        windows=((8, 16, 32), (4, 8, 16), (2, 4, 8)),
        separable=True,
        activation=False,
        causal=False,
    ):
        super().__init__()
        self.windows, self.priors = _scales(form, windows, causal)
        self.groups = band_groups(centres)
        self.causal, self.num_channels = causal, num_channels
        self.separable, self.activation = separable, activation
        self.kernels, self.biases = self._make_kernels()
        self.pointwise = (
            BandLinear(num_channels, num_channels) if separable else None
        )
        longest = max(int(size) for size in self.kernels)
        self.back = self._reach_back(longest)
        self.ahead = longest - 1 - self.back
        self.logits = nn.Parameter(self.prior().log())  # (K, 3)
        self.adaptive = None
        if form == "adaptive":
            self.adaptive = AdaptiveBlend(num_channels, len(centres))
            self.back = self.ahead = None

    def _make_kernels(self):
        """One kernel and bias of each length that some band uses."""
        used = {
            size
            for group, sizes in zip(self.groups, self.windows, strict=True)
            if group.start < group.stop
            for size in sizes
        }
        fan_in = 1 if self.separable else self.num_channels
        kernels, biases = nn.ParameterDict(), nn.ParameterDict()
        for size in sorted(used):
            bound = 1 / math.sqrt(fan_in * size)
            kernel = torch.empty(self.num_channels, fan_in, size)
            bias = torch.empty(self.num_channels)
            kernels[str(size)] = nn.Parameter(kernel.uniform_(-bound, bound))
            biases[str(size)] = nn.Parameter(bias.uniform_(-bound, bound))
        return kernels, biases

    def learned(self):
        """Report the static blend (K, 3), see ``DBTransform.analyse``."""
        return {"fusion_weights": self.fusion_weights().detach()}

    def fusion_weights(self):
        """The static blend of every band, (K, 3): rows sum to 1."""
        return self.logits.softmax(-1)

    def prior(self):
        """The blend that training began with, (K, 3): rows sum to 1."""
        weights = []
        for group, prior in zip(self.groups, self.priors, strict=True):
            weights += [prior] * (group.stop - group.start)
        return torch.tensor(weights)

    def _reach_back(self, size):
        """Frames that a kernel of this length reaches back."""
        return size - 1 if self.causal else size // 2

    def fold(self, blend, sizes):
        """Fold the convolutions of three lengths into one for each blend.

        Maps the blends (n, 3) to kernels (n, C, fan_in, S) with S the longest
        of the lengths, and biases (n, C).
        """
        longest = max(sizes)
        aligned = []
        for size in sizes:
            left = self._reach_back(longest) - self._reach_back(size)
            pad = (left, longest - size - left)
            aligned.append(F.pad(self.kernels[str(size)], pad))
        biases = torch.stack([self.biases[str(size)] for size in sizes])
        kernel = torch.einsum("ns,scit->ncit", blend, torch.stack(aligned))
        return kernel, blend @ biases

    def _convolve(self, x, kernel, bias, frames):
        """Convolve (n, B, N, C) with kernels of the bands, at some frames."""
        bands, batch, total, channels = x.shape
        size = kernel.shape[-1]
        first = frames.start - self._reach_back(size)
        last = first + frames.stop - frames.start + size - 1
        if first > 0 or last < total:  # a slice costs a copy in training
            x = x[:, :, max(first, 0) : last]
        ends = max(-first, 0), max(last - total, 0)
        if x.device.type == "cpu" and not self.separable and _in_bf16(x):
            return _product(F.pad(x, (0, 0, *ends)), kernel, bias)
        x = _swap_pairs(x).reshape(batch, bands * channels, -1)
        kernel, bias = kernel.flatten(0, 1), bias.flatten()
        groups = bands * channels if self.separable else bands
        x = F.conv1d(F.pad(x, ends), kernel, bias, groups=groups)
        return _swap_pairs(x.unflatten(1, (bands, channels)))  # (n, B, T, C)

    def _blended(self, x, blend, sizes, frames):
        """The three convolutions of a group, blended by band (and item)."""
        if blend.dim() == 2:
            return self._convolve(x, *self.fold(blend, sizes), frames)
        total = 0
        each = torch.eye(3, device=x.device, dtype=blend.dtype)
        for one, weight in zip(each, blend.unbind(-1), strict=True):
            part = self.fold(one.expand(x.shape[0], 3), sizes)
            part = self._convolve(x, *part, frames)
            total = total + weight[..., None, None] * part
        return total

    def _last_frame(self, x, groups):
        """The same for one frame of a stream: a product, no convolution."""
        folded = [self.fold(blend, sizes) for blend, sizes in groups]
        size = x.shape[2]
        kernels = torch.cat(
            [F.pad(kernel, (size, 0))[..., -size:] for kernel, _ in folded]
        )  # (K, C, 1, N)
        biases = torch.cat([bias for _, bias in folded])
        out = (x * kernels.transpose(1, 3).squeeze(2).unsqueeze(1)).sum(2)
        return (out + biases.unsqueeze(1)).unsqueeze(2)

    def prepare(self, x, first=0):
        """Return the number of frames and the frames, see ``TimeBlock``."""
        return x.shape[2], (x,)

    def combine(self, own, shared, start=0):
        """Convolve and blend, see ``TimeBlock``."""
        (x,), frames = shared, slice(start, start + own)
        blend = self.fusion_weights()
        if self.adaptive is not None:
            blend = self.adaptive(x, blend)  # (K, B, 3)
        counts = [group.stop - group.start for group in self.groups]
        parts = zip(
            x.split(counts), blend.split(counts), self.windows, strict=True
        )
        parts = [part for part in parts if len(part[0])]
        if own == 1 and self.causal and self.separable:
            out = self._last_frame(x, [part[1:] for part in parts])
        else:
            out = torch.cat([self._blended(*part, frames) for part in parts])
        if self.activation:
            out = F.silu(out)
        return out if self.pointwise is None else self.pointwise(out)


def _swap_pairs(x):
    """Swap the first two axes and the last two of (n, B, T, C).

    In two steps for ONNX Runtime, which moves one axis 10 times as fast. It
    would make them one step without the reshape between.
    """
    if torch.compiler.is_exporting():
        lead = x.shape[:2]
        x = x.flatten(0, 1).mT.unflatten(0, lead)
        return x.transpose(0, 1)
    return x.permute(1, 0, 3, 2)


def _in_bf16(x):
    """Whether maps of a tensor on the CPU are computed in bf16."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == torch.bfloat16


def _product(x, kernel, bias):
    """Convolve (n, B, N, C) with kernels (n, C, C, S) as a matrix product.

    On CPUs with AMX, convolutions in groups were 23 % off in bf16.
    """
    size = kernel.shape[-1]
    frames = x.shape[2] - size + 1
    x = x.to(torch.bfloat16)  # before it is copied
    taps = [x[:, :, first : first + frames] for first in range(size)]
    x = torch.cat(taps, dim=-1)  # (n, B, T, S C)
    kernel = kernel.permute(0, 3, 2, 1).flatten(1, 2)  # (n, S C, C)
    out = torch.baddbmm(bias.unsqueeze(1), x.flatten(1, 2), kernel)
    return out.unflatten(1, x.shape[1:3])


def _scales(form, windows, causal):
    """Windows and priors of the three frequency ranges."""
    check_choice("fusion", form, FORMS)
    if form == "adaptive" and causal:
        raise ValueError(
            "fusion 'adaptive' looks at all frames: use 'static' for a "
            "causal model"
        )
    windows = tuple(tuple(sizes) for sizes in windows)
    lengths = [size for sizes in windows for size in sizes]
    if [len(s) for s in windows] != [3, 3, 3] or min(lengths) < 1:
        raise ValueError(
            f"windows are {windows}, expected three positive kernel "
            f"lengths for each of the three frequency ranges"
        )
    if form == "uniform":
        return (windows[1],) * 3, (PRIORS[1],) * 3
    return windows, PRIORS
