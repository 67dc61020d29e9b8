"""Frequency-adaptive multi-scale fusion: convolutions over time by band.

Source: DB-Transform proposal, "frequency-adaptive multi-scale fusion". The
window ranges are a heuristic prior inspired by modulation perception, not an
established fact.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

RANGES_HZ = (500.0, 2000.0, math.inf)
PRIORS = ((0.1, 0.3, 0.6), (0.3, 0.4, 0.3), (0.6, 0.3, 0.1))


def band_groups(centres):
    """Which frequency range each band belongs to: the bands of each range.

    Arguments
    ---------
    centres : sequence of float
        Centre frequencies in Hz, ascending.

    Returns
    -------
    list of slice
        One slice of bands for each of the three ranges.

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


class MultiScaleFusion(nn.Module):
    """Three convolutions of different length over time, blended by band.

    One convolution for each length, shared by all bands that use it. The
    blend softmax(w_k) starts at the prior exactly. Since a sum of linear maps
    is linear, the three kernels of a band are folded into one before they
    are applied, in training too. Output length = input length; the frames a
    kernel reaches back are at most one more than those it looks ahead.

    Arguments
    ---------
    num_channels : int
        C.
    centres : sequence of float
        Centre frequency of each band in Hz.
    windows : sequence of three sequences of three ints
        Kernel lengths in frames below 500 Hz, below 2000 Hz and above.
    separable : bool
        Depthwise convolutions and one pointwise map, instead of full ones.
    activation : bool
        SiLU on the blend (before the pointwise map).

    Raises
    ------
    ValueError
        If the windows are not three by three positive lengths.

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
        windows=((8, 16, 32), (4, 8, 16), (2, 4, 8)),
        separable=True,
        activation=False,
    ):
        super().__init__()
        self.windows = tuple(tuple(sizes) for sizes in windows)
        lengths = [size for sizes in self.windows for size in sizes]
        if [len(s) for s in self.windows] != [3, 3, 3] or min(lengths) < 1:
            raise ValueError(
                f"windows are {windows}, expected three positive kernel "
                f"lengths for each of the three frequency ranges"
            )
        self.groups = band_groups(centres)
        self.separable, self.activation = separable, activation
        fan_in = 1 if separable else num_channels
        self.kernels = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        used = {
            size
            for group, sizes in zip(self.groups, self.windows, strict=True)
            if group.start < group.stop
            for size in sizes
        }
        for size in sorted(used):
            bound = 1 / math.sqrt(fan_in * size)
            kernel = torch.empty(num_channels, fan_in, size)
            self.kernels[str(size)] = nn.Parameter(
                kernel.uniform_(-bound, bound)
            )
            self.biases[str(size)] = nn.Parameter(
                torch.empty(num_channels).uniform_(-bound, bound)
            )
        self.pointwise = (
            nn.Linear(num_channels, num_channels) if separable else None
        )
        prior = torch.cat(
            [
                torch.tensor(weights).expand(group.stop - group.start, 3)
                for group, weights in zip(self.groups, PRIORS, strict=True)
            ]
        )
        self.logits = nn.Parameter(prior.log())  # (K, 3)

    def fusion_weights(self):
        """The blend of every band, (K, 3): rows sum to 1."""
        return self.logits.softmax(-1)

    def fold(self, group, sizes):
        """One kernel and bias for each band of a group.

        Returns
        -------
        kernel : torch.Tensor
            (n, C, fan_in, S) with S the longest of the lengths.
        bias : torch.Tensor
            (n, C).
        """
        longest = max(sizes)
        aligned = []
        for size in sizes:
            # Tap 0 of each kernel reaches size // 2 frames back.
            left = longest // 2 - size // 2
            pad = (left, longest - size - left)
            aligned.append(F.pad(self.kernels[str(size)], pad))
        blend = self.fusion_weights()[group]
        biases = torch.stack([self.biases[str(size)] for size in sizes])
        kernel = torch.einsum("ns,scit->ncit", blend, torch.stack(aligned))
        return kernel, blend @ biases

    def _convolve(self, x, kernel, bias):
        """Convolve (n, B, T, C) with a kernel of each band's own."""
        bands, batch, frames, channels = x.shape
        size = kernel.shape[-1]
        x = x.permute(1, 0, 3, 2).reshape(batch, bands * channels, frames)
        x = F.pad(x, (size // 2, size - 1 - size // 2))
        groups = bands * channels if self.separable else bands
        x = F.conv1d(x, kernel.flatten(0, 1), bias.flatten(), groups=groups)
        x = x.view(batch, bands, channels, frames)
        return x.permute(1, 0, 3, 2)  # (n, B, T, C)

    def forward(self, x):
        """Map (K, B, T, C) to (K, B, T, C)."""
        out = []
        for group, sizes in zip(self.groups, self.windows, strict=True):
            if group.start < group.stop:
                out.append(self._convolve(x[group], *self.fold(group, sizes)))
        x = torch.cat(out)
        if self.activation:
            x = F.silu(x)
        return x if self.pointwise is None else self.pointwise(x)
