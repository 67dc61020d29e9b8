"""Windowed attention as one product over blocks, for graphs of any length."""

import torch
import torch.nn.functional as F

# Finite, so that the rows that pad the last block stay finite too.
HIDDEN = -1e9


def attend_in_blocks(query, key, value, window, causal=False):
    """Scaled dot-product attention within a window, without a loop.

    Frames are cut into blocks of ``window``; the queries of a block see the
    keys of its own block, the one before and, unless causal, the one after.
    So the number of operations does not depend on T, as an exported graph
    wants it, and cost and memory grow linearly with T.

    Arguments
    ---------
    query, key : torch.Tensor
        (N, H, T, d).
    value : torch.Tensor
        (N, H, T, d_v).
    window : int
        Frames attended on each side.
    causal : bool
        Whether later frames are hidden.

    Returns
    -------
    torch.Tensor
        (N, H, T, d_v).

    Example
    -------
    >>> x = torch.randn(1, 2, 7, 4)
    >>> attend_in_blocks(x, x, x, window=3).shape
    torch.Size([1, 2, 7, 4])
    """
    frames = query.shape[2]
    blocks = (frames + window - 1) // window
    pad = blocks * window - frames
    after = 0 if causal else 1  # blocks that are looked ahead

    query = F.pad(query, (0, 0, 0, pad)).unflatten(2, (blocks, window))
    key, value = (
        _neighbourhoods(
            F.pad(x, (0, 0, window, pad + after * window)), blocks, window
        )
        for x in (key, value)
    )  # (N, H, blocks, 2 or 3 windows, d)
    logits = query @ key.mT * query.shape[-1] ** -0.5
    logits = logits + _block_mask(frames, blocks, window, causal, query)
    out = logits.softmax(-1) @ value
    return out.flatten(2, 3)[:, :, :frames]


def _neighbourhoods(x, blocks, window):
    """Every block (of those that are padded) with its neighbours."""
    x = x.unflatten(2, (-1, window))
    total = x.shape[2]
    count = total - blocks + 1
    return torch.cat([x[:, :, i : i + blocks] for i in range(count)], dim=3)


def _block_mask(frames, blocks, window, causal, like):
    """Additive mask (blocks, window, 2 or 3 windows)."""
    span = (2 if causal else 3) * window
    offset = torch.arange(span, device=like.device) - window
    distance = offset - offset[window : 2 * window, None]
    hidden = (distance < -window) | (distance > (0 if causal else window))
    first = torch.arange(blocks, device=like.device) * window
    place = first[:, None] + offset
    outside = (place < 0) | (place >= frames)
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(hidden | outside[:, None], HIDDEN, zero)
