"""Signals of any rate and number of channels, in blocks, through a model.

noisy -> resample -> model -> resample (-> plus the band above it) -> blend
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np

from dbtransform_lobes.inference.blocks import align, resample_blocks
from dbtransform_lobes.inference.high_band import gain_at, top_band_gain
from dbtransform_lobes.inference.long_signal import enhance_blocks
from dbtransform_lobes.inference.strength import blend
from dbtransform_lobes.models.chunks import fork

# In Hz; beyond them is no speech, but headers that would fill the memory.
SAMPLE_RATES = (2000, 768000)


@dataclass(frozen=True)
class Measure:
    """What has to be known of a signal before it is enhanced.

    Arguments
    ---------
    length, low_length : int
        Samples of each at the signal's rate and at the model's.
    audible : numpy.ndarray
        (channels,), whether any sample is not zero.
    """

    length: int
    low_length: int
    audible: np.ndarray


def check_sample_rate(sample_rate):
    """Refuse a rate that is not in SAMPLE_RATES by a ValueError."""
    low, high = SAMPLE_RATES
    if (
        not isinstance(sample_rate, Real)
        or not low <= sample_rate <= high
        or sample_rate % 1
    ):
        raise ValueError(
            f"the sample rate is {sample_rate} Hz, expected {low} to {high}, "
            "a whole number"
        )


def measure(blocks, channels, sample_rate, rate):
    """Pass over a signal once, without resampling it.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        (channels, n), float32.
    channels : int
        Number of channels.
    sample_rate, rate : int
        Of the signal and of the model, in Hz.

    Returns
    -------
    Measure

    Example
    -------
    >>> found = measure([np.zeros((1, 160), np.float32)], 1, 16000, 8000)
    >>> found.length, found.low_length, bool(found.audible)
    (160, 80, False)
    """
    length, audible = 0, np.zeros(channels, dtype=bool)
    for block in blocks:
        length += block.shape[-1]
        audible |= block.any(-1)
    low_length = max(1, round(length * rate / sample_rate))
    return Measure(length, low_length, audible)


def enhance_signal(model, blocks, measured, sample_rate, wet, high_band):
    """Enhance a signal of any rate; its memory does not grow.

    Arguments
    ---------
    model : EnhanceModel
        The enhancer.
    blocks : iterable of numpy.ndarray
        (channels, n), float32.
    measured : Measure
        Of the whole signal.
    sample_rate : int
        Of the signal, in Hz.
    wet : float
        Share of the enhanced signal, see ``wet_share``.
    high_band : str
        "keep" or "drop", see ``EnhanceModel.enhance_array``.

    Yields
    ------
    numpy.ndarray
        (channels, n), float32, as many samples in all, in blocks of other
        lengths.

    Raises
    ------
    ValueError
        If the model returns samples that are not finite.
    """
    rate, channels = model.hparams.sample_rate, len(measured.audible)
    keep = sample_rate > rate and high_band == "keep"
    original, blocks = fork(blocks)
    low = resample_blocks(
        blocks, sample_rate, rate, channels, measured.low_length
    )
    pairs = _enhance_low(model, low, measured)
    if not keep:
        enhanced = resample_blocks(
            (pair[1] for pair in pairs),
            rate,
            sample_rate,
            channels,
            measured.length,
        )
    else:
        noisy, original = fork(original)
        enhanced = _with_high_band(noisy, pairs, measured, sample_rate, rate)
    for noisy, block in align(original, enhanced):
        if not np.isfinite(block).all():
            raise ValueError(
                "the model returned samples that are not finite; use fp32 "
                "(run_opts precision) or another model"
            )
        block = blend(noisy, block, wet)
        # Silence stays silence, whatever the model makes of it.
        yield np.where(measured.audible[:, None], block, np.float32(0))


def _enhance_low(model, low, measured):
    """Pairs of blocks at the model's rate: noisy, enhanced."""
    low, again = fork(low)
    estimates = enhance_blocks(model, low, measured.low_length)
    yield from align(again, estimates)


def _with_high_band(noisy, pairs, measured, sample_rate, rate):
    """Bring pairs to the rate of the signal and add the band above."""
    pairs, again = fork(pairs)
    both = resample_blocks(
        map(np.concatenate, pairs),
        rate,
        sample_rate,
        2 * len(measured.audible),
        measured.length,
    )
    gains = gain_at(top_band_gain(again, rate), measured.length, sample_rate)
    for signal, pair, gain in align(noisy, both, gains):
        low, enhanced = np.split(pair, 2)
        yield (enhanced + (signal - low) * gain).astype(np.float32)
