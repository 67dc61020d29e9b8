"""Mask decoder: a complex filter of three taps for every bin.

Source: mask estimation of Band-Split RNN (Luo & Yu, 2023, arXiv:2209.15174),
section III-C; filter over neighbouring frames as in deep filtering (Mack &
Habets, 2020, arXiv:1904.08369).
"""

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear, BandNorm
from dbtransform_lobes.models.compose import build

NUM_TAPS = 3
ACTIVATIONS = {"tanh": torch.tanh, "silu": F.silu}


def apply_filter(mask, spec, causal=False, first=0):
    """Filter every bin along time: Y[f,t] = sum_tau M[f,t,tau] X[f,t+tau].

    Computed in fp32 and in real arithmetic.

    Arguments
    ---------
    mask : torch.Tensor
        Complex (B, F, T, 3): the taps at t-1, t, t+1, or t-2, t-1, t.
    spec : torch.Tensor
        Complex (B, F, N), N >= first + T, zero outside.
    causal : bool
        Whether the last tap is t.
    first : int
        Frame of the spectrum at which the first mask stands.

    Returns
    -------
    torch.Tensor
        Complex (B, F, T).

    Example
    -------
    >>> spec = torch.randn(1, 5, 4, dtype=torch.complex64)
    >>> mask = torch.zeros(1, 5, 2, 3, dtype=torch.complex64)
    >>> mask[..., 1] = 1
    >>> torch.equal(apply_filter(mask, spec, first=2), spec[..., 2:])
    True
    """
    frames = mask.shape[2]
    begin = first - (NUM_TAPS - 1 if causal else NUM_TAPS // 2)
    end = begin + frames + NUM_TAPS - 1
    pad = (max(-begin, 0), max(end - spec.shape[-1], 0))
    spec = spec[..., max(begin, 0) : end]
    real, imag = (
        F.pad(part, pad).unfold(-1, frames, 1)  # (B, F, 3, T)
        for part in (spec.real, spec.imag)
    )
    mask = torch.view_as_real(mask).permute(0, 1, 3, 2, 4)  # (B, F, 3, T, 2)
    gain, turn = mask.unbind(-1)
    return torch.complex(
        (gain * real - turn * imag).sum(2),
        (gain * imag + turn * real).sum(2),
    )


class MaskDecoder(nn.Module):
    """norm, Linear(C, e C), activation, Linear(e C, 12 w_k), GLU, per band.

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

    Raises
    ------
    ValueError
        If the activation is unknown or there would be no hidden channel.

    Example
    -------
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> decoder = MaskDecoder(BandLayout(), num_channels=8)
    >>> decoder(torch.randn(31, 2, 10, 8)).shape
    torch.Size([2, 257, 10, 3])
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
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"decoder activation is {activation!r}, expected one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        self.activation = activation
        self.layout = layout
        self.centre = NUM_TAPS - 1 if causal else NUM_TAPS // 2
        hidden = int(expansion * num_channels)
        if hidden < 1:
            raise ValueError(
                f"decoder expansion is {expansion}, expected at least "
                f"1 / num_channels = 1 / {num_channels}"
            )
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
        """Map (K, B, T, C) to a complex mask (B, F, T, 3)."""
        return torch.view_as_complex(self.taps(z).transpose(1, 2))

    def taps(self, z):
        """The mask as real and imaginary parts (B, T, F, 3, 2)."""
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
