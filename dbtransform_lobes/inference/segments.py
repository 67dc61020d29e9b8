"""Signals of any length at the model's rate, in memory that does not grow."""

import numpy as np

SLACK_SECONDS = 4  # the last of those that overlap may be longer by so much
FADE_SECONDS = 2


class Segments:
    """Enhances segments of a signal, each on its own.

    ``enhance`` maps samples (n,) to as many; a segment has ``seconds``. If the
    frames of a model depend on a limited number of others (``reach``, samples
    before and after), a segment is enhanced with these, begins at a multiple
    of ``hop_length``, and the result is that of the whole signal. Segments of
    other models, such as those with full attention, overlap and are
    cross-faded.
    """

    def __init__(self, enhance, sample_rate, seconds, reach=None, hop_length=1):
        self.enhance = enhance
        self.fade = 0 if reach else FADE_SECONDS * sample_rate
        self.back, self.ahead = reach or (0, 0)
        self.back += -self.back % hop_length
        step = max(1, seconds * sample_rate - self.fade)
        self.step = step + -step % hop_length
        self.size = self.back + self.step + self.fade + self.ahead
        slack = 0 if reach else SLACK_SECONDS * sample_rate
        self.longest = self.size + slack
        self._begun, self._waiting, self._tail = False, None, 0

    def push(self, noisy, last=False):
        """Take samples (channels, n); return those that are ready."""
        if self._waiting is not None:
            noisy = np.concatenate((self._waiting, noisy), axis=-1)
        parts, start = [noisy[:, :0]], 0
        while noisy.shape[-1] - start > self.longest:
            segment = noisy[:, start : start + self.size]
            parts.append(self._enhanced(segment, last=False))
            start += self.step
        if last and noisy.size:
            parts.append(self._enhanced(noisy[:, start:], last=True))
        self._waiting = noisy[:, start:].copy()
        return np.concatenate(parts, axis=-1)

    def _enhanced(self, noisy, last):
        """A segment without what the neighbours have."""
        made = np.stack([self.enhance(channel) for channel in noisy])
        rise = (np.arange(self.fade, dtype=np.float32) + 0.5) / self.fade
        if self._begun:
            made = made[:, self.back :].copy()
            made[:, : self.fade] *= rise
            made[:, : self.fade] += self._tail
        self._begun = True
        if last:
            return made
        end = made.shape[-1] - self.ahead
        self._tail = made[:, end - self.fade : end] * rise[::-1]
        return made[:, : end - self.fade]
