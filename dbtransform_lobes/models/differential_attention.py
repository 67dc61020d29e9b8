"""Differential attention over time, one band at a time.

Sources: Differential Transformer (Ye et al., 2024, arXiv:2410.05258), eq. 1-4;
rotary positions: RoFormer (Su et al., 2021, arXiv:2104.09864), eq. 34.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear
from dbtransform_lobes.models.block_attention import attend_in_blocks
from dbtransform_lobes.models.chunks import TimeBlock, zeros_before

LAMBDAS = ("token", "vector", "statistics")
CPU_QUERIES = 32  # of a block
BAND_WEIGHTS = ("shared", "per_band")


def rotate(x, first=0, base=10000.0):
    """Rotary positions: pair (i, i + d/2) turns by t base^(-2 i / d).

    Arguments
    ---------
    x : torch.Tensor
        (..., T, H, d) with even d.
    first : int | torch.Tensor
        Position of the first frame; only differences of positions matter.
    base : float
        Longest period over 2 pi, in frames.

    Returns
    -------
    torch.Tensor
        (..., T, H, d).

    Example
    -------
    >>> x = torch.randn(2, 5, 4, 8)
    >>> torch.allclose(rotate(x)[:, 0], x[:, 0])  # does not turn
    True
    """
    frames, half = x.shape[-3], x.shape[-1] // 2
    # In fp64 where there is one: the angles of late frames are large.
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    count = torch.arange(
        torch.sym_max(frames, half), dtype=dtype, device=x.device
    )
    speed = base ** (-count[:half] / half)
    angle = ((count[:frames, None] + first) * speed).unsqueeze(1)  # (T, 1, d/2)
    if isinstance(first, torch.Tensor):  # ONNX Runtime has no cosine of fp64
        angle = angle.fmod(2 * math.pi).to(x.dtype)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    turned = x * torch.cat((cos, cos), dim=-1)
    swapped = torch.cat((right, left), dim=-1)
    return torch.addcmul(turned, swapped, torch.cat((-sin, sin), dim=-1))


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


def swap_heads(x):
    """Let time and heads change places, (K, B, T, H, d) or (K, B, H, T, d).

    Example
    -------
    >>> swap_heads(torch.zeros(3, 1, 4, 2, 8)).shape
    torch.Size([3, 1, 2, 4, 8])
    """
    if 1 in x.shape[2:4]:  # nothing moves in memory
        return x.reshape(*x.shape[:2], x.shape[3], x.shape[2], x.shape[4])
    return x.transpose(2, 3)


def write_slots(ring, new, slots):
    """Write frames into a ring of slots.

    Arguments
    ---------
    ring : torch.Tensor
        (K, B, H, slots, d), which is not changed.
    new : torch.Tensor
        (K, B, H, T, d).
    slots : torch.Tensor
        The slot of each frame, (T,).

    Returns
    -------
    torch.Tensor
        The next ring.

    Example
    -------
    >>> ring, new = torch.zeros(1, 1, 1, 3, 1), torch.ones(1, 1, 1, 1, 1)
    >>> write_slots(ring, new, torch.tensor([1])).flatten()
    tensor([0., 1., 0.])
    """
    lead = [
        torch.arange(size).view(-1, *[1] * (3 - axis))
        for axis, size in enumerate(ring.shape[:3])
    ]
    return ring.index_put((*lead, slots), new)


def attend(query, key, value, mask=None):
    """Scaled dot-product attention.

    Arguments
    ---------
    query, key : torch.Tensor
        (N, H, Q, d), (N, H, T, d).
    value : torch.Tensor
        (N, H, T, d_v), d_v <= d.
    mask : torch.Tensor | None
        Additive, broadcast to (N, H, Q, T).

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
    if mask is not None:
        mask = mask.to(query.dtype)
        if query.device.type == "cpu" and not torch.compiler.is_exporting():
            return _attend_by_products(query, key, value, mask)
    size = value.shape[-1]
    # The kernels that keep no map of all pairs want heads of one size.
    if size < query.shape[-1]:
        value = F.pad(value, (0, query.shape[-1] - size))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out[..., :size]


