"""Variety for recordings: filters, rooms, speed, babble and clatter.

Every function takes a signal and a ``numpy.random.Generator`` and depends on
nothing else, so that an example can be made again from its seed.
"""

import numpy as np
import soxr
from scipy.signal import fftconvolve, lfilter


def random_filter(signal, rng, max_db=10.0, num_points=8, sample_rate=16000):
    """Filter with a smooth random response, as a microphone or wall would.

    Arguments
    ---------
    signal : numpy.ndarray
        Samples (L,).
    rng : numpy.random.Generator
        Source of the random response.
    max_db : float
        The response lies within +-max_db, in dB.
    num_points : int
        Random points on a logarithmic frequency axis from 50 Hz up.
    sample_rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        Samples (L,).

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> random_filter(np.ones(800), rng).shape
    (800,)
    """
    points = np.geomspace(50, sample_rate / 2, num_points)
    response_db = rng.uniform(-max_db, max_db, num_points)
    spectrum = np.fft.rfft(signal)
    frequencies = np.fft.rfftfreq(len(signal), 1 / sample_rate)
    log_frequencies = np.log(np.maximum(frequencies, 50))
    gain_db = np.interp(log_frequencies, np.log(points), response_db)
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(signal))


def change_speed(signal, factor):
    """Play faster or slower; pitch moves along.

    Resampled by soxr: linear interpolation would leave 9 dB SNR above 4 kHz.

    Arguments
    ---------
    signal : numpy.ndarray
        Samples (L,).
    factor : float
        Above 1 is faster.

    Returns
    -------
    numpy.ndarray
        Samples (round(L / factor),).

    Example
    -------
    >>> change_speed(np.ones(600), 2.0).shape
    (300,)
    """
    length = max(round(len(signal) / factor), 1)
    out = soxr.resample(signal, factor, 1.0, quality="MQ")[:length]
    return np.pad(out, (0, length - len(out)))


def random_room(signal, rng, sample_rate=16000):
    """Add the diffuse tail of a room: noise that decays exponentially.

    Arguments
    ---------
    signal : numpy.ndarray
        Samples (L,).
    rng : numpy.random.Generator
        Chooses decay time (0.15 to 0.8 s) and level of the tail.
    sample_rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        Samples (L,).

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> random_room(np.ones(800), rng).shape
    (800,)
    """
    decay = rng.uniform(0.15, 0.8)
    time = np.arange(int(decay * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    tail *= rng.uniform(0.3, 1.5) / np.sqrt(np.sum(tail**2))
    tail[0] += 1.0
    return fftconvolve(signal, tail)[: len(signal)]


def babble(voices, rng):
    """Sum of voices at levels within 6 dB of each other.

    Arguments
    ---------
    voices : list of numpy.ndarray
        Signals (L,) of other speakers, none silent.
    rng : numpy.random.Generator
        Chooses the levels.

    Returns
    -------
    numpy.ndarray
        Samples (L,).

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> babble([np.ones(4), -np.ones(4)], rng).shape
    (4,)
    """
    total = 0.0
    for voice in voices:
        level = np.sqrt(np.mean(voice**2)) + 1e-12
        total = total + voice * (10 ** (rng.uniform(-6, 0) / 20) / level)
    return total


def ring(click, rng, sample_rate=16000):
    """Let a short sound excite the resonances of a small hard object.

    Arguments
    ---------
    click : numpy.ndarray
        Samples (L,).
    rng : numpy.random.Generator
        Chooses three to eight modes of 0.5 to 7 kHz that decay by 60 dB in
        30 to 400 ms.
    sample_rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        Samples (L,).

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> ring(np.eye(1, 400)[0], rng).shape
    (400,)
    """
    total = np.zeros(len(click))
    for _ in range(rng.integers(3, 9)):
        frequency = np.exp(rng.uniform(np.log(500), np.log(7000)))
        radius = 10 ** (-3 / (rng.uniform(0.03, 0.4) * sample_rate))
        angle = 2 * np.pi * frequency / sample_rate
        poles = [1.0, -2 * radius * np.cos(angle), radius**2]
        total += rng.uniform(0.1, 1.0) * lfilter([np.sin(angle)], poles, click)
    return total


def clatter(fragments, length, rng, sample_rate=16000):
    """Impulsive noise: fragments of recordings that strike and ring.

    Arguments
    ---------
    fragments : list of numpy.ndarray
        Short pieces of recorded noise, none silent.
    length : int
        Samples of the result.
    rng : numpy.random.Generator
        Chooses times, levels and resonances.
    sample_rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        Samples (length,).

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> clatter([np.ones(160)], 1600, rng).shape
    (1600,)
    """
    total = np.zeros(length)
    rate = np.exp(rng.uniform(np.log(1.0), np.log(10.0)))  # strikes a second
    for _ in range(1 + rng.poisson(rate * length / sample_rate)):
        fragment = fragments[rng.integers(len(fragments))]
        seconds = rng.uniform(0.002, 0.05)
        decay = np.exp(-np.arange(len(fragment)) / (seconds * sample_rate))
        strike = np.zeros(min(len(fragment) + sample_rate // 3, length))
        size = min(len(fragment), len(strike))
        strike[:size] = (fragment * decay)[:size]
        if rng.random() < 0.7:
            strike = ring(strike, rng)
        strike *= 10 ** (rng.uniform(-20, 0) / 20) / np.abs(strike).max()
        start = rng.integers(length)
        end = min(start + len(strike), length)
        total[start:end] += strike[: end - start]
    return total
