"""Signals that come in blocks of any length: waiting, resampling, spectra.

Stages have one method, ``push(block, last=False)``: it takes the next samples
(channels, n) and returns those that are ready; all of them, put together, are
what the whole signal at once would give.
"""

import numpy as np
import soxr

from dbtransform_lobes.models.edges import edge_offset


class Waiting:
    """Samples that came and are not taken yet, first in, first out."""

    def __init__(self):
        self.size, self._parts = 0, []

    def put(self, block):
        """Add samples (channels, n) or frames (channels, bins, n)."""
        self._parts.append(block)
        self.size += block.shape[-1]

    def take(self, size):
        """Remove the first samples; those that there are not are zeros."""
        block = np.concatenate(self._parts, axis=-1)
        # A copy: a view would hold on to all of a long block.
        self._parts = [block[..., size:].copy()]
        missing = max(0, size - self.size)
        self.size = self._parts[0].shape[-1]
        others = [(0, 0)] * (block.ndim - 1)
        return np.pad(block[..., :size], [*others, (0, missing)])


class Resampler:
    """Resamples channels side by side; samples pass if both rates are equal."""

    def __init__(self, sample_rate, new_rate, channels):
        self.stream = None
        if sample_rate != new_rate:
            self.stream = soxr.ResampleStream(sample_rate, new_rate, channels)

    def push(self, block, last=False):
        """Take samples (channels, n); return those that are ready."""
        if self.stream is None:
            return block
        block = np.ascontiguousarray(block.T, dtype=np.float32)
        return self.stream.resample_chunk(block, last).T


class BlockSTFT:
    """X_t[f] = sum_n w[n] x[n + t hop - n_fft // 2] exp(-2 pi i f n / n_fft).

    What ``noisy_spectrum`` gives for SpeechBrain's STFT of centred frames. The
    window w is (n_fft,), n_fft even; ``channels`` are signals side by side.
    """

    def __init__(self, window, hop_length, channels=1):
        self.window, self.hop_length = window, hop_length
        self._left = np.zeros((channels, 0), window.dtype)
        self._begun = False

    def push(self, samples, last=False):
        """Take samples (B, n); return the frames that are whole, (B, F, T)."""
        size, hop = len(self.window), self.hop_length
        half = size // 2
        samples = np.concatenate((self._left, samples), axis=-1)
        if not self._begun and (last or samples.shape[-1] >= half):
            # The first frame is centred on the first sample.
            first = np.zeros((len(samples), half), samples.dtype)
            first[:, : samples.shape[-1]] = samples[:, :half]
            offset = edge_offset(first).repeat(half, 1)
            samples = np.concatenate((offset, samples), axis=-1)
            self._begun = True
        if last:
            missing = (half - samples.shape[-1]) % hop  # to whole hops
            offset = edge_offset(samples[:, -half:])
            offset = offset.repeat(half + missing, 1)
            samples = np.concatenate((samples, offset), axis=-1)
        count = max(0, (samples.shape[-1] - size) // hop + 1)
        # A copy: a view would hold on to all of a long block.
        self._left = samples[:, count * hop :].copy()
        dtype = np.result_type(samples, np.complex64)
        if not count:
            return np.zeros((len(samples), half + 1, 0), dtype)
        frames = np.lib.stride_tricks.sliding_window_view(samples, size, -1)
        spec = np.fft.rfft(frames[:, ::hop] * self.window)  # (B, T, F)
        return spec.astype(dtype, copy=False).swapaxes(1, 2)


class BlockISTFT:
    """y[m] = sum_t w[n] irfft(Y_t)[n] / sum_t w[n]^2.

    n = m + n_fft // 2 - t hop; the sums go over 0 <= n < n_fft. Arguments as
    of ``BlockSTFT``.
    """

    def __init__(self, window, hop_length, channels=1):
        self.window, self.hop_length = window, hop_length
        self._before = len(window) // 2  # samples before the signal
        kept = len(window) - hop_length
        self._open = np.zeros((channels + 1, kept), window.dtype)

    def push(self, spec, last=False):
        """Take frames (B, F, T); return the samples that are whole, (B, n)."""
        size, hop = len(self.window), self.hop_length
        frames = np.fft.irfft(spec.swapaxes(1, 2), size) * self.window
        # The last row of these sums is that of the squared windows.
        square = np.broadcast_to(self.window**2, (1, *frames.shape[1:]))
        sums = _overlap_add(np.concatenate((frames, square)), hop)
        sums = sums.astype(self.window.dtype, copy=False)
        sums[:, : self._open.shape[1]] += self._open
        whole = sums.shape[1] if last else spec.shape[-1] * hop
        sums, self._open = sums[:, :whole], sums[:, whole:].copy()
        before = min(self._before, whole)
        self._before -= before
        tiny = np.finfo(sums.dtype).tiny
        end = whole - size // 2 if last else whole  # without the padding
        return (sums[:-1] / np.maximum(sums[-1], tiny))[:, before:end]


def _overlap_add(frames, hop_length):
    """Add frames (B, T, N), T >= 0, a hop apart: (B, (T - 1) hop + N)."""
    channels, count, size = frames.shape
    out = np.zeros((channels, count * hop_length + size - hop_length))
    for number in reversed(range(count)):
        start = number * hop_length
        out[:, start : start + size] += frames[:, number]
    return out
