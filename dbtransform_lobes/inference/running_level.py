"""The level of live streams, from what has been heard so far.

Models are trained at an RMS of 1 and want it kept within about 10 dB, but the
level of a whole signal is not known before its end.
"""

import math

import torch

MEMORY_SECONDS = 10.0
SILENCE = 1e-16  # power below which nothing is heard, an RMS of 1e-8


class RunningLevel:
    """Gain that brings each frame of a stream to the level a model expects.

    g_t = 1 / sqrt(P_t),  P_t = sum_s r^(t - s) p_s / sum_s r^(t - s),

    s going over the frames 0..t that are not silent, the others not being
    counted; p_s = sum_n (w[n] x[n])^2 / sum_n w[n]^2 is the power of a frame
    and r = exp(-hop / 10 s). The gain is 1 until something is heard. P_t is
    that of the whole for a stream that has just begun, and later on that of
    about the last 10 s.

    Arguments
    ---------
    stft : BlockSTFT
        What makes the frames.
    sample_rate : int
        In Hz.

    Example
    -------
    >>> from dbtransform_lobes.inference.block_stft import BlockSTFT
    >>> stft = BlockSTFT(8, 4, torch.hann_window(8))
    >>> spec = stft.push(torch.full((1, 40), 0.5))
    >>> RunningLevel(stft, sample_rate=1000).push(spec)[0, 0, -1]
    tensor(2.0341)
    """

    def __init__(self, stft, sample_rate):
        n_fft = stft.n_fft
        # Parseval: all bins but the first and the last one stand for two.
        share = torch.full((n_fft // 2 + 1,), 2.0, dtype=torch.float64)
        share[0] = share[-1] = 1.0
        self._share = share / (n_fft * stft.window.double().square().sum())
        self._decay = math.exp(-stft.hop_length / sample_rate / MEMORY_SECONDS)
        self._sums = self._weights = None

    def push(self, spec):
        """The gains (B, 1, T) of the next frames (B, F, T)."""
        share = self._share.to(spec.device)
        power = (spec.abs().double().square() * share[:, None]).sum(1)  # (B, T)
        if self._sums is None:
            self._sums = self._weights = torch.zeros_like(power[:, 0])
        means = []
        for now in power.unbind(-1):
            heard = now > SILENCE
            sums = self._decay * self._sums + now
            self._sums = torch.where(heard, sums, self._sums)
            weights = self._decay * self._weights + 1
            self._weights = torch.where(heard, weights, self._weights)
            means.append(self._sums / self._weights)  # NaN: nothing heard
        gain = torch.stack(means, dim=-1).rsqrt().nan_to_num(nan=1.0)
        return gain[:, None].to(spec.real.dtype)
