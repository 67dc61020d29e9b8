"""Mask decoder: a complex filter of three taps for every bin.

Source: mask estimation of Band-Split RNN (Luo & Yu, 2023, arXiv:2209.15174),
section III-C; filter over neighbouring frames as in deep filtering (Mack &
Habets, 2020, arXiv:1904.08369).
"""

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear, BandNorm
from dbtransform_lobes.models.chunks import TimeBlock
from dbtransform_lobes.models.compose import (
    build,
    check_choice,
    hidden_channels,
)

NUM_TAPS = 3
ACTIVATIONS = {"tanh": torch.tanh, "silu": F.silu}


class Neighbours(TimeBlock):
    """Give every frame those that the taps of its mask reach.

    These are t-1, t, t+1, or t-2, t-1, t if causal.

    Example
    -------
    >>> Neighbours()(torch.randn(1, 4, 257, 2)).shape
    torch.Size([1, 6, 257, 2])
    """

    def __init__(self, causal=False):
        super().__init__()
        self.ahead = 0 if causal else NUM_TAPS // 2
        self.back = NUM_TAPS - 1 - self.ahead

    def prepare(self, x, first=0):
        """Return the number of frames, and bins (B, T, F, 2) as (B, T, 2 F)."""
        return x.shape[1], (x.flatten(2),)

    def combine(self, own, shared, start=0):
        """Return bins (B, T + 2, F, 2), zero outside of the signal."""
        (bins,) = shared
        missing = start + own + self.ahead - bins.shape[1]
        if start < self.back or missing > 0:
            pad = (0, 0, max(self.back - start, 0), max(missing, 0))
            bins = F.pad(bins, pad)
        return bins[:, max(start - self.back, 0) :].unflatten(-1, (-1, 2))


def apply_filter(taps, bins):
    """Filter every bin along time: Y[t,f] = sum_tau M[t,f,tau] X[t+tau,f].

    ``taps`` are real and imaginary parts of M (B, T, F, 3, 2), ``bins`` those
    of X (B, T + 2, F, 2), see ``Neighbours``; returned are those of Y
    (B, T, F, 2). Computed in fp32.

    Example
    -------
    >>> bins, taps = torch.randn(1, 4, 5, 2), torch.zeros(1, 4, 5, 3, 2)
    >>> taps[..., 1, 0] = 1  # the real part of the tap at t
    >>> torch.equal(apply_filter(taps, Neighbours()(bins)), bins)
    True
    """
    frames = taps.shape[1]
    seen = [bins[:, tap : tap + frames] for tap in range(NUM_TAPS)]
    if torch.compiler.is_compiling():  # or exporting: few nodes, none complex
        real, imag = torch.stack(seen).movedim(-1, 0)  # (3, B, T, F)
        gain, turn = taps.permute(4, 3, 0, 1, 2)
        parts = gain * real - turn * imag, gain * imag + turn * real
        return torch.stack([part.sum(0) for part in parts], dim=-1)
    # A quarter of the time of real arithmetic.
    products = [
        torch.view_as_complex(tap) * torch.view_as_complex(x)
        for tap, x in zip(taps.unbind(-2), seen, strict=True)
    ]
    return torch.view_as_real(sum(products))


class MaskDecoder(nn.Module):
    """norm, Linear(C, e C), activation, Linear(e C, 12 w_k), GLU, per band.

    A ValueError tells of an unknown activation and of no hidden channel.

    Arguments
    ---------
    layout : BandLayout
        The bands.
    num_channels : int
        C.
    expansion : float
        e; 4 in the proposal, where this part is most of the parameters.
    norm : callable
        Factory of a norm, such as ``BandNorm``; its weights are each band's
        own if it can have such.
    causal : bool
        Whether the taps are t-2, t-1, t in place of t-1, t, t+1.
    activation : str
        "tanh" (the proposal), or "silu", which cannot saturate.

    Example
    -------
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> decoder = MaskDecoder(BandLayout(), num_channels=8)
    >>> decoder(torch.randn(31, 2, 10, 8)).shape
    torch.Size([2, 10, 257, 3, 2])
    """

    def __init__(
        self,
        layout,
        num_channels,
        expansion=2,
        norm=BandNorm,
        causal=False,
        activation="tanh",
    ):
        super().__init__()
        check_choice("decoder activation", activation, ACTIVATIONS)
        self.activation = activation
        self.layout = layout
        self.centre = NUM_TAPS - 1 if causal else NUM_TAPS // 2
        hidden = hidden_channels("decoder", expansion, num_channels)
        self.norm = build(
            norm,
            num_channels=num_channels,
            num_bands=layout.num_bands,
            per_band=True,
        )
        self.expand = BandLinear(num_channels, hidden, layout.num_bands)
        # Twice (re, im) of each tap: one half gates the other.
        self.heads = nn.ModuleList(
            BandLinear(hidden, 4 * NUM_TAPS * run.width, run.num_bands)
            for run in layout.runs
        )
        self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self):
        """Start near Y = X: the real part of the tap at t is near 1."""
        for head in self.heads:
            head.bias.zero_()
            values, _ = head.bias.chunk(2, dim=-1)
            # sigmoid(0) = 1/2 gates the value 2.
            taps = values.view(*values.shape[:-1], -1, NUM_TAPS, 2)
            taps[..., self.centre, 0] = 2.0

    def forward(self, z):
        """Map (K, B, T, C) to taps (B, T, F, 3, 2), complex as pairs."""
        batch, frames = z.shape[1:3]
        z = self.expand(self.norm(z).flatten(1, 2))  # (K, B T, e C)
        z = ACTIVATIONS[self.activation](z)
        runs, pairs = self.layout.runs, []
        parts = z.split([run.num_bands for run in runs])
        for head, part in zip(self.heads, parts, strict=True):
            pair = head(part).unflatten(-1, (2, -1))  # (n, B T, 2, 6 w)
            pairs.append(pair.permute(2, 1, 0, 3).flatten(2))
        values, gates = torch.cat(pairs, dim=-1).chunk(2)
        taps = values * torch.sigmoid(gates)
        taps = taps.to(torch.promote_types(taps.dtype, torch.float32))
        return taps.view(batch, frames, -1, NUM_TAPS, 2)
