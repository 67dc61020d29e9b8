"""Rotary positions: RoFormer (Su et al., 2021, arXiv:2104.09864), eq. 34."""

import math

import torch

BASE = 10000.0  # longest period over 2 pi, in frames


def rotate(x, first=0):
    """Rotate pair (i, i + d/2) of frame t by t BASE^(-2 i / d).

    ``x`` is (..., T, d), d even, in an exported graph (K, B, H, T, d);
    ``first`` is the position of the first frame, an int or a tensor; only
    differences of positions matter.

    Example
    -------
    >>> x = torch.randn(2, 4, 5, 8)
    >>> torch.allclose(rotate(x)[:, :, 0], x[:, :, 0])  # does not turn
    True
    """
    frames, half = x.shape[-2], x.shape[-1] // 2
    # In fp64 where there is one: the angles of late frames are large.
    dtype = torch.float32 if x.device.type == "mps" else torch.float64
    count = torch.arange(
        torch.sym_max(frames, half), dtype=dtype, device=x.device
    )
    speed = BASE ** (-count[:half] / half)
    angle = (count[:frames, None] + first) * speed  # (T, d/2)
    # Turns of less than a whole one keep their digits in fp32; of fp64 ONNX
    # Runtime has no cosine before 1.29.
    angle = angle.fmod(2 * math.pi)
    angle = angle.to(torch.promote_types(x.dtype, torch.float32))
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    if torch.compiler.is_exporting():  # one node, a quarter of the time
        heads = x.flatten(0, 2).unsqueeze(0)
        turned = torch.onnx.ops.rotary_embedding(heads, cos[None], sin[None])
        return turned.squeeze(0).unflatten(0, x.shape[:3])
    left, right = x.chunk(2, dim=-1)
    turned = x * torch.cat((cos, cos), dim=-1)
    swapped = torch.cat((right, left), dim=-1)
    return torch.addcmul(turned, swapped, torch.cat((-sin, sin), dim=-1))
