"""Differential attention over time, one band at a time.

Sources: Differential Transformer (Ye et al., 2024, arXiv:2410.05258), eq. 1-4;
rotary positions: RoFormer (Su et al., 2021, arXiv:2104.09864), eq. 34.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear

LAMBDAS = ("token", "vector", "statistics")
BAND_WEIGHTS = ("shared", "per_band")


def rotate(x, first=0, base=10000.0):
    """Rotary positions: pair (i, i + d/2) turns by t base^(-2 i / d).

    Arguments
    ---------
    x : torch.Tensor
        (..., T, d) with even d.
    first : int
        Position of the first frame; only differences of positions matter.
    base : float
        Longest period over 2 pi, in frames.

    Returns
    -------
    torch.Tensor
        (..., T, d).

    Example
    -------
    >>> x = torch.randn(2, 4, 5, 8)
    >>> torch.allclose(rotate(x)[..., 0, :], x[..., 0, :])  # does not turn
    True
    """
    frames, half = x.shape[-2], x.shape[-1] // 2
    # Angles in fp32 at least: they are large, whatever the precision of x.
    dtype = torch.promote_types(x.dtype, torch.float32)
    count = torch.arange(max(frames, half), dtype=dtype, device=x.device)
    speed = base ** (-count[:half] / half)
    angle = (count[:frames, None] + first) * speed
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat(
        (left * cos - right * sin, left * sin + right * cos), dim=-1
    )


def window_mask(queries, keys, window=None, causal=False):
    """Additive mask, 0 where a query may attend to a key, else -inf.

    Arguments
    ---------
    queries : torch.Tensor
        Frame numbers of the queries, (Q,).
    keys : torch.Tensor
        Frame numbers of the keys, (N,).
    window : int | None
        Frames attended on each side; None attends to all.
    causal : bool
        Whether later frames are hidden.

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
    distance = queries[:, None] - keys
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if window is not None:
        hidden |= distance.abs() > window
    if causal:
        hidden |= distance < 0
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(
        hidden, -math.inf
    )


def attend(query, key, value, mask=None):
    """Scaled dot-product attention, also where V has smaller heads than Q.

    Arguments
    ---------
    query, key : torch.Tensor
        (N, H, Q, d), (N, H, T, d).
    value : torch.Tensor
        (N, H, T, d_v), d_v <= d.
    mask : torch.Tensor | None
        Additive (Q, T).

    Returns
    -------
    torch.Tensor
        (N, H, Q, d_v).

    Example
    -------
    >>> q, k, v = torch.randn(3, 2, 4, 5, 8)
    >>> attend(q, k, v[..., :4]).shape
    torch.Size([2, 4, 5, 4])
    """
    size = value.shape[-1]
    # The kernels that keep no map of all pairs want heads of one size.
    if size < query.shape[-1]:
        value = F.pad(value, (0, query.shape[-1] - size))
    if mask is not None:
        mask = mask.to(query.dtype)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out[..., :size]


def blocks_of_frames(frames, window=None, causal=False, past=0):
    """Blocks of queries and the keys that they can reach.

    Arguments
    ---------
    frames : int
        T.
    window : int | None
        Frames attended on each side; None attends to all.
    causal : bool
        Whether later frames are hidden.
    past : int
        Keys before the first query.

    Returns
    -------
    list of (slice, slice)
        Queries and keys of each block of about 2 ``window`` frames, so that
        cost and memory grow linearly with T.

    Example
    -------
    >>> blocks_of_frames(7, window=2)
    [(slice(0, 4, None), slice(0, 6, None)), \
(slice(4, 7, None), slice(2, 7, None))]
    """
    if window is None:
        return [(slice(0, frames), slice(0, past + frames))]
    # The last block takes what would be less than half a block.
    starts = range(0, max(frames - window, 1), 2 * window)
    bounds = [*starts, frames]
    ahead = 0 if causal else window
    return [
        (
            slice(start, stop),
            slice(
                max(past + start - window, 0), past + min(stop + ahead, frames)
            ),
        )
        for start, stop in zip(bounds, bounds[1:], strict=False)
    ]


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


class VectorLambda(nn.Module):
    """lambda = exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init.

    lambda_init = 0.8 - 0.6 exp(-0.3 layer) (ibid., eq. 2 and 3).

    Arguments
    ---------
    size : int
        d.
    layer : int
        Index of the layer, from 0.
    num_bands : int | None
        K for a lambda of every band's own; None for one.
    """

    def __init__(self, size, layer, num_bands=None):
        super().__init__()
        self.initial = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.vectors = nn.Parameter(0.1 * torch.randn(4, num_bands or 1, size))
        self.norm = nn.RMSNorm(size, eps=1e-5)

    def forward(self):
        """Return lambda, (K, 1, 1, 1) or (1, 1, 1, 1)."""
        query1, key1, query2, key2 = self.vectors
        first = (query1 * key1).sum(-1).exp()
        second = (query2 * key2).sum(-1).exp()
        return (first - second + self.initial).view(-1, 1, 1, 1)

    def scale(self, out):
        """Norm of every head (..., d), times 1 - lambda_init."""
        return self.norm(out) * (1 - self.initial)


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
        "vector": one learned number, see ``VectorLambda``; "statistics":
        from statistics of both maps, see ``MapStatistics``.
    band_weights : str
        "shared" (with a band embedding added to x) or "per_band".
    rope : bool
        Rotary positions on Q and K.
    window : int | None
        Frames attended on each side; None attends to all.
    causal : bool
        Whether later frames are hidden; needs a window.
    differential : bool
        False makes both maps one, of heads of 2 d: (1 - lambda) A V, plain
        attention with the same number of parameters.
    layer : int
        Index of the layer, from 0, for ``vector``.

    Raises
    ------
    ValueError
        If C is not a multiple of 2 H, d is odd with rotary positions, a name
        is unknown, "statistics" is given a window, or causal is not.

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
        causal=False,
        differential=True,
        layer=0,
    ):
        super().__init__()
        _check_names(lambda_form, band_weights)
        _check_sizes(num_channels, num_heads, rope)
        _check_reach(lambda_form, window, causal)
        own = num_bands if band_weights == "per_band" else None
        self.num_bands, self.num_heads = num_bands, num_heads
        self.rope = rope
        self.window, self.causal = window, causal
        self.num_maps = 2 if differential else 1
        self.sizes = [num_channels, num_channels, num_channels // 2]
        self.embedding = None
        if own is None:
            self.embedding = nn.Parameter(
                0.02 * torch.randn(num_bands, 1, 1, num_channels)
            )
        self.statistics = self.vector = self.offset = None
        if lambda_form == "statistics":
            self.statistics = MapStatistics(num_bands)
        elif lambda_form == "vector":
            size = num_channels // 2 // num_heads
            self.vector = VectorLambda(size, layer, own)
        else:
            # W_lambda rides on the same product as W_q, W_k and W_v.
            self.sizes.append(num_heads)
            self.offset = nn.Parameter(torch.zeros(num_bands, 1, 1, num_heads))
        self.project = BandLinear(num_channels, sum(self.sizes), own)
        self.output = BandLinear(num_channels // 2, num_channels, own)

    @property
    def reach(self):
        """Frames on each side that an output depends on, None for all."""
        return self.window

    def initial_cache(self, batch):
        """Keys and values of no frames yet, for ``forward``."""
        weight = self.output.weight
        rows = self.num_bands * batch
        heads = self.num_maps * self.num_heads
        size = self.sizes[0] // heads
        value_size = self.sizes[2] // self.num_heads
        return (
            weight.new_zeros(rows, heads, 0, size),
            weight.new_zeros(rows, self.num_heads, 0, value_size),
        )

    def forward(self, x, cache=None, return_lambda=False):
        """Attend over time.

        Arguments
        ---------
        x : torch.Tensor
            (K, B, T, C).
        cache : tuple, optional
            Keys and values of the last ``window`` frames before x (causal).
        return_lambda : bool
            Whether lambda is returned too: (K, B, T, H) for "token",
            (K, B, 1, H) for "statistics", (K or 1, 1, 1, 1) for "vector".

        Returns
        -------
        torch.Tensor
            (K, B, T, C); with a cache, also the next cache; with
            ``return_lambda``, also lambda.
        """
        bands, batch, frames, _ = x.shape
        if self.embedding is not None:
            x = x + self.embedding
        query, key, value, *logit = self.project(x).split(self.sizes, dim=-1)
        maps = self.num_maps * self.num_heads
        query, key = self._heads(query, maps), self._heads(key, maps)
        value = self._heads(value, self.num_heads)  # (K B, H, T, d)
        if cache is not None:
            key = torch.cat((cache[0], key), dim=2)
            value = torch.cat((cache[1], value), dim=2)
        first, second, statistics = self._maps(query, key, value)
        lam = self._lambda(logit, statistics, bands, batch)
        first = first.unflatten(0, (bands, batch))
        second = second.unflatten(0, (bands, batch))
        out = first - lam.unsqueeze(-1) * second  # (K, B, T, H, d)
        if self.vector is not None:
            out = self.vector.scale(out)
        out = self.output(out.flatten(-2))
        results = [out]
        if cache is not None:
            kept = slice(max(key.shape[2] - self.window, 0), None)
            # Copies: a view would hold on to all of a long chunk.
            cache = key[:, :, kept].clone(), value[:, :, kept].clone()
            results.append(cache)
        if return_lambda:
            results.append(lam)
        return out if len(results) == 1 else tuple(results)

    def _heads(self, x, heads):
        """(K, B, T, heads d) to (K B, heads, T, d), a view."""
        return x.flatten(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2)

    def _maps(self, query, key, value):
        """A1 V and A2 V, (K B, T, H, d) each, and statistics if needed."""
        if self.statistics is not None:
            if self.rope:
                query, key = rotate(query), rotate(key)
            pairs = zip(
                query.chunk(self.num_maps, 1),
                key.chunk(self.num_maps, 1),
                strict=True,
            )
            results = [self.statistics.attend(q, k, value) for q, k in pairs]
            (first, stats1), (second, stats2) = results[0], results[-1]
            statistics = torch.cat((stats1, stats2), dim=-1)
            return first.transpose(1, 2), second.transpose(1, 2), statistics
        past = key.shape[2] - query.shape[2]
        outs = []
        blocks = blocks_of_frames(
            query.shape[2], self.window, self.causal, past
        )
        for rows, reach in blocks:
            outs.append(self._block(query, key, value, rows, reach, past))
        if len(outs) > 1:
            outs = [[torch.cat(o, dim=1) for o in zip(*outs, strict=True)]]
        return outs[0][0], outs[0][-1], None

    def _block(self, query, key, value, rows, reach, past):
        """A1 V and A2 V of a block of queries, by positions from its reach."""
        query, key = query[:, :, rows], key[:, :, reach]
        value = value[:, :, reach]
        first = past + rows.start - reach.start
        if self.rope:
            query, key = rotate(query, first), rotate(key)
        mask = None
        sees_all = self.window is None or key.shape[2] <= self.window + 1
        if self.causal or not sees_all:
            position = torch.arange(key.shape[2], device=query.device)
            queries = position[first : first + query.shape[2]]
            mask = window_mask(queries, position, self.window, self.causal)
        pairs = zip(
            query.chunk(self.num_maps, 1),
            key.chunk(self.num_maps, 1),
            strict=True,
        )
        return [attend(q, k, value, mask).transpose(1, 2) for q, k in pairs]

    def _lambda(self, logit, statistics, bands, batch):
        """lambda of any form, to be broadcast to (K, B, T, H)."""
        if self.vector is not None:
            return self.vector()
        if statistics is None:
            return torch.sigmoid(logit[0] + self.offset)
        lam = self.statistics(statistics.view(bands, batch, -1, 8))
        return lam.unsqueeze(2)  # (K, B, 1, H)


def _check_names(lambda_form, band_weights):
    if lambda_form not in LAMBDAS:
        raise ValueError(
            f"lambda is {lambda_form!r}, expected one of {LAMBDAS}"
        )
    if band_weights not in BAND_WEIGHTS:
        raise ValueError(
            f"band_weights is {band_weights!r}, expected 'shared' or 'per_band'"
        )


def _check_sizes(num_channels, num_heads, rope):
    if num_heads < 1:
        raise ValueError(f"num_heads is {num_heads}, expected at least 1")
    if num_channels % (2 * num_heads):
        raise ValueError(
            f"num_channels is {num_channels}, expected a multiple of "
            f"2 num_heads = {2 * num_heads}"
        )
    size = num_channels // (2 * num_heads)
    if rope and size % 2:
        raise ValueError(
            f"rotary positions need an even head size, given "
            f"num_channels / num_heads / 2 = {size}"
        )


def _check_reach(lambda_form, window, causal):
    if window is not None and window < 1:
        raise ValueError(f"window is {window}, expected at least 1 or null")
    if lambda_form == "statistics" and (window is not None or causal):
        raise ValueError(
            "lambda 'statistics' describes whole maps: set window to null "
            "and causal to False, or lambda to 'token'"
        )
    if causal and window is None:
        raise ValueError(
            "a causal model needs a window, given null: its state would "
            "grow without end"
        )
