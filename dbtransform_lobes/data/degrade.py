"""What happens to speech on its way to a listener: rooms, bands, codecs.

Every function depends on its arguments alone, so that an example can be made
again from its seed. Codecs are those of soundfile, in memory.
"""

import io

import numpy as np
import soundfile as sf
from scipy.signal import butter, fftconvolve, sosfilt

CODECS = ("mu-law", "vorbis", "mp3")
MU = 255


def reverberate(signal, rir, early_ms=50.0, sample_rate=16000):
    """Convolve with a room impulse response, in all and in its early part.

    What precedes the direct path (the highest peak) is cut off, so that
    nothing is delayed, and the direct path has gain 1. Early reflections add
    to intelligibility like the direct sound, hence 50 ms as in C50 of ISO
    3382-1; with ``h`` the response from the direct path on and E samples in
    ``early_ms``,

        reverberant[n] = sum_{k >= 0} h[k] s[n - k]
        target[n] = sum_{0 <= k < E} h[k] s[n - k]

    Arguments
    ---------
    signal : numpy.ndarray
        Dry speech (L,).
    rir : numpy.ndarray
        Impulse response (R,).
    early_ms : float | None
        Reflections up to here, in ms after the direct path, belong to the
        target; None keeps all of them.
    sample_rate : int
        In Hz.

    Returns
    -------
    reverberant : numpy.ndarray
        Samples (L,).
    target : numpy.ndarray
        Samples (L,).

    Raises
    ------
    ValueError
        If the response is silent.

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
    length = len(signal)
    early = len(response)
    if early_ms is not None:
        early = min(round(early_ms * sample_rate / 1000), early)
    target = fftconvolve(signal, response[: max(early, 1)])[:length]
    late = response[early : early + length]
    if not len(late) or early >= length:
        return target, target
    reverberant = target.copy()
    reverberant[early:] += fftconvolve(signal, late)[: length - early]
    return reverberant, target


def clip_peaks(signal, share):
    """Cut what exceeds a share of the highest peak, as an overload does.

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
    nyquist = sample_rate / 2
    if not 0 <= low < high < nyquist:
        raise ValueError(
            f"the band is {low} to {high} Hz, expected 0 <= low < high < "
            f"{nyquist:g}, half the sample rate"
        )
    signal = sosfilt(butter(8, high / nyquist, output="sos"), signal)
    if low:
        highpass = butter(2, low / nyquist, "highpass", output="sos")
        signal = sosfilt(highpass, signal)
    return signal


def transcode(signal, codec, level=0.8, sample_rate=16000):
    """Encode and decode; the result is neither delayed nor longer.

    Arguments
    ---------
    signal : numpy.ndarray
        Samples (L,), not silent; its level does not matter, it is coded with
        a peak of 0.9.
    codec : str
        "mu-law" (8 bits, the continuous law of ITU-T G.711), "vorbis" or
        "mp3" (variable rate).
    level : float
        Compression of vorbis and mp3, 0 (best) to 1 (smallest).
    sample_rate : int
        In Hz.

    Returns
    -------
    numpy.ndarray
        Samples (L,).

    Raises
    ------
    ValueError
        If the codec is unknown.

    Example
    -------
    >>> coded = transcode(np.sin(np.arange(1600) / 5), "mu-law")
    >>> coded.shape
    (1600,)
    """
    if codec not in CODECS:
        raise ValueError(
            f"codec is {codec!r}, expected one of {', '.join(CODECS)}"
        )
    gain = np.max(np.abs(signal)) / 0.9
    scaled = signal / gain
    if codec == "mu-law":
        return gain * _mu_law(scaled)
    kind = {
        "vorbis": {"format": "OGG", "subtype": "VORBIS"},
        "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    }[codec]
    file = io.BytesIO()
    sf.write(file, scaled, sample_rate, compression_level=level, **kind)
    file.seek(0)
    decoded = sf.read(file)[0][: len(signal)]
    return gain * np.pad(decoded, (0, len(signal) - len(decoded)))


def _mu_law(signal):
    """To 8 bits and back: F(x) = sgn(x) ln(1 + mu |x|) / ln(1 + mu)."""
    compressed = np.log1p(MU * np.abs(signal)) / np.log1p(MU)
    steps = np.round(np.sign(signal) * compressed * 127) / 127
    return np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU
