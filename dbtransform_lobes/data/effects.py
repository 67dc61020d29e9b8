"""Effects on sounds, and noises made of sounds.

Signals are (L,), float64; rates and frequencies in Hz. Every function depends
on its arguments alone, so that an example can be made again from the seed of
its ``rng``, a ``numpy.random.Generator``.
"""

import io

import numpy as np
import soundfile as sf
import soxr
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

CODECS = ("mu-law", "vorbis", "mp3")
MU = 255


def random_filter(signal, rng, max_db=10.0, num_points=8, sample_rate=16000):
    """Filter with a smooth random response, as a microphone or wall would.

    It lies within +-``max_db``, drawn at ``num_points`` points on a logarithmic
    frequency axis from 50 Hz up.

    Example
    -------
    >>> random_filter(np.ones(800), np.random.default_rng(0)).shape
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
    """Play ``factor`` times as fast; pitch moves along.

    Resampled by soxr: linear interpolation would leave 9 dB SNR above 4 kHz.

    Example
    -------
    >>> change_speed(np.ones(600), 2.0).shape
    (300,)
    """
    length = max(round(len(signal) / factor), 1)
    out = soxr.resample(signal, factor, 1.0, quality="MQ")[:length]
    return np.pad(out, (0, length - len(out)))


def fade_edges(signal, samples):
    """Fade in and out linearly over a number of samples.

    Example
    -------
    >>> fade_edges(np.ones(4), 2).tolist()
    [0.5, 1.0, 1.0, 0.5]
    """
    place = np.arange(1, len(signal) + 1)
    return signal * np.minimum(1, np.minimum(place, place[::-1]) / samples)


def jump_level(signals, rng, range_db=(-25.0, 25.0), sample_rate=16000):
    """Change the gain of signals once, over 50 ms in the middle part.

    All signals (..., L) get the same jump, of a gain drawn from ``range_db``
    in dB.

    Example
    -------
    >>> jump_level(np.ones((2, 800)), np.random.default_rng(0)).shape
    (2, 800)
    """
    time = np.arange(signals.shape[-1])
    start = rng.uniform(0.2, 0.8) * len(time)
    after = np.clip((time - start) / (0.05 * sample_rate), 0, 1)
    return signals * 10 ** (rng.uniform(*range_db) * after / 20)


def simulated_room(rng, sample_rate=16000):
    """Draw an impulse response (R,): direct sound and an exponential tail.

    The tail falls by 60 dB within 0.15 to 0.8 s.

    Example
    -------
    >>> len(simulated_room(np.random.default_rng(0))) < 12800
    True
    """
    decay = rng.uniform(0.15, 0.8)
    time = np.arange(int(decay * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    tail *= rng.uniform(0.3, 1.5) / np.sqrt(np.sum(tail**2))
    tail[0] += 1.0
    return tail


def reverberate(signal, rir, early_ms=50.0, sample_rate=16000):
    """Convolve with a room impulse response (R,), in all and in its early part.

    What precedes the direct path (the highest peak) is cut off, so that
    nothing is delayed, and the direct path has gain 1. Early reflections add
    to intelligibility like the direct sound, hence 50 ms as in C50 of ISO
    3382-1. With ``h`` the response from the direct path on and E samples in
    ``early_ms`` (None: all), returned are

        reverberant[n] = sum_{k >= 0} h[k] s[n - k]
        target[n] = sum_{0 <= k < E} h[k] s[n - k]

    A silent response is a ValueError.

    Example
    -------
    >>> rir = np.array([0.0, 2.0, 0.0, 1.0])
    >>> both = reverberate(np.eye(1, 4)[0], rir, early_ms=0.1)
    >>> [part.round(6).tolist() for part in both]
    [[1.0, 0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]]
    """
    direct = int(np.argmax(np.abs(rir)))
    if rir[direct] == 0:
        raise ValueError("the impulse response is silent; leave it out")
    response = rir[direct:] / rir[direct]
    reverberant = fftconvolve(signal, response)[: len(signal)]
    if early_ms is None:
        return reverberant, reverberant
    early = max(round(early_ms * sample_rate / 1000), 1)
    return reverberant, fftconvolve(signal, response[:early])[: len(signal)]


def clip_peaks(signal, share):
    """Clip what exceeds a share of the highest peak, as an overload does.

    Example
    -------
    >>> clip_peaks(np.array([0.1, -0.5, 1.0]), 0.2).tolist()
    [0.1, -0.2, 0.2]
    """
    limit = share * np.max(np.abs(signal))
    return np.clip(signal, -limit, limit)


def limit_band(signal, low, high, sample_rate=16000):
    """Pass ``low`` to ``high`` Hz (Butterworth, 12 dB an octave below, 48
    above); a ``low`` of 0 passes all that is low.

    Example
    -------
    >>> limit_band(np.ones(800), 300.0, 3400.0).shape
    (800,)
    """
    signal = sosfilt(butter(8, high, output="sos", fs=sample_rate), signal)
    if low:
        highpass = butter(2, low, "highpass", output="sos", fs=sample_rate)
        signal = sosfilt(highpass, signal)
    return signal


def transcode(signal, codec, level=0.8, sample_rate=16000):
    """Encode and decode a signal; the result is neither delayed nor longer.

    It is not silent and coded with a peak of 0.9. The codec is "mu-law" (8
    bits, the continuous law of ITU-T G.711), "vorbis" or "mp3" (variable rate);
    ``level`` is the compression of the latter two, 0
    (best) to 1 (smallest).

    Example
    -------
    >>> transcode(np.sin(np.arange(1600) / 5), "mu-law").shape
    (1600,)
    """
    gain = np.max(np.abs(signal)) / 0.9
    scaled = signal / gain
    if codec == "mu-law":
        return gain * _mu_law(scaled)
    file, kind = io.BytesIO(), {"vorbis": "OGG", "mp3": "MP3"}[codec]
    sf.write(file, scaled, sample_rate, format=kind, compression_level=level)
    file.seek(0)
    decoded = sf.read(file)[0][: len(signal)]
    return gain * np.pad(decoded, (0, len(signal) - len(decoded)))


def _mu_law(signal):
    """Quantise to 8 bits by F(x) = sgn(x) ln(1 + mu |x|) / ln(1 + mu)."""
    compressed = np.log1p(MU * np.abs(signal)) / np.log1p(MU)
    steps = np.round(np.sign(signal) * compressed * 127) / 127
    return np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU


def babble(voices, rng):
    """Add voices (none silent) at levels within 6 dB of each other.

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

    Three to eight modes of 0.5 to 7 kHz decay by 60 dB in 30 to 400 ms.

    Example
    -------
    >>> ring(np.eye(1, 400)[0], np.random.default_rng(0)).shape
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
    """Make impulsive noise (length,) of fragments that strike and ring.

    Fragments are short signals, none silent; one to ten strike in a second.

    Example
    -------
    >>> clatter([np.ones(160)], 1600, np.random.default_rng(0)).shape
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
            strike = ring(strike, rng, sample_rate)
        strike *= 10 ** (rng.uniform(-20, 0) / 20) / np.abs(strike).max()
        start = rng.integers(length)
        end = min(start + len(strike), length)
        total[start:end] += strike[: end - start]
    return total