def _attend_by_products(query, key, value, mask):
    """The same for few keys: on the CPU twice as fast as the fused kernel."""
    lead = query.shape[:2]
    scale = query.shape[-1] ** -0.5
    mask = mask.expand(*lead, -1, -1).flatten(0, 1)
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    maps = torch.baddbmm(mask, query, key.mT, alpha=scale).softmax(-1)
    return torch.bmm(maps, value).unflatten(0, lead)


def blocks_of_frames(
    frames, window=None, causal=False, past=0, total=None, size=None
):
    """Blocks of queries and the keys that they can reach.

    Arguments
    ---------
    frames : int
        Number of queries.
    window : int | None
        Frames attended on each side; None attends to all.
    causal : bool
        Whether later frames are hidden.
    past : int
        Keys before the first query.
    total : int, optional
        Number of keys; past + frames if not given.
    size : int, optional
        Queries of a block; ``window`` if not given.

    Returns
    -------
    list of (slice, slice)
        Queries and keys of each block, so that cost and memory grow linearly
        with T.

    Example
    -------
    >>> blocks_of_frames(7, window=2, size=4)
    [(slice(0, 4, None), slice(0, 6, None)), \
(slice(4, 7, None), slice(2, 7, None))]
    """
    total = past + frames if total is None else total
    if window is None:
        return [(slice(0, frames), slice(0, total))]
    size = size or window
    # The last block takes what would be less than half a block.
    bounds = [*range(0, max(frames - size // 2, 1), size), frames]
    ahead = 0 if causal else window
    return [
        (
            slice(start, stop),
            slice(
                max(past + start - window, 0), min(past + stop + ahead, total)
            ),
        )
        for start, stop in zip(bounds, bounds[1:], strict=False)
    ]


class MapStatistics(nn.Module):
    """lambda_k = sigmoid(MLP_k(mean, std, max, min of A1 and of A2)).

    The statistics and A_i V are gathered block by block of bands and query
    rows: rows are complete within a block, so no map is ever held for all.

    Arguments
    ---------
    num_bands : int
        K; the MLP 8 -> 16 -> 1 is each band's own.
    entries : int
        Entries of a block of maps, at least those of one row of each head;
        the default keeps a block in the caches of a CPU.
    """

    def __init__(self, num_bands, entries=2**20):
        super().__init__()
        self.entries = entries
        self.hidden = BandLinear(8, 16, num_bands)
        self.output = BandLinear(16, 1, num_bands)

    def attend(self, query, key, value):
        """Return A V (N, H, T, d) and the four statistics (N, H, 4)."""
        heads, frames = query.shape[1:3]
        # A GPU would rather have few large blocks.
        entries = self.entries * (1 if query.device.type == "cpu" else 64)
        rows = max(entries // (heads * frames), 1)
        items = max(rows // frames, 1)
        parts = zip(*(x.split(items) for x in (query, key, value)), strict=True)
        outputs, statistics = zip(
            *(self._attend_items(*part, rows) for part in parts), strict=True
        )
        return torch.cat(outputs), torch.cat(statistics)

    def _attend_items(self, query, key, value, rows):
        frames, scale = query.shape[-2], query.shape[-1] ** -0.5
        key = key.mT * scale
        outputs, norms, highs, lows = [], [], [], []
        for part in query.split(rows, dim=-2):
            attention = (part @ key).softmax(-1)
            outputs.append(attention @ value)
            # The mean of a softmax row is 1/T by construction.
            centred = attention - 1 / frames
            norms.append(torch.linalg.vector_norm(centred, dim=(-1, -2)))
            highs.append(attention.detach().amax(-1))
            lows.append(attention.detach().amin(-1))
        # Rows of the extremes, made anew: their gradients touch no others.
        peak = torch.cat(highs, dim=-1).argmax(-1)
        pit = torch.cat(lows, dim=-1).argmin(-1)
        chosen = torch.stack((peak, pit), dim=-1)[..., None]  # (n, H, 2, 1)
        chosen = query.take_along_dim(chosen, dim=-2)
        high, low = (chosen @ key).softmax(-1).unbind(-2)
        # A map of one entry has no spread, and sqrt no gradient there.
        variance = torch.stack(norms).square().sum(0) / frames**2
        mean = torch.full_like(variance, 1 / frames)
        spread = (variance + 1e-12).sqrt()
        statistics = (mean, spread, high.amax(-1), low.amin(-1))
        return torch.cat(outputs, dim=-2), torch.stack(statistics, dim=-1)

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
        """Return the norm of every head, times 1 - lambda_init."""
        return self.norm(out) * (1 - self.initial)


class DifferentialBandAttention(TimeBlock):
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
        self.back, self.ahead = window, 0 if causal else window
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

    def prepare(self, x, first=0):
        """Return queries and logits of lambda, and keys and values.

        See ``TimeBlock``; heads are the third axis: (K, B, H, T, d).
        """
        if self.embedding is not None:
            x = x + self.embedding
        sizes = [sum(self.sizes[:2]), *self.sizes[2:]]
        both, value, *logit = self.project(x).split(sizes, dim=-1)
        heads = self.num_maps * self.num_heads
        both = both.unflatten(-1, (2 * heads, -1))  # queries, then keys
        if self.rope:
            both = rotate(both, first)
        query, key = swap_heads(both).split(heads, dim=2)
        value = swap_heads(value.unflatten(-1, (self.num_heads, -1)))
        return (query, logit), (key, value)

    def combine(self, own, shared, start=0):
        """Attend over time, see ``TimeBlock``."""
        first, second, lam = self._maps_and_lambda(own, shared, start)
        # (K, B, T, H, d)
        out = torch.addcmul(first, lam.unsqueeze(-1), second, value=-1)
        return self._leave_heads(out)

    def _leave_heads(self, out):
        """Map (K, B, T, H, d) to (K, B, T, C)."""
        if self.vector is not None:
            out = self.vector.scale(out)
        return self.output(out.flatten(-2))

    def step(self, x, cache, first):
        """Map the next frames of a stream, see ``TimeBlock``.

        In an exported stream frame t lies in slot t mod (``window`` + T), so
        that a call writes its own slots and moves no others.
        """
        if not isinstance(first, torch.Tensor):
            return super().step(x, cache, first)
        (query, logit), new = self.prepare(x, first)
        slots = self.window + x.shape[2]
        cache = zeros_before(new, slots, cache)
        numbers = first + torch.arange(x.shape[2])
        key, value = (
            write_slots(*pair, numbers % slots)
            for pair in zip(cache, new, strict=True)
        )
        # Frames between a query and what its slot holds; those of later
        # frames of this call come out as too old.
        age = (numbers[:, None] - torch.arange(slots)) % slots
        hidden = age > numbers[:, None].clamp_max(self.window)
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)
        query = query * query.shape[-1] ** -0.5
        maps = (query @ key.mT + mask).softmax(-1).chunk(self.num_maps, dim=2)
        lam = self._lambda(logit, None, *query.shape[:2])
        maps = maps[0] - swap_heads(lam.unsqueeze(-1)) * maps[-1]
        return self._leave_heads(swap_heads(maps @ value)), (key, value)

    def observed(self, x, band=None):
        """Report ``lambda_of`` and, of a band, ``maps_of``."""
        found = {"lambda": self.lambda_of(x)}
        return (
            found if band is None else {**found, "maps": self.maps_of(x, band)}
        )

    def lambda_of(self, x):
        """lambda for a whole signal.

        Arguments
        ---------
        x : torch.Tensor
            (K, B, T, C).

        Returns
        -------
        torch.Tensor
            (K, B, T, H) for "token", (K, B, 1, H) for "statistics",
            (K or 1, 1, 1, 1) for "vector".
        """
        own, shared = self.prepare(x)
        return self._maps_and_lambda(own, shared)[-1]

    def maps_of(self, x, band):
        """A1, A2 and A1 - lambda A2 of one band, for looking at.

        Arguments
        ---------
        x : torch.Tensor
            (K, B, T, C); all T x T pairs of frames are held.
        band : int
            The band.

        Returns
        -------
        torch.Tensor
            (3, B, H, T, T). For a plain attention A1 is A2.
        """
        (query, _), (key, _) = self.prepare(x)
        logits = query[band] @ key[band].mT  # (B, maps H, T, T)
        logits = logits * query.shape[-1] ** -0.5
        if self.window is not None:
            frames = torch.arange(x.shape[2], device=x.device)
            logits = logits + window_mask(
                frames, frames, self.window, self.causal
            )
        maps = logits.softmax(-1).chunk(self.num_maps, dim=1)
        lam = self.lambda_of(x).expand(*x.shape[:3], self.num_heads)[band]
        lam = lam.transpose(1, 2).unsqueeze(-1)  # (B, H, T, 1)
        return torch.stack((maps[0], maps[-1], maps[0] - lam * maps[-1]))

    def _maps_and_lambda(self, own, shared, start=0):
        """A1 V and A2 V, (K, B, T, H, d) each, and lambda."""
        query, logit = own
        lead = query.shape[:2]
        parts = [x.flatten(0, 1) for x in (query, *shared)]
        statistics = None
        if self.statistics is not None:
            *outs, statistics = self._maps_with_statistics(*parts)
        else:
            outs = self._maps(*parts, start)
        first, second = (out.unflatten(0, lead) for out in outs)
        return first, second, self._lambda(logit, statistics, *lead)

    def _maps_with_statistics(self, query, key, value):
        pairs = self._pairs(query, key)
        results = [self.statistics.attend(*pair, value) for pair in pairs]
        (first, stats1), (second, stats2) = results[0], results[-1]
        statistics = torch.cat((stats1, stats2), dim=-1)
        return first.transpose(1, 2), second.transpose(1, 2), statistics

    def _maps(self, query, key, value, start):
        """A1 V and A2 V, (K B, T, H, d) each, block by block of queries."""
        if torch.compiler.is_exporting():
            return self._maps_at_once(query, key, value)
        # Small blocks stay in the caches of a CPU; a GPU wants fewer.
        on_cpu = query.device.type == "cpu"
        size = self.window and (CPU_QUERIES if on_cpu else 2 * self.window)
        blocks = blocks_of_frames(
            query.shape[2], self.window, self.causal, start, key.shape[2], size
        )
        value = value.repeat(1, self.num_maps, 1, 1)
        # One copy here spares one in every block.
        query, key, value = (x.contiguous() for x in (query, key, value))
        outs, masks = [], {}
        for rows, reach in blocks:
            # Most blocks see alike.
            place = (
                rows.stop - rows.start,
                reach.start - rows.start,
                reach.stop - rows.start,
            )
            if place not in masks:
                masks[place] = self._mask(start, rows, reach)
            out = attend(
                query[:, :, rows],
                key[:, :, reach],
                value[:, :, reach],
                masks[place],
            )
            outs.append(out.transpose(1, 2))
        out = torch.cat(outs, dim=1) if len(outs) > 1 else outs[0]
        maps = out.chunk(self.num_maps, dim=2)
        return maps[0], maps[-1]

    def _maps_at_once(self, query, key, value):
        """The same for a whole signal, map by map: no loop over its blocks."""
        outs = []
        for pair in self._pairs(query, key):
            if self.window is None:
                out = attend(*pair, value)
            else:
                out = attend_in_blocks(*pair, value, self.window, self.causal)
            outs.append(out.transpose(1, 2))
        return outs[0], outs[-1]

    def _pairs(self, query, key):
        """Queries and keys of each map."""
        pair = (x.split(self.num_heads, 1) for x in (query, key))
        return zip(*pair, strict=True)

    def _mask(self, start, rows, reach):
        """Additive mask of a block, None if all its queries see all keys."""
        first, last = start + rows.start, start + rows.stop - 1
        farthest = max(last - reach.start, reach.stop - 1 - first)
        near = self.window is None or farthest <= self.window
        if near and not (self.causal and reach.stop - 1 > first):
            return None
        device = self.output.weight.device
        queries = torch.arange(first, last + 1, device=device)
        keys = torch.arange(reach.start, reach.stop, device=device)
        return window_mask(queries, keys, self.window, self.causal)

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
