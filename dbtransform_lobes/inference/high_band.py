"""What lies above the band of the model, in signals of a higher rate.

A model of 16 kHz knows nothing above 8 kHz. What is there is either dropped,
or kept and scaled from moment to moment by the gain that the model gave the
top quarter of its own band: noise there is mostly noise above it, too, and
fricatives reach over both. Signals come in blocks of any length.
"""

import numpy as np
import torch

from dbtransform_lobes.inference.block_stft import BlockSTFT

HIGH_BANDS = ("keep", "drop")
TOP = 0.75  # of the model's band: 6 to 8 kHz at 16 kHz
WINDOW_SECONDS = 0.032
HOP_SECONDS = 0.008


def check_high_band(high_band):
    """Refuse what is none of HIGH_BANDS by a ValueError."""
    if high_band not in HIGH_BANDS:
        raise ValueError(
            f"high_band is {high_band!r}, expected one of "
            f"{', '.join(HIGH_BANDS)}"
        )


def top_band_gain(pairs, sample_rate):
    """Gain of the top quarter of the band in each frame.

    `g_t = min(1, sqrt(sum_f |E_tf|^2 / sum_f |N_tf|^2))`, f >= 0.75 of half the
    rate, in Hann windows of 32 ms every 8 ms, the first one around sample 0.

    Arguments
    ---------
    pairs : iterable of tuple
        Blocks (noisy, enhanced) of a signal of L samples in all, each
        (channels, n), at the model's rate.
    sample_rate : int
        In Hz.

    Yields
    ------
    numpy.ndarray
        (channels, t), 0 to 1, 1 + ceil(L / hop) frames in all; 1 where there
        is nothing.

    Example
    -------
    >>> noisy = np.random.default_rng(0).standard_normal((1, 1600))
    >>> blocks = list(top_band_gain([(noisy, 0.5 * noisy)], 16000))
    >>> gain = np.concatenate(blocks, axis=-1)
    >>> gain.shape, bool(np.allclose(gain, 0.5))
    ((1, 14), True)
    """
    size = 2 * round(WINDOW_SECONDS * sample_rate / 2)
    hop = round(HOP_SECONDS * sample_rate)
    window = torch.hann_window(size, dtype=torch.float64)
    stft = BlockSTFT(size, hop, window)
    first = round(TOP * size / 2)

    def spectra():
        """Yield spectra of both signals."""
        for pair in pairs:
            both = np.concatenate(pair).astype(np.float64)
            yield stft.push(torch.from_numpy(both))
        yield stft.end()

    for spec in spectra():
        energy = spec[:, first:].abs().square().sum(1).numpy()
        before, after = np.split(energy, 2)
        ratio = np.divide(
            after, before, out=np.ones_like(after), where=before > 0
        )
        yield np.sqrt(ratio).clip(max=1.0)


def gain_at(gains, samples, sample_rate):
    """Frame gains at every sample, by linear interpolation.

    Arguments
    ---------
    gains : iterable of numpy.ndarray
        Blocks (channels, t), a gain every 8 ms.
    samples : int
        Number of samples in all; the last gain holds beyond its frame.
    sample_rate : int
        Of these, in Hz.

    Yields
    ------
    numpy.ndarray
        (channels, n).

    Example
    -------
    >>> (gain, rest) = gain_at([np.array([[0.0, 1.0]])], 12, 1000)
    >>> gain
    array([[0.   , 0.125, 0.25 , 0.375, 0.5  , 0.625, 0.75 , 0.875, 1.   ]])
    >>> rest
    array([[1., 1., 1.]])
    """
    hop = HOP_SECONDS * sample_rate
    known, first, start = None, 0, 0  # gains from frame ``first`` on

    def until(stop):
        """Gains of the samples from ``start`` to ``stop``."""
        position = np.arange(start, stop) / hop - first
        frames = np.arange(known.shape[-1])
        return np.stack([np.interp(position, frames, row) for row in known])

    for gain in gains:
        if known is not None:
            gain = np.concatenate((known[:, -1:], gain), axis=-1)
            first += known.shape[-1] - 1
        known = gain
        last = first + known.shape[-1] - 1
        stop = min(samples, int(last * hop) + 1)
        if stop > start:
            yield until(stop)
            start = stop
    if start < samples:
        yield until(samples)
