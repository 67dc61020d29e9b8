"""Scaled dot-product attention, of all frames or within a window."""

import math

import torch
import torch.nn.functional as F

# A block of queries sees a multiple of so many keys, which a CPU has in one
# register: softmax in bf16 is then twice as fast. Small blocks stay in caches.
CPU_KEYS = 32
# Finite, so that the rows that pad the last block stay finite too.
HIDDEN = -1e9
BLOCK = 32  # frames of an exported graph that look at the same ones


def attend(query, key, value, mask=None):
    """Do scaled dot-product attention.

    Queries (N, H, Q, d), keys (N, H, T, d) and values (N, H, T, d_v), with
    d_v <= d, give (N, H, Q, d_v). A mask is additive, broadcast to
    (N, H, Q, T).

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


def window_mask(queries, keys, window=None, causal=False):
    """Return a mask, 0 where a query may attend to a key, else -inf.

    Frame numbers of queries (Q,) and keys (N,) give (Q, N). A query attends to
    ``window`` frames on each side, None to all; if ``causal``, to no later
    ones. Additive, because a boolean mask is turned into one by every call.

    Example
    -------
    >>> window_mask(torch.arange(2), torch.arange(3), 1)
    tensor([[0., 0., -inf],
            [0., 0., 0.]])
    """
    distance = queries[:, None] - keys
    mask = torch.zeros(distance.shape, device=distance.device)
    if window is not None:
        mask = mask.masked_fill(distance.abs() > window, -math.inf)
    return mask.masked_fill(distance < 0, -math.inf) if causal else mask


def attend_within(query, key, value, window=None, causal=False, start=0):
    """Do attention within a window, block by block of queries.

    Queries (N, H, T, d), keys (N, H, S, d) and values (N, H, S, d_v), with
    d_v <= d, give (N, T, H, d_v). ``window`` and ``causal`` are those of
    ``window_mask``, ``start`` are the keys before the first query. Cost and
    memory grow linearly with T.

    Example
    -------
    >>> x = torch.randn(1, 2, 7, 4)
    >>> attend_within(x, x, x, window=3).shape
    torch.Size([1, 7, 2, 4])
    """
    if window is None:
        return attend(query, key, value).transpose(1, 2)
    if torch.compiler.is_exporting():
        out = attend_in_blocks(query, key, value, window, causal)
        return out.transpose(1, 2)
    # One copy here spares one in every block.
    query, key, value = (x.contiguous() for x in (query, key, value))
    frames, size = query.shape[2], 2 * window  # a GPU wants few blocks
    if query.device.type == "cpu":
        others = window if causal else 2 * window  # keys, beside the queries'
        registers = (others + CPU_KEYS // 2) // CPU_KEYS + 1
        size = registers * CPU_KEYS - others
    # The last block takes what would be less than half a block.
    before = max(frames - size // 2 - 1, 0) // size * size
    sizes = [size] * (before // size) + [frames - before]
    ahead = 0 if causal else window
    outs, masks, first = [], {}, start
    for block in query.split(sizes, dim=2):
        last = first + block.shape[2]
        low, high = max(first - window, 0), min(last + ahead, key.shape[2])
        place = last - first, low - first, high - first
        if place not in masks:  # most blocks see alike
            queries = torch.arange(first, last)
            mask = window_mask(queries, torch.arange(low, high), window, causal)
            masks[place] = mask.to(query.device) if mask.any() else None
        seen = (x[:, :, low:high] for x in (key, value))
        outs.append(attend(block, *seen, masks[place]).transpose(1, 2))
        first = last
    return torch.cat(outs, dim=1) if len(outs) > 1 else outs[0]


def attend_in_blocks(query, key, value, window, causal=False):
    """Do attention within a window, without a loop.

    Queries and keys (N, H, T, d) and values (N, H, T, d_v) give
    (N, H, T, d_v). The queries of a block of frames see the keys of as many
    blocks on each side (before it only if causal) as the window reaches. So
    the number of operations does not depend on T, as an exported graph wants
    it, and cost and memory grow linearly with T.

    Example
    -------
    >>> x = torch.randn(1, 2, 7, 4)
    >>> attend_in_blocks(x, x, x, window=3).shape
    torch.Size([1, 2, 7, 4])
    """
    lead, frames = query.shape[:2], query.shape[2]
    query, key, value = (x.flatten(0, 1) for x in (query, key, value))
    blocks = (frames + BLOCK - 1) // BLOCK
    pad = blocks * BLOCK - frames
    before = (window + BLOCK - 1) // BLOCK
    after = 0 if causal else before

    query = F.pad(query, (0, 0, 0, pad)).unflatten(1, (blocks, BLOCK))
    ends = 0, 0, before * BLOCK, pad + after * BLOCK
    key, value = (
        _neighbourhoods(F.pad(x, ends), blocks) for x in (key, value)
    )  # (N H, blocks, frames of 1 + before + after blocks, d)
    seen = torch.arange(key.shape[2], device=query.device) - before * BLOCK
    mask = _block_mask(blocks, seen, frames, window, causal)
    # To the fused operator of a graph the blocks are heads.
    out = attend(query, key, value, mask)
    return out.flatten(1, 2)[:, :frames].unflatten(0, lead)


def _neighbourhoods(x, blocks):
    """Every block (of those that are padded) with its neighbours."""
    x = x.unflatten(1, (-1, BLOCK))
    count = x.shape[1] - blocks + 1
    numbers = torch.arange(blocks, device=x.device)[:, None]
    numbers = numbers + torch.arange(count, device=x.device)
    near = x.index_select(1, numbers.flatten())
    return near.unflatten(1, (blocks, count)).flatten(2, 3)


def _block_mask(blocks, seen, frames, window, causal):
    """Additive mask (blocks, Q, N); block 0 sees the frames ``seen`` (N,)."""
    numbers = torch.arange(blocks, device=seen.device)[:, None]
    own = torch.arange(BLOCK, device=seen.device)[:, None]
    distance, place = seen - own, numbers * BLOCK + seen
    hidden = (distance < -window) | (distance > (0 if causal else window))
    outside = (place < 0) | (place >= frames)
    zero = torch.zeros((), device=seen.device)
    return torch.where(hidden | outside[:, None], HIDDEN, zero)
