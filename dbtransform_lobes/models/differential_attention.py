"""Differential attention over time, one band at a time.

Source: Differential Transformer (Ye et al., 2024, arXiv:2410.05258), eq. 1-3;
rotary positions: RoFormer (Su et al., 2021, arXiv:2104.09864), eq. 34.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear

LAMBDAS = ("token", "statistics")
BAND_WEIGHTS = ("shared", "per_band")


def rotate(x, base=10000.0):
    """Rotary positions: pair (i, i + d/2) turns by t base^(-2 i / d).

    Arguments
    ---------
    x : torch.Tensor
        (..., T, H, d) with even d.
    base : float
        Longest period in radians per frame.

    Returns
    -------
    torch.Tensor
        (..., T, H, d).

    Example
    -------
    >>> x = torch.randn(2, 5, 4, 8)
    >>> torch.allclose(rotate(x)[:, 0], x[:, 0])  # frame 0 does not turn
    True
    """
    frames, half = x.shape[-3], x.shape[-1] // 2
    # Angles in fp32 at least: they are large, whatever the precision of x.
    dtype = torch.promote_types(x.dtype, torch.float32)
    count = torch.arange(max(frames, half), dtype=dtype, device=x.device)
    speed = base ** (-count[:half] / half)
    angle = count[:frames, None, None] * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat(
        (left * cos - right * sin, left * sin + right * cos), dim=-1
    )


def window_mask(queries, keys, window):
    """Additive mask, 0 where a key lies within the window of a query.

    Arguments
    ---------
    queries : torch.Tensor
        Frame numbers of the queries, (Q,).
    keys : torch.Tensor
        Frame numbers of the keys, (N,).
    window : int
        Frames attended on each side.

    Returns
    -------
    torch.Tensor
        (Q, N), 0 or -inf. Additive, because a boolean mask is turned into
        one by every call.

    Example
    -------
    >>> window_mask(torch.arange(2), torch.arange(3), 1)
    tensor([[0., 0., -inf],
            [0., 0., 0.]])
    """
    far = (queries[:, None] - keys).abs() > window
    return torch.zeros(far.shape, device=far.device).masked_fill(far, -math.inf)


def windowed_attention(query, key, value, window=None):
    """Scaled dot-product attention to at most ``window`` frames each side.

    Cost and memory grow linearly with T when a window is given: blocks of
    2 ``window`` queries see the keys they can reach and no others.

    Arguments
    ---------
    query, key, value : torch.Tensor
        (N, H, T, d).
    window : int | None
        Frames attended on each side; None attends to all.

    Returns
    -------
    torch.Tensor
        (N, H, T, d).

    Example
    -------
    >>> q, k, v = torch.randn(3, 2, 4, 50, 8)
    >>> windowed_attention(q, k, v, window=7).shape
    torch.Size([2, 4, 50, 8])
    """
    frames = query.shape[-2]
    if window is None or frames <= window + 1:
        return F.scaled_dot_product_attention(query, key, value)
    block = 2 * window
    # A last block that is all reach would be a call for a few rows.
    starts = range(0, max(frames - window, 1), block)
    position = torch.arange(frames, device=query.device)
    blocks = []
    for start in starts:
        stop = frames if start == starts[-1] else start + block
        reach = slice(max(start - window, 0), min(stop + window, frames))
        mask = window_mask(position[start:stop], position[reach], window)
        blocks.append(
            F.scaled_dot_product_attention(
                query[..., start:stop, :],
                key[..., reach, :],
                value[..., reach, :],
                attn_mask=mask.to(query.dtype),
            )
        )
    return torch.cat(blocks, dim=-2)


class MapStatistics(nn.Module):
    """lambda_k = sigmoid(MLP_k(mean, std, max, min of A1 and of A2)).

    The statistics and A_i V are gathered block by block of query rows: rows
    are complete within a block, so no T x T map is ever held.

    Arguments
    ---------
    num_bands : int
        K; the MLP 8 -> 16 -> 1 is each band's own.
    block : int
        Query rows per block.
    """

    def __init__(self, num_bands, block=128):
        super().__init__()
        self.block = block
        self.hidden = BandLinear(8, 16, num_bands)
        self.output = BandLinear(16, 1, num_bands)

    def attend(self, query, key, value):
        """Return A V (N, H, T, d) and the four statistics (N, H, 4)."""
        frames, scale = query.shape[-2], query.shape[-1] ** -0.5
        outputs, squares, highs, lows = [], [], [], []
        for rows in query.split(self.block, dim=-2):
            attention = (rows * scale @ key.transpose(-1, -2)).softmax(-1)
            outputs.append(attention @ value)
            # The mean of a softmax row is 1/T by construction.
            squares.append((attention - 1 / frames).square().sum((-1, -2)))
            highs.append(attention.amax((-1, -2)))
            lows.append(attention.amin((-1, -2)))
        # A map of one entry has no spread, and sqrt no gradient there.
        spread = torch.stack(squares).sum(0) / frames**2
        statistics = torch.stack(
            (
                torch.full_like(spread, 1 / frames),
                (spread + 1e-12).sqrt(),
                torch.stack(highs).amax(0),
                torch.stack(lows).amin(0),
            ),
            dim=-1,
        )
        return torch.cat(outputs, dim=-2), statistics

    def forward(self, statistics):
        """Map (K, B, H, 8) to lambda (K, B, H)."""
        return torch.sigmoid(
            self.output(torch.relu(self.hidden(statistics)))
        ).squeeze(-1)


class DifferentialBandAttention(nn.Module):
    """concat_h((A1 - lambda A2) V) W_o with A_i = softmax(Q_i K_i^T / sqrt d).

    The channels of Q and K are split in two halves that give the two maps;
    each half has H heads of d = C / H / 2 channels, V has C / 2 channels.

    Arguments
    ---------
    num_channels : int
        C.
    num_heads : int
        H.
    num_bands : int
        K.
    lambda_form : str
        "token": lambda = sigmoid(x W_lambda + b_k) per frame and head;
        "statistics": from statistics of both maps, see ``MapStatistics``.
    band_weights : str
        "shared" (with a band embedding added to x) or "per_band".
    rope : bool
        Rotary positions on Q and K.
    window : int | None
        Frames attended on each side; None attends to all.

    Raises
    ------
    ValueError
        If C is not a multiple of 2 H, d is odd with rotary positions, a name
        is unknown, or "statistics" is given a window.

    Example
    -------
    >>> attention = DifferentialBandAttention(32, num_heads=2, num_bands=31)
    >>> attention(torch.randn(31, 2, 10, 32)).shape
    torch.Size([31, 2, 10, 32])
    """

    def __init__(
        self,
        num_channels,
        num_heads,
        num_bands,
        lambda_form="token",
        band_weights="shared",
        rope=True,
        window=None,
    ):
        super().__init__()
        if band_weights not in BAND_WEIGHTS:
            raise ValueError(
                f"band_weights is {band_weights!r}, expected 'shared' or "
                f"'per_band'"
            )
        self._check(num_channels, num_heads, lambda_form, rope, window)
        own = num_bands if band_weights == "per_band" else None
        self.num_heads, self.rope, self.window = num_heads, rope, window
        self.sizes = [num_channels, num_channels, num_channels // 2]
        self.embedding = None
        if own is None:
            self.embedding = nn.Parameter(
                0.02 * torch.randn(num_bands, 1, 1, num_channels)
            )
        self.statistics = self.offset = None
        if lambda_form == "statistics":
            self.statistics = MapStatistics(num_bands)
        else:
            # W_lambda rides on the same product as W_q, W_k and W_v.
            self.sizes.append(num_heads)
            self.offset = nn.Parameter(torch.zeros(num_bands, 1, 1, num_heads))
        self.project = BandLinear(num_channels, sum(self.sizes), own)
        self.output = BandLinear(num_channels // 2, num_channels, own)

    @staticmethod
    def _check(num_channels, num_heads, lambda_form, rope, window):
        if num_heads < 1:
            raise ValueError(f"num_heads is {num_heads}, expected at least 1")
        size = num_channels // (2 * num_heads)
        if num_channels % (2 * num_heads):
            raise ValueError(
                f"num_channels is {num_channels}, expected a multiple of "
                f"2 num_heads = {2 * num_heads}"
            )
        if rope and size % 2:
            raise ValueError(
                f"rotary positions need an even head size, given "
                f"num_channels / num_heads / 2 = {size}"
            )
        if lambda_form not in LAMBDAS:
            raise ValueError(
                f"lambda is {lambda_form!r}, expected one of {LAMBDAS}"
            )
        if window is not None and window < 1:
            raise ValueError(f"window is {window}, expected at least 1 or null")
        if window is not None and lambda_form == "statistics":
            raise ValueError(
                "lambda 'statistics' describes whole maps: set window to "
                "null or lambda to 'token'"
            )

    def forward(self, x, return_lambda=False):
        """Map (K, B, T, C) to (K, B, T, C), and lambda if asked for.

        ``token`` gives lambda as (K, B, T, H), ``statistics`` as (K, B, H).
        """
        bands, batch, frames, channels = x.shape
        if self.embedding is not None:
            x = x + self.embedding
        query, key, value, *logit = self.project(x).split(self.sizes, dim=-1)
        heads = (bands * batch, frames, 2 * self.num_heads, -1)
        query, key = query.reshape(heads), key.reshape(heads)
        if self.rope:
            query, key = rotate(query), rotate(key)
        query1, query2 = query.transpose(1, 2).chunk(2, dim=1)
        key1, key2 = key.transpose(1, 2).chunk(2, dim=1)
        value = value.reshape(bands * batch, frames, self.num_heads, -1)
        value = value.transpose(1, 2)  # (K B, H, T, d)
        if self.statistics is None:
            lam = torch.sigmoid(logit[0] + self.offset)  # (K, B, T, H)
            weight = lam.reshape(bands * batch, frames, -1).transpose(1, 2)
            first = windowed_attention(query1, key1, value, self.window)
            second = windowed_attention(query2, key2, value, self.window)
        else:
            first, stats1 = self.statistics.attend(query1, key1, value)
            second, stats2 = self.statistics.attend(query2, key2, value)
            stats = torch.cat((stats1, stats2), dim=-1)
            lam = self.statistics(stats.view(bands, batch, -1, 8))
            weight = lam.reshape(bands * batch, -1, 1)
        out = first - weight.unsqueeze(-1) * second  # (K B, H, T, d)
        out = out.transpose(1, 2).reshape(bands, batch, frames, channels // 2)
        out = self.output(out)
        return (out, lam) if return_lambda else out
