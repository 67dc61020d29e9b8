"""Rotary positions: RoFormer (Su et al., 2021, arXiv:2104.09864), eq. 34."""

import math

import torch


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
