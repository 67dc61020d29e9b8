"""Levels and SNR of speech and noise, in float64; signals are (L,).

They make data sets on disk (``dbtransform mix``) and mixtures on the fly.
Levels are in dB re full scale: 0 dBFS is an RMS of 1.
"""

import numpy as np

# Level of the speech before mixing and highest peak of a mixture.
LEVEL_DBFS = -26.0
PEAK = 0.99


def check_range(name, limits):
    """Refuse what is no range (lowest, highest) in dB by a ValueError.

    Example
    -------
    >>> check_range("snr_db", [-5.0, 20.0])
    """
    try:
        low, high = map(float, limits)
        fits = -np.inf < low <= high < np.inf
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"{name} is {limits}, expected two numbers in dB, the lower first"
        )


def rms(signal):
    """Return the root mean square of a signal as a float.

    Example
    -------
    >>> rms([3.0, -3.0])
    3.0
    """
    signal = np.asarray(signal, dtype=np.float64)
    return float(np.sqrt(np.mean(signal**2))) if signal.size else 0.0


def scale_to_dbfs(signal, dbfs=LEVEL_DBFS):
    """Scale a signal to an RMS level; ValueError if it is silent.

    Example
    -------
    >>> print(scale_to_dbfs(np.array([0.5, -0.5]), dbfs=-20.0))
    [ 0.1 -0.1]
    """
    level = rms(signal)
    if level == 0.0:
        raise ValueError(
            "the signal is silent, expected a level above zero to scale "
            f"to {dbfs} dBFS; leave this recording out"
        )
    return np.asarray(signal, dtype=np.float64) * (10 ** (dbfs / 20) / level)


def wrap_noise(noise, offset, length):
    """Read ``length`` samples from ``offset``, going round the end.

    Both may exceed the samples of the noise.

    Example
    -------
    >>> print(wrap_noise(np.array([1.0, 2.0, 3.0]), 2, 5))
    [3. 1. 2. 3. 1.]
    """
    noise = np.asarray(noise, dtype=np.float64)
    return np.take(noise, np.arange(offset, offset + length), mode="wrap")


def scale_noise_to_snr(speech, noise, snr_db):
    """Scale noise so that ``10 log10(sum s^2 / sum n^2) = snr_db``.

    ValueError if speech or noise, of one length, is silent.

    Example
    -------
    >>> print(scale_noise_to_snr(np.ones(2), np.ones(2), 20.0))
    [0.1 0.1]
    """
    if rms(speech) == 0.0:
        raise ValueError("the speech is silent; leave this recording out")
    return scale_to_dbfs(noise, 20 * np.log10(rms(speech)) - snr_db)


def mix(speech, noise, snr_db):
    """Mix speech and noise of one length at an SNR; return clean and noisy.

    The speech is scaled to an RMS of ``LEVEL_DBFS`` and the noise to the SNR;
    if the sum exceeds ``PEAK``, both are scaled down. ValueError if speech or
    noise is silent.

    Example
    -------
    >>> clean, noisy = mix(np.ones(8), np.ones(8), snr_db=20.0)
    >>> print((noisy / clean)[:2])
    [1.1 1.1]
    """
    clean = scale_to_dbfs(speech)
    noisy = clean + scale_noise_to_snr(clean, noise, snr_db)
    highest = np.max(np.abs(noisy))
    gain = PEAK / highest if highest > PEAK else 1.0
    return gain * clean, gain * noisy
