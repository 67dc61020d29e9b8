"""Remove DC and rumble from each frame of a spectrum.

A frame under its window, w[n] x[n], loses its projection onto
span{w[n], w[n] n, w[n] n^2}: what a parabola explains in 32 ms. Frequencies
up to 20 Hz fall by 26 dB and more, those above 70 Hz stay. Since a frame is
mended by itself, whole files and live streams agree and nothing is delayed.
"""

import torch
from torch import nn


class Detrend(nn.Module):
    """Subtract the least-squares parabola from each windowed frame.

    Computed on the spectrum: with q_k the orthonormal basis of the trend and
    Q_k its DFT, X'[f] = X[f] - sum_k c_k Q_k[f], where by Parseval
    c_k = sum_n q_k[n] w[n] x[n] = 1/N Re sum_f g_f conj(Q_k[f]) X[f] with
    g = 2, and 1 at 0 Hz and at half the sample rate.

    Arguments
    ---------
    window : torch.Tensor
        Analysis window of the STFT, (N,) with N = n_fft, even.

    Example
    -------
    >>> window = torch.hann_window(512)
    >>> frame = torch.view_as_real(torch.fft.rfft(0.3 * window))  # 0.3 of DC
    >>> bool(Detrend(window)(frame[None, None]).abs().max() < 1e-3)
    True
    """

    def __init__(self, window):
        super().__init__()
        window = window.double()
        size = len(window)
        time = torch.linspace(-1, 1, size, dtype=torch.float64)
        trend = torch.stack([window * time**k for k in range(3)], 1)
        basis = torch.fft.rfft(torch.linalg.qr(trend)[0], dim=0)  # (F, k)
        basis = torch.view_as_real(basis).transpose(1, 2)  # (F, 2, k)
        count = torch.full((size // 2 + 1, 1, 1), 2.0 / size)
        count[0] = count[-1] = 1 / size
        analyse = (count * basis).flatten(0, 1).float()
        synthesise = basis.flatten(0, 1).T.float()
        self.register_buffer("analyse", analyse, persistent=False)
        self.register_buffer("synthesise", synthesise, persistent=False)

    def forward(self, bins):
        """Map real and imaginary parts (B, T, F, 2) to ones without trends."""
        # Autocast would round the signal itself.
        with torch.autocast(bins.device.type, enabled=False):
            flat = bins.flatten(-2)
            analyse = self.analyse.to(flat.dtype)
            synthesise = self.synthesise.to(flat.dtype)
            flat = flat - (flat @ analyse) @ synthesise
            return flat.unflatten(-1, bins.shape[-2:])
