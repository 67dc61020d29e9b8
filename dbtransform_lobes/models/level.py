"""Levels of signals, so that no gain is needed outside of the models."""

import torch
import torch.nn.functional as F

from dbtransform_lobes.models.chunks import TimeBlock

HAMMING = 0.54**2 + 0.46**2 / 2  # mean square of the window


class RunningLevel(TimeBlock):
    """Divide a spectrum by the level of its last second.

    With `P[t] = 1/F sum_f |X[f,t]|^2` the power of a frame,

        level[t]^2 = sum P[s]^2 / sum P[s],  s = t - back, ..., t,

    the mean power, each frame weighted by its own: pauses and digital
    silence do not count, and what lies more than ``back`` frames ago is
    forgotten altogether. A model that sees X / level and masks X maps g X to
    g Y for any gain g > 0.

    Arguments
    ---------
    back : int
        Frames that are looked back, one second less one frame.

    Example
    -------
    >>> level, bins = RunningLevel(back=61), torch.randn(1, 10, 257, 2)
    >>> torch.allclose(level(bins), level(100 * bins), atol=1e-5)
    True
    """

    ahead = 0

    def __init__(self, back=61):
        super().__init__()
        if not isinstance(back, int) or back < 0:
            raise ValueError(
                f"level is {back}, expected the frames to look back, at least "
                "0: every DBTransform follows its level"
            )
        self.back = back

    def prepare(self, x, first=0):
        """Return the bins and the power of each frame, in fp32."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        power = x.square().sum(-1).mean(-1)  # (B, T)
        return x, (power[None, ..., None],)

    def combine(self, own, shared, start=0):
        """Divide bins (B, T, F, 2) by the level of each frame."""
        (power,), frames = shared, own.shape[1]
        power = power.flatten(2).flatten(0, 1)  # (B, T)
        if start < self.back:
            power = F.pad(power, (self.back - start, 0))
        else:
            power = power[:, start - self.back :]
        # Windows, not differences of running sums, which would lose a quiet
        # second after a loud one. Scaled, so that squares neither overflow
        # nor vanish.
        seen = _windows(power, self.back + 1)[:, :frames]
        top = seen.amax(-1, keepdim=True).clamp_min(1e-30)
        share = seen / top
        mean = top[..., 0] * share.square().sum(-1) / share.sum(-1).clamp_min(1)
        scale = torch.rsqrt(mean.clamp_min(1e-30))
        return own * scale[..., None, None]


def over_signal_level(spec):
    """Divide spectra by the RMS of their signals, for models that see all.

    Maps complex (B, F, T) to such, of an RMS of 1, and the RMS (B, 1, 1), by
    Parseval for a Hamming window of n_fft samples; others differ by a few per
    cent. Digital silence stays silence.

    Example
    -------
    >>> spec, level = over_signal_level(torch.zeros(2, 257, 10).cfloat())
    >>> spec.shape, level.shape
    (torch.Size([2, 257, 10]), torch.Size([2, 1, 1]))
    """
    # No gradient: that of a norm at silence is not finite.
    magnitude, n_fft = spec.detach().abs(), 2 * (spec.shape[1] - 1)
    # Scaled, so that squares neither overflow nor vanish.
    top = magnitude.amax((1, 2), keepdim=True).clamp_min(1e-30)
    mean = (magnitude / top).square().mean((1, 2), keepdim=True)
    level = top * (mean / (HAMMING * n_fft)).sqrt()
    return spec / level.clamp_min(1e-30), level


def _windows(power, size):
    """All windows (B, T, size) of the powers (B, T + size - 1)."""
    if power.shape[1] == size:  # one frame
        return power.unsqueeze(1)
    if not torch.compiler.is_exporting():
        return power.unfold(1, size, 1)
    # ONNX has no unfold for any number of frames, but convolutions.
    rows = torch.eye(size, dtype=power.dtype, device=power.device)[:, None]
    return F.conv1d(power.unsqueeze(1), rows).mT
