"""RMSNorm over a window of frames: levels survive, and it can be causal.

Source: RMSNorm (Zhang & Sennrich, 2019, arXiv:1910.07467, eq. 4), with the
mean square over a band's frames around each frame in place of the frame's own.
"""

import torch
import torch.nn.functional as F
from torch import nn

from dbtransform_lobes.models.band_linear import BandNorm, affine_shape
from dbtransform_lobes.models.chunks import TimeBlock


def make_norm(
    num_channels, kind, num_bands, per_band=False, window=62, causal=False
):
    """The norm of a name.

    Arguments
    ---------
    num_channels : int
        C.
    kind : str
        "window", see ``WindowNorm``, or one of ``BandNorm``.
    num_bands : int
        K.
    per_band : bool
        Whether every band has a gain and bias of its own.
    window : int
        Frames that "window" sees on each side.
    causal : bool
        Whether "window" looks back only.

    Returns
    -------
    torch.nn.Module
        Maps (K, B, T, C) to (K, B, T, C).

    Raises
    ------
    ValueError
        If the kind is unknown or the window is shorter than a frame.

    Example
    -------
    >>> make_norm(8, "group", num_bands=31).kind
    'group'
    """
    if kind == "window":
        return WindowNorm(num_channels, num_bands, per_band, window, causal)
    return BandNorm(num_channels, kind, num_bands if per_band else None)


class WindowNorm(TimeBlock):
    """Divides each band by its RMS over the frames around each frame.

    y[t] = x[t] / sqrt(mean square + eps) * gain + bias, the mean over the
    channels of frames t - window to t + window (of t - window to t if
    causal), as far as there are any. So level differences between frames
    survive, as GroupNorm lets them, yet a frame depends on a limited number
    of others.

    Arguments
    ---------
    num_channels : int
        C.
    num_bands : int
        K.
    per_band : bool
        Whether every band has a gain and bias of its own.
    window : int
        Frames seen on each side.
    causal : bool
        Whether only the past is seen.
    eps : float
        Added to the mean square.

    Raises
    ------
    ValueError
        If the window is shorter than a frame.

    Example
    -------
    >>> WindowNorm(8, num_bands=31, window=4)(torch.randn(31, 2, 10, 8)).shape
    torch.Size([31, 2, 10, 8])
    """

    kind = "window"

    def __init__(
        self,
        num_channels,
        num_bands,
        per_band=False,
        window=62,
        causal=False,
        eps=1e-5,
    ):
        super().__init__()
        if window < 1:
            raise ValueError(f"norm_window is {window}, expected at least 1")
        self.num_bands, self.causal, self.eps = num_bands, causal, eps
        self.back, self.ahead = window, 0 if causal else window
        shape = affine_shape(num_channels, num_bands if per_band else None)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def prepare(self, x, first=0):
        """The frames, and the mean square of each, in fp32."""
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        return x, (values.square().mean(-1),)  # (K, B, T)

    def combine(self, x, shared, start=0):
        """Normalise frames with what is seen of those around them."""
        power = self._over_window(shared[0], start, x.shape[2])
        scale = torch.rsqrt(power + self.eps).unsqueeze(-1)
        x = x * scale.to(self.weight.dtype)
        return torch.addcmul(self.bias, x, self.weight)

    def _over_window(self, power, start, frames):
        """Means of (K, B, N) around ``frames`` frames from ``start`` on."""
        if frames == 1:  # all that is seen is its window
            return power.mean(2, keepdim=True)
        seen, size = power.shape[2], self.back + 1 + self.ahead
        missing = (self.back - start, start + frames + self.ahead - seen)
        # Not a difference of running sums: that of a quiet window after a
        # loud one would be lost.
        means = F.avg_pool1d(F.pad(power, missing), size, stride=1)
        at = torch.arange(start, start + frames, device=power.device)
        last = (at + self.ahead).clamp(max=seen - 1)
        count = last - (at - self.back).clamp(min=0) + 1
        return means * (size / count.to(means.dtype))

    def cache_shapes(self, batch):
        """Shape of the mean squares of the frames before the next one."""
        return ((self.num_bands, batch, self.back),)
