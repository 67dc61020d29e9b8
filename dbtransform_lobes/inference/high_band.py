"""What lies above the band of the model, in signals of a higher rate.

A model of 16 kHz knows nothing above 8 kHz. What is there is either dropped,
or kept and scaled from moment to moment by the gain that the model gave the
top quarter of its own band: noise there is mostly noise above it, too, and
fricatives reach over both.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

HIGH_BANDS = ("keep", "drop")
TOP = 0.75  # of the model's band: 6 to 8 kHz at 16 kHz
WINDOW_SECONDS = 0.032
HOP_SECONDS = 0.008
FRAMES_AT_ONCE = 512


def top_band_gain(noisy, enhanced, sample_rate):
    """Gain of the top quarter of the band in each frame.

    g_t = min(1, sqrt(sum_f |E_tf|^2 / sum_f |N_tf|^2)), f >= 0.75 of half the
    rate, in Hann windows of 32 ms every 8 ms, the first one around sample 0.

    Arguments
    ---------
    noisy, enhanced : numpy.ndarray
        (L,) at the model's rate.
    sample_rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        (T,), 0 to 1, T = 1 + L // hop; 1 where there is nothing.

    Example
    -------
    >>> noisy = np.random.default_rng(0).standard_normal(1600)
    >>> gain = top_band_gain(noisy, 0.5 * noisy, 16000)
    >>> gain.shape, bool(np.allclose(gain, 0.5))
    ((13,), True)
    """
    before = _top_energy(noisy, sample_rate)
    after = _top_energy(enhanced, sample_rate)
    ratio = np.divide(after, before, out=np.ones_like(after), where=before > 0)
    return np.sqrt(ratio).clip(max=1.0)


def gain_at(gain, samples, sample_rate):
    """Frame gains at every sample, by linear interpolation.

    Arguments
    ---------
    gain : numpy.ndarray
        (T,), one every 8 ms.
    samples : int
        Number of samples.
    sample_rate : int
        Of these, in Hz.

    Returns
    -------
    numpy.ndarray
        (samples,).

    Example
    -------
    >>> gain_at(np.array([0.0, 1.0]), 9, 1000)
    array([0.   , 0.125, 0.25 , 0.375, 0.5  , 0.625, 0.75 , 0.875, 1.   ])
    """
    position = np.arange(samples) / (HOP_SECONDS * sample_rate)
    return np.interp(position, np.arange(len(gain)), gain)


def _top_energy(signal, sample_rate):
    """Energy above 0.75 of half the rate in each frame, (T,)."""
    size = 2 * round(WINDOW_SECONDS * sample_rate / 2)
    hop = round(HOP_SECONDS * sample_rate)
    window = np.hanning(size + 1)[:-1]
    padded = np.pad(np.asarray(signal, dtype=np.float64), size // 2)
    frames = sliding_window_view(padded, size)[::hop]  # (T, size)
    first = round(TOP * size / 2)
    energy = [
        np.sum(
            np.abs(np.fft.rfft(window * part, axis=1)[:, first:]) ** 2, axis=1
        )
        for part in np.split(
            frames, range(FRAMES_AT_ONCE, len(frames), FRAMES_AT_ONCE)
        )
    ]
    return np.concatenate(energy)
