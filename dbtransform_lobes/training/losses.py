"""Loss terms on waveforms; their weights stand in the YAML."""

import torch
from speechbrain.nnet.losses import cal_si_snr
from torch import nn

from dbtransform_lobes.models.band_split import compress


def compressed_magnitude(clean, estimate, exponent=0.3):
    """Mean of (|S|^c - |Y|^c)^2 (Braun & Tashev, 2021, eq. 5, left term).

    Arguments
    ---------
    clean, estimate : torch.Tensor
        Spectra (B, T, F, 2), fp32.
    exponent : float
        c.

    Returns
    -------
    torch.Tensor
        (B,), one value for each item.

    Example
    -------
    >>> clean = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    >>> round(float(compressed_magnitude(clean, 0 * clean, exponent=1.0)), 3)
    25.0
    """

    def magnitude(spec):
        return (spec.square().sum(-1) + 1e-12) ** (exponent / 2)

    error = magnitude(clean) - magnitude(estimate)
    return error.square().flatten(1).mean(-1)


def compressed_complex(clean, estimate, exponent=0.3):
    """Mean of |S |S|^(c-1) - Y |Y|^(c-1)|^2 (ibid., eq. 5, right term).

    Arguments
    ---------
    clean, estimate : torch.Tensor
        Spectra (B, T, F, 2), fp32.
    exponent : float
        c.

    Returns
    -------
    torch.Tensor
        (B,), one value for each item.

    Example
    -------
    >>> clean = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    >>> compressed_complex(clean, -clean, exponent=1.0)
    tensor([100.])
    """
    error = compress(clean, exponent) - compress(estimate, exponent)
    return error.square().sum(-1).flatten(1).mean(-1)


def negative_si_sdr(clean, estimate):
    """Minus the scale-invariant SDR in dB (Le Roux et al., 2019).

    Arguments
    ---------
    clean, estimate : torch.Tensor
        Waveforms (B, L).

    Returns
    -------
    torch.Tensor
        (B,), one value for each item.

    Example
    -------
    >>> clean = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    >>> error = torch.tensor([[0.1, 0.1, -0.1, -0.1]])
    >>> negative_si_sdr(clean, 2 * (clean + error))
    tensor([-20.0000])
    """
    clean, estimate = clean.float(), estimate.float()
    # cal_si_snr multiplies its inputs in place, hence the clones.
    return cal_si_snr(
        clean.T.unsqueeze(-1).clone(), estimate.T.unsqueeze(-1).clone()
    ).flatten()


class EnhancementLoss(nn.Module):
    """Weighted sum of the terms, in fp32.

    The spectral terms see the STFT of the waveforms (for the estimate the
    STFT of its iSTFT), brought to a clean RMS that does not depend on the
    recording's level by the caller.

    Arguments
    ---------
    compute_stft : torch.nn.Module
        SpeechBrain's STFT.
    magnitude, complex, si_sdr : float
        Weights; a term of weight 0 is not computed.
    exponent : float
        Compression of the spectral terms.

    Example
    -------
    >>> from speechbrain.processing.features import STFT
    >>> stft = STFT(sample_rate=16000, win_length=32, hop_length=8, n_fft=512)
    >>> loss = EnhancementLoss(stft, magnitude=1, complex=1, si_sdr=0)
    >>> clean = torch.randn(2, 4000)
    >>> total, terms = loss(clean, clean + 0.1)
    >>> total.shape, sorted(terms)
    (torch.Size([2]), ['complex', 'magnitude'])
    """

    def __init__(
        self, compute_stft, magnitude=1.0, complex=1.0, si_sdr=0.0, exponent=0.3
    ):
        super().__init__()
        weights = {"magnitude": magnitude, "complex": complex, "si_sdr": si_sdr}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(
                f"loss weights are {weights}, expected none below 0 and one "
                f"above"
            )
        self.weights = {name: w for name, w in weights.items() if w}
        self.compute_stft, self.exponent = compute_stft, exponent

    def forward(self, clean, estimate):
        """Loss of every item and its terms.

        Arguments
        ---------
        clean, estimate : torch.Tensor
            Waveforms (B, L).

        Returns
        -------
        total : torch.Tensor
            (B,).
        terms : dict of torch.Tensor
            Each (B,), without their weights.
        """
        with torch.autocast(clean.device.type, enabled=False):
            clean, estimate = clean.float(), estimate.float()
            spectra = self.compute_stft(clean), self.compute_stft(estimate)
            compute = {
                "magnitude": lambda: compressed_magnitude(
                    *spectra, self.exponent
                ),
                "complex": lambda: compressed_complex(*spectra, self.exponent),
                "si_sdr": lambda: negative_si_sdr(clean, estimate),
            }
            terms = {name: compute[name]() for name in self.weights}
        total = sum(self.weights[name] * term for name, term in terms.items())
        return total, terms
