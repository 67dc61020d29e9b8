"""Multi-resolution STFT loss.

Source: Parallel WaveGAN (Yamamoto, Song & Kim, 2020, arXiv:1910.11480),
eq. 3 to 6.
"""

import torch


def multi_resolution_stft(clean, estimate, n_ffts=(512, 1024, 2048)):
    """Add spectral convergence and log magnitude, mean over resolutions.

    With magnitudes S and Y: `|S - Y|_F / |S|_F + mean |log S - log Y|`. A
    silent clean item, which nothing can be divided by, has no convergence.
    Waveforms (B, L), fp32, to (B,); ``n_ffts`` are in samples.

    Example
    -------
    >>> clean = torch.randn(2, 4000)
    >>> multi_resolution_stft(clean, clean)
    tensor([0., 0.])
    """
    silent = clean.abs().amax(-1) == 0
    terms = []
    for n_fft in n_ffts:
        s, y = _magnitude(clean, n_fft), _magnitude(estimate, n_fft)
        distance = (s - y).flatten(1).norm(dim=-1)
        convergence = distance / s.flatten(1).norm(dim=-1)
        terms.append(torch.where(silent, 0.0, convergence))
        terms.append((s.log() - y.log()).abs().flatten(1).mean(-1))
    return sum(terms) / len(n_ffts)


def _magnitude(wave, n_fft):
    """Return magnitudes (B, F, T) under a Hann window, a quarter as hop.

    They are at least 10^-3.5, which keeps gradient and logarithm finite.
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
