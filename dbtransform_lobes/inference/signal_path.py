"""The way of a signal of any rate through a model, in blocks.

noisy -> resample -> model -> resample (-> plus the band above it) -> blend
"""

import sys
from numbers import Real

import numpy as np

from dbtransform_lobes.inference.blocks import Resampler, Waiting
from dbtransform_lobes.inference.high_band import TopBandGain
from dbtransform_lobes.inference.strength import blend

# In Hz; beyond them is no speech, but headers that would fill the memory.
SAMPLE_RATES = (2000, 768000)


def check_sample_rate(sample_rate):
    """Refuse a rate that is not in SAMPLE_RATES by a ValueError."""
    low, high = SAMPLE_RATES
    given = sample_rate if isinstance(sample_rate, Real) else 0
    if not low <= given <= high or given % 1:
        raise ValueError(
            f"the sample rate is {sample_rate} Hz, expected {low} to {high}, "
            "a whole number"
        )


def as_channels(signal, least=1, most=0):
    """Return samples (n, channels), float32, and what returns such as given.

    The signal is an array or tensor (n,) or (n, channels). ValueError if it is
    not of floating point, a sample is not finite, there are fewer than
    ``least`` samples, or more channels than samples and than ``most``.
    """
    given_as, torch = np.asarray, sys.modules.get("torch")
    try:
        if torch is not None and isinstance(signal, torch.Tensor):
            given_as = torch.from_numpy
            signal = signal.detach().cpu()
            signal = signal.float() if signal.is_floating_point() else signal
        array = np.asarray(signal)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the signal is {type(signal).__name__}, which is no array of "
            f"numbers ({error}), expected (samples,) or (samples, channels)"
        ) from error
    if array.dtype.kind != "f":
        raise ValueError(
            f"the samples are {array.dtype}, expected floating point; divide "
            "16-bit samples by 32768"
        )
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(
            "samples are not finite (NaN or infinity), expected audio; put "
            "zeros in their place or leave out this signal"
        )
    shape = array.shape
    if len(shape) not in (1, 2) or shape[0] < least or 0 in shape[1:]:
        raise ValueError(
            f"the signal has shape {shape}, expected (samples,) or "
            "(samples, channels) with at least one of each"
        )
    if len(shape) == 2 and shape[1] > max(most, shape[0]):
        raise ValueError(
            f"the signal has shape {shape}, more channels than samples; "
            "expected (samples, channels), as soundfile reads them: give "
            "signal.T"
        )

    def give_back(samples):
        """Return samples (m, channels) of the kind and rank that was given."""
        samples = samples if array.ndim == 2 else samples[:, 0]
        return given_as(np.ascontiguousarray(samples))

    return array if array.ndim == 2 else array[:, None], give_back


class SignalPath:
    """A stage at the rate of a signal around one at the rate of a model.

    The ``stage`` enhances (channels, n) at ``rate``, see ``blocks.py``; in all
    it returns as many samples as it is given. Rates are in Hz; for ``wet`` and
    ``high_band`` see ``wet_share`` and ``Enhancer.enhance_array``.
    ``resampler`` is a class, ``Resampler`` or ``StreamResampler``.
    """

    def __init__(
        self,
        stage,
        rate,
        sample_rate,
        channels,
        wet=1.0,
        high_band="keep",
        resampler=Resampler,
    ):
        self.stage, self.wet, self.channels = stage, wet, channels
        self._down = resampler(sample_rate, rate, channels)
        self._gain, rows = None, channels
        if high_band == "keep" and sample_rate > rate:
            self._gain = TopBandGain(rate, sample_rate, channels)
            rows = 2 * channels
        self._up = resampler(rate, sample_rate, rows)
        self._low = Waiting()
        self._noisy, self._made, self._gains = Waiting(), Waiting(), Waiting()

    def push(self, noisy, last=False):
        """Take samples (channels, n), float32; return those that are ready."""
        self._noisy.put(noisy)
        low = self._down.push(noisy, last)
        made, waiting = self.stage.push(low, last), [self._noisy, self._made]
        if self._gain is not None:
            self._low.put(low)
            low = self._low.take(made.shape[-1])
            self._gains.put(self._gain.push(low, made, last))
            made = np.concatenate((made, low))
            waiting.append(self._gains)
        self._made.put(self._up.push(made, last))
        # In the end what the resampler has not made is silence.
        size = self._noisy.size if last else min(each.size for each in waiting)
        noisy, made = self._noisy.take(size), self._made.take(size)
        enhanced, low = made[: self.channels], made[self.channels :]
        if self._gain is not None:
            enhanced = enhanced + (noisy - low) * self._gains.take(size)
        if not np.isfinite(enhanced).all():
            raise ValueError(
                "the model returned samples that are not finite: give samples "
                "that are not far beyond full scale, fp32, or another model"
            )
        return blend(noisy, enhanced, self.wet).astype(np.float32, copy=False)
