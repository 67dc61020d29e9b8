"""Differential attention over time, one band at a time.

Source: Differential Transformer (Ye et al., 2024, arXiv:2410.05258), eq. 1-4.
"""

import math

import torch
from torch import nn

from dbtransform_lobes.models.band_linear import BandLinear
from dbtransform_lobes.models.chunks import TimeBlock, cache_or_zeros
from dbtransform_lobes.models.compose import check_choice, check_heads
from dbtransform_lobes.models.lambdas import MapStatistics, VectorLambda
from dbtransform_lobes.models.rotary import rotate
from dbtransform_lobes.models.windowed_attention import (
    attend_within,
    window_mask,
)

LAMBDAS = ("token", "vector", "statistics")
BAND_WEIGHTS = ("shared", "per_band")


def _swap_heads(x):
    """Swap time and heads: (K, B, T, H, d) or (K, B, H, T, d)."""
    if 1 in x.shape[2:4]:  # nothing moves in memory
        return x.reshape(*x.shape[:2], x.shape[3], x.shape[2], x.shape[4])
    return x.transpose(2, 3)


def _write_slots(ring, new, slots):
    """Write (K, B, H, T, d) into slots (T,) of a ring, which is copied."""
    lead = [
        torch.arange(size).view(-1, *[1] * (3 - axis))
        for axis, size in enumerate(ring.shape[:3])
    ]
    return ring.index_put((*lead, slots), new)


class DifferentialBandAttention(TimeBlock):
    """concat_h((A1 - lambda A2) V) W_o with A_i = softmax(Q_i K_i^T / sqrt d).

    The channels of Q and K are split in two halves that give the two maps;
    each half has H heads of d = C / H / 2 channels, V has C / 2 channels. A
    ValueError tells of C that is no multiple of 2 H, of odd d with rotary
    positions, of an unknown name, of a window with "statistics" and of causal
    without one.

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
        check_choice("lambda", lambda_form, LAMBDAS)
        check_choice("band_weights", band_weights, BAND_WEIGHTS)
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
        both, value, *logit = self.project.split(x, sizes)
        heads = self.num_maps * self.num_heads
        # queries, then keys
        both = _swap_heads(both.unflatten(-1, (2 * heads, -1)))
        if self.rope:
            both = rotate(both, first)
        query, key = both.split(heads, dim=2)
        value = _swap_heads(value.unflatten(-1, (self.num_heads, -1)))
        return (query, logit), (key, value)

    def combine(self, own, shared, start=0):
        """Attend over time, see ``TimeBlock``."""
        first, second, lam = self._maps_and_lambda(own, shared, start)
        # (K, B, T, H, d)
        out = torch.addcmul(first, -lam.unsqueeze(-1), second)
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
        (query, logit), (key, value) = self.prepare(x, first)
        # ONNX Runtime would fuse a scale of queries with their product, and
        # is faster without.
        new = key * key.shape[-1] ** -0.5, value
        slots = self.window + x.shape[2]
        cache = cache_or_zeros(new, slots, cache)
        numbers = first + torch.arange(x.shape[2])
        key, value = (
            _write_slots(*pair, numbers % slots)
            for pair in zip(cache, new, strict=True)
        )
        # Frames between a query and what its slot holds; those of later
        # frames of this call come out as too old.
        age = (numbers[:, None] - torch.arange(slots)) % slots
        hidden = age > numbers[:, None].clamp_max(self.window)
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -math.inf)
        maps = (query @ key.mT + mask).softmax(-1).chunk(self.num_maps, dim=2)
        lam = self._lambda(logit, None, *query.shape[:2])
        maps = maps[0] - _swap_heads(lam.unsqueeze(-1)) * maps[-1]
        return self._leave_heads(_swap_heads(maps @ value)), (key, value)

    def observed(self, x, band=None):
        """Report ``lambda_of`` and, of a band, ``maps_of``."""
        found = {"lambda": self.lambda_of(x)}
        if band is not None:
            found["maps"] = self.maps_of(x, band)
        return found

    def lambda_of(self, x):
        """Return lambda for a whole signal (K, B, T, C).

        It is (K, B, T, H) for "token", (K, B, 1, H) for "statistics" and
        (K or 1, 1, 1, 1) for "vector".
        """
        return self._maps_and_lambda(*self.prepare(x))[-1]

    def maps_of(self, x, band):
        """Return A1, A2 and A1 - lambda A2 of a band, (3, B, H, T, T).

        They are held for all T x T pairs of frames of x (K, B, T, C). For a
        plain attention A1 is A2.
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
        """A1 V and A2 V, (K B, T, H, d) each."""
        reach = self.window, self.causal, start
        if torch.compiler.is_exporting():  # a map at a time takes less memory
            pairs = self._pairs(query, key)
            outs = [attend_within(*pair, value, *reach) for pair in pairs]
        else:
            value = value.repeat(1, self.num_maps, 1, 1)
            out = attend_within(query, key, value, *reach)
            outs = out.chunk(self.num_maps, dim=2)
        return outs[0], outs[-1]

    def _pairs(self, query, key):
        """Queries and keys of each map."""
        pair = (x.split(self.num_heads, 1) for x in (query, key))
        return zip(*pair, strict=True)

    def _lambda(self, logit, statistics, bands, batch):
        """lambda of any form, to be broadcast to (K, B, T, H)."""
        if self.vector is not None:
            return self.vector()
        if statistics is None:
            return torch.sigmoid(logit[0] + self.offset)
        lam = self.statistics(statistics.view(bands, batch, -1, 8))
        return lam.unsqueeze(2)  # (K, B, 1, H)


def _check_sizes(num_channels, num_heads, rope):
    check_heads(num_channels, num_heads, parts=2)
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
