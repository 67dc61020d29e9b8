"""Gated feed-forward part (SwiGLU; Shazeer, 2020, arXiv:2002.05202, eq. 6)."""

import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear
from dbtransform_lobes.models.compose import hidden_channels


class FeedForward(nn.Module):
    """(silu(x W_1) * x W_2) W_3 on the channels of each band and frame.

    Arguments
    ---------
    num_channels : int
        C.
    expansion : float
        Hidden channels over C.
    num_bands : int
        K, needed for ``per_band``.
    per_band : bool
        Whether every band has weights of its own.

    Example
    -------
    >>> import torch
    >>> FeedForward(8, 2)(torch.randn(31, 2, 10, 8)).shape
    torch.Size([31, 2, 10, 8])
    """

    def __init__(
        self, num_channels, expansion=2, num_bands=None, per_band=False
    ):
        super().__init__()
        num_bands = num_bands if per_band else None
        hidden = hidden_channels("feed-forward", expansion, num_channels)
        self.expand = BandLinear(num_channels, 2 * hidden, num_bands)
        self.reduce = BandLinear(hidden, num_channels, num_bands)

    def forward(self, x):
        """Map (K, B, T, C) to (K, B, T, C)."""
        gate, value = self.expand.split(x, [self.reduce.weight.shape[-1]] * 2)
        return self.reduce(F.silu(gate) * value)
