"""Multi-resolution STFT loss.

Source: Parallel WaveGAN (Yamamoto, Song & Kim, 2020, arXiv:1910.11480),
eq. 3 to 6.
"""

import torch


def stft_magnitude(wave, n_fft):
    """Magnitudes with a Hann window of n_fft samples, a quarter as hop.

    Arguments
    ---------
    wave : torch.Tensor
        (B, L), fp32.
    n_fft : int
        In samples.

    Returns
    -------
    torch.Tensor
        (B, F, T), at least 10^-3.5, which keeps the gradient and the
        logarithm finite.

    Example
    -------
    >>> stft_magnitude(torch.randn(2, 1000), 512).shape
    torch.Size([2, 257, 8])
    """
    spec = torch.stft(
        wave,
        n_fft,
        hop_length=n_fft // 4,
        window=torch.hann_window(n_fft, dtype=wave.dtype, device=wave.device),
        pad_mode="constant",
        return_complex=True,
    )
    power = torch.view_as_real(spec).square().sum(-1)
    return power.clamp_min(1e-7).sqrt()


def multi_resolution_stft(clean, estimate, n_ffts=(512, 1024, 2048)):
    """Spectral convergence plus log magnitude, mean over resolutions.

    With magnitudes S and Y: `|S - Y|_F / |S|_F + mean |log S - log Y|`. A
    silent clean item, which nothing can be divided by, has no convergence.

    Arguments
    ---------
    clean, estimate : torch.Tensor
        Waveforms (B, L), fp32.
    n_ffts : sequence of int
        FFT lengths, in samples.

    Returns
    -------
    torch.Tensor
        (B,), one value for each item.

    Example
    -------
    >>> clean = torch.randn(2, 4000)
    >>> multi_resolution_stft(clean, clean)
    tensor([0., 0.])
    """
    silent = clean.abs().amax(-1) == 0
    terms = []
    for n_fft in n_ffts:
        s, y = stft_magnitude(clean, n_fft), stft_magnitude(estimate, n_fft)
        convergence = (s - y).flatten(1).norm(dim=-1) / s.flatten(1).norm(
            dim=-1
        )
        terms.append(torch.where(silent, 0.0, convergence))
        terms.append((s.log() - y.log()).abs().flatten(1).mean(-1))
    return sum(terms) / len(n_ffts)
