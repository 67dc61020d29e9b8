"""What lies above the band of the model, in signals of a higher rate.

It is dropped, or scaled from moment to moment by the gain that the model gave
the top quarter of its own band: noise there is mostly noise above it, too, and
fricatives reach over both. Signals come in blocks of any length.
"""

import numpy as np

from dbtransform_lobes.inference.blocks import BlockSTFT

HIGH_BANDS = ("keep", "drop")
TOP = 0.75  # of the model's band: 6 to 8 kHz at 16 kHz
WINDOW_SECONDS = 0.032
HOP_SECONDS = 0.008


class TopBandGain:
    """Gain of the top quarter of a model's band, at samples of another rate.

    `g_t = min(1, sqrt(sum_f |E_tf|^2 / sum_f |N_tf|^2))`, f >= 0.75 of half the
    model's rate, 1 where there is nothing, in Hann windows of 32 ms every
    8 ms, the first one around sample 0; linear interpolation in between.
    ``rate`` is that of the model, in Hz, ``sample_rate`` of the signal.
    """

    def __init__(self, rate, sample_rate, channels=1):
        size = 2 * round(WINDOW_SECONDS * rate / 2)
        hop = round(HOP_SECONDS * rate)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        self.stft = BlockSTFT(window, hop, 2 * channels)
        self.first_bin = round(TOP * size / 2)
        self.hop = hop * sample_rate / rate  # in samples of the signal
        # Gains (channels, t) from a frame on, and the samples that have one.
        self._gains, self._frame = np.zeros((channels, 0)), 0
        self._done = 0

    def push(self, noisy, enhanced, last=False):
        """Take samples (channels, n) at the model's rate.

        Returns gains (channels, m) of the next samples; in the end of too many.
        """
        spec = self.stft.push(np.concatenate((noisy, enhanced)), last)
        energy = np.square(np.abs(spec[:, self.first_bin :])).sum(1)
        before, after = np.split(energy, 2)
        ratio = np.divide(
            after, before, out=np.ones_like(after), where=before > 0
        )
        gains = np.sqrt(ratio).clip(max=1.0)
        gains = np.concatenate((self._gains, gains), axis=-1)
        newest = self._frame + gains.shape[-1] - 1
        # In the end one hop more: of few samples there is only this frame.
        stop = max(self._done, int((newest + last) * self.hop) + 1)
        position = np.arange(self._done, stop) / self.hop - self._frame
        if not position.size:
            self._gains = gains
            return gains[:, :0]
        frames = np.arange(gains.shape[-1])
        self._done, self._frame, self._gains = stop, newest, gains[:, -1:]
        return np.stack([np.interp(position, frames, row) for row in gains])
