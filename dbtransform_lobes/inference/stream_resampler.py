"""Resampling of live streams by a short filter, which adds little latency.

The one of soxr, by which files are resampled, is 20 times as long.
"""

import math

import numpy as np

ZEROS = 64  # of the sinc on each side: 4 ms at 16 kHz
CUTOFF = 0.96  # of half the lower rate, from which on all is below -80 dB
BETA = 8.0  # of the Kaiser window
MOST = 4096  # samples made at once: more would take much memory


class StreamResampler:
    """y[m] = sum_n h[m down - n up] x[n], with a sinc in a Kaiser window.

    up / down is the ratio of the rates, h[t] = c up / w sinc(c t / w) k[t] with
    c = CUTOFF, w = max(up, down) and the window k from -ZEROS w to ZEROS w
    (Smith and Gossett, ICASSP 1984). A stage as ``Resampler`` is, see there
    for the arguments.

    Example
    -------
    >>> stage = StreamResampler(48000, 16000, channels=1)
    >>> stage.push(np.zeros((1, 4800), np.float32)).shape  # 64 are held back
    (1, 1536)
    >>> stage.push(np.zeros((1, 0), np.float32), last=True).shape
    (1, 64)
    """

    def __init__(self, sample_rate, new_rate, channels):
        shared = math.gcd(sample_rate, new_rate)
        self.up, self.down = new_rate // shared, sample_rate // shared
        wide = max(self.up, self.down)
        self.reach = ZEROS * wide
        time = np.arange(-self.reach, self.reach + 1) / wide
        filtered = np.sinc(CUTOFF * time) * np.kaiser(len(time), BETA)
        filtered *= CUTOFF * self.up / wide
        count = -(-len(time) // self.up)  # inputs of an output, at most
        filtered = np.pad(filtered, (0, count * self.up - len(time)))
        phases = filtered.reshape(count, self.up).T[:, ::-1]
        self.phases = np.ascontiguousarray(phases, np.float32)  # oldest first
        self._waiting = np.zeros((channels, count), np.float32)
        self._given = self._made = 0

    def push(self, block, last=False):
        """Take samples (channels, n), float32; return those that are ready."""
        if self.up == self.down:
            return block
        count, up, down = self.phases.shape[1], self.up, self.down
        first = self._given - self._waiting.shape[-1]
        samples = np.concatenate((self._waiting, block), axis=-1)
        self._given += block.shape[-1]
        stop = -(-(self._given * up - self.reach) // down)
        if last:  # zeros follow
            samples = np.pad(samples, ((0, 0), (0, count)))
            stop = -(-self._given * up // down)
        windows = np.lib.stride_tricks.sliding_window_view(samples, count, -1)
        parts = [samples[:, :0]]
        for begin in range(self._made, stop, MOST):
            numbers = np.arange(begin, min(begin + MOST, stop))
            newest, phase = np.divmod(numbers * down + self.reach, up)
            seen = windows[:, newest - (count - 1) - first]  # (channels, m, K)
            parts.append(np.einsum("cmk,mk->cm", seen, self.phases[phase]))
        self._made = max(self._made, stop)
        oldest = (self._made * down + self.reach) // up - (count - 1)
        oldest = min(oldest, self._given - count)  # a window in any case
        self._waiting = samples[:, oldest - first :].copy()
        return np.concatenate(parts, axis=-1)
