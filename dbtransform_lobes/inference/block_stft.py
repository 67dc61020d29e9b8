"""STFT and its inverse over signals that come block by block.

Both give what SpeechBrain's STFT and ISTFT (torch.stft and torch.istft,
centred frames, zeros around the signal) give for the whole signal, padded by
zeros to whole hops.
"""

import torch
import torch.nn.functional as F
from speechbrain.processing.features import ISTFT, STFT

SHARED = ("n_fft", "hop_length", "win_length")


class BlockSTFT:
    """X_t[f] = sum_n w[n] x[n + t hop - n_fft // 2] exp(-2 pi i f n / n_fft).

    Arguments
    ---------
    n_fft : int
        FFT length, even.
    hop_length : int
        Samples from frame to frame.
    window : torch.Tensor
        w, (n_fft,).

    Example
    -------
    >>> stft = BlockSTFT(8, 4, torch.hann_window(8))
    >>> signal = torch.randn(1, 21)
    >>> blocks = [stft.push(block) for block in signal.split(5, dim=-1)]
    >>> [block.shape[-1] for block in blocks]
    [1, 1, 1, 2, 0]
    >>> torch.cat([*blocks, stft.end()], dim=-1).shape  # 1 + ceil(21 / 4)
    torch.Size([1, 5, 7])
    """

    def __init__(self, n_fft, hop_length, window):
        self.n_fft, self.hop_length, self.window = n_fft, hop_length, window
        self._waiting = None

    def push(self, samples):
        """Take samples (B, n); return the frames that are whole, (B, F, T)."""
        if self._waiting is None:
            self._waiting = samples.new_zeros(len(samples), self.n_fft // 2)
        waiting = torch.cat((self._waiting, samples), dim=-1)
        count = max(0, (waiting.shape[-1] - self.n_fft) // self.hop_length + 1)
        # A copy: a view would hold on to all of a long block.
        self._waiting = waiting[:, count * self.hop_length :].clone()
        if count == 0:
            shape = (len(samples), self.n_fft // 2 + 1, 0)
            return waiting.new_zeros(shape, dtype=waiting.dtype.to_complex())
        frames = waiting.unfold(-1, self.n_fft, self.hop_length)  # (B, T, N)
        window = self.window.to(waiting)
        return torch.fft.rfft(frames * window).transpose(1, 2)

    def end(self):
        """Return the frames that reach beyond the end of the signal."""
        half, size = self.n_fft // 2, self._waiting.shape[-1]
        missing = (half - size) % self.hop_length  # to whole hops
        zeros = self._waiting.new_zeros(len(self._waiting), half + missing)
        return self.push(zeros)


class BlockISTFT:
    """y[m] = sum_t w[n] irfft(Y_t)[n] / sum_t w[n]^2.

    n = m + n_fft // 2 - t hop; the sums go over 0 <= n < n_fft.

    Arguments
    ---------
    n_fft, hop_length, window
        As of ``BlockSTFT``.

    Example
    -------
    >>> settings = 8, 4, torch.hann_window(8)
    >>> stft, istft = BlockSTFT(*settings), BlockISTFT(*settings)
    >>> signal = torch.randn(1, 21)
    >>> parts = [istft.push(stft.push(signal)), istft.push(stft.end())]
    >>> [part.shape[-1] for part in parts]
    [16, 8]
    >>> same = torch.cat([*parts, istft.end(length=21)], dim=-1)
    >>> torch.allclose(signal, same[:, :21], atol=1e-5)
    True
    """

    def __init__(self, n_fft, hop_length, window):
        self.n_fft, self.hop_length, self.window = n_fft, hop_length, window
        self.sent = -(n_fft // 2)
        self._sums = self._weights = None

    def push(self, spec):
        """Take frames (B, F, T); return the samples that are whole, (B, n)."""
        if not spec.shape[-1]:
            return spec.real[:, 0]
        frames = torch.fft.irfft(spec.transpose(1, 2), n=self.n_fft)
        window = self.window.to(frames)
        sums = self._overlap(frames * window)
        squares = window.square().expand(1, frames.shape[1], -1)
        weights = self._overlap(squares)
        kept = self.n_fft - self.hop_length
        if self._sums is not None:
            sums[:, :kept] += self._sums
            weights[:, :kept] += self._weights
        whole = spec.shape[-1] * self.hop_length
        self._sums = sums[:, whole:].clone()
        self._weights = weights[:, whole:].clone()
        return self._emit(sums[:, :whole], weights[:, :whole])

    def end(self, length):
        """Return what is left of a signal of so many samples.

        With a hop of half a window, ``push`` may have returned samples of
        the padding before; they are for the caller to cut off.
        """
        left = max(0, length - self.sent)
        return self._emit(self._sums, self._weights)[:, :left]

    def _overlap(self, frames):
        """Add frames (B, T, N), each a hop later, with room for one more."""
        size = frames.shape[1] * self.hop_length + self.n_fft - self.hop_length
        return F.fold(
            frames.transpose(1, 2),
            (1, size),
            (1, self.n_fft),
            stride=(1, self.hop_length),
        ).reshape(len(frames), size)

    def _emit(self, sums, weights):
        before = max(0, -self.sent)  # samples before the signal
        self.sent += sums.shape[-1]
        tiny = torch.finfo(weights.dtype).tiny
        return (sums / weights.clamp_min(tiny))[:, before:]


def block_transforms(compute_stft, compute_istft):
    """The two transforms of a model, for blocks.

    Arguments
    ---------
    compute_stft, compute_istft : torch.nn.Module
        SpeechBrain's STFT and ISTFT.

    Returns
    -------
    BlockSTFT
    BlockISTFT
        Neither has begun.

    Raises
    ------
    ValueError
        If they are others, or have options that need the whole signal.

    Example
    -------
    >>> settings = {"sample_rate": 16000, "win_length": 32, "hop_length": 8}
    >>> stft, istft = STFT(n_fft=512, **settings), ISTFT(n_fft=512, **settings)
    >>> block_stft, block_istft = block_transforms(stft, istft)
    >>> block_stft.hop_length
    128
    """
    fits = (
        isinstance(compute_stft, STFT)
        and isinstance(compute_istft, ISTFT)
        and all(
            getattr(compute_stft, name) == getattr(compute_istft, name)
            for name in SHARED
        )
        and torch.equal(compute_stft.window, compute_istft.window)
        and compute_stft.n_fft % 2 == 0
        and 2 * compute_stft.hop_length <= compute_stft.n_fft
        and compute_stft.center
        and compute_istft.center
        and compute_stft.onesided
        and not compute_stft.normalized_stft
        and compute_stft.pad_mode == "constant"
    )
    if not fits:
        raise ValueError(
            "this model's STFT and ISTFT cannot take blocks, expected those "
            "of SpeechBrain with the same settings, an even n_fft, a hop of at "
            "most half of it, centred frames and zeros around the signal"
        )
    n_fft = compute_stft.n_fft
    left = (n_fft - compute_stft.win_length) // 2
    right = n_fft - compute_stft.win_length - left
    window = F.pad(compute_stft.window, (left, right))
    settings = (n_fft, compute_stft.hop_length, window)
    return BlockSTFT(*settings), BlockISTFT(*settings)
