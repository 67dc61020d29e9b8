"""Loss terms on waveforms; their weights stand in the YAML."""

import torch
from speechbrain.nnet.losses import cal_si_snr
from torch import nn

from dbtransform_lobes.models.band_split import compress
from dbtransform_lobes.training.losses_multi_resolution import (
    multi_resolution_stft,
)
from dbtransform_lobes.training.losses_pesq import PesqDisturbance
from dbtransform_lobes.training.losses_phase import (
    angular_frequency,
    group_delay,
    instantaneous_phase,
)


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


def third_octave_bands(n_fft, sample_rate, lowest_hz=150.0):
    """Third-octave bands as sums of bins, the lowest one centred at 150 Hz.

    Arguments
    ---------
    n_fft : int
        FFT length.
    sample_rate : int
        In Hz.
    lowest_hz : float
        Centre of the lowest band.

    Returns
    -------
    torch.Tensor
        (bins, bands) of zeros and ones, all bands below half the rate.

    Example
    -------
    >>> bands = third_octave_bands(512, 16000)
    >>> bands.shape, bands[:, 0].nonzero().tolist()
    (torch.Size([257, 17]), [[4]])
    """
    bin_hz, columns, centre = sample_rate / n_fft, [], lowest_hz
    while centre * 2 ** (1 / 6) < sample_rate / 2:
        first = round(centre * 2 ** (-1 / 6) / bin_hz)
        last = round(centre * 2 ** (1 / 6) / bin_hz)
        column = torch.zeros(n_fft // 2 + 1)
        column[first : max(last, first + 1)] = 1.0
        columns.append(column)
        centre *= 2 ** (1 / 3)
    return torch.stack(columns, dim=-1)


def envelope_distance(clean, estimate, bands, frames=48, step=8, floor=0.1):
    """One minus the correlation of third-octave envelopes.

    Envelopes of short segments are brought to zero mean and unit norm over
    time for each band, then over the bands for each frame; the mean product
    of the two is the correlation (ESTOI; Jensen & Taal, 2016, eq. 3-6).

    Arguments
    ---------
    clean, estimate : torch.Tensor
        Spectra (B, T, F, 2), fp32; T >= frames, else one segment of T.
    bands : torch.Tensor
        (F, J), see ``third_octave_bands``.
    frames : int
        Frames of a segment; 48 of 8 ms are ESTOI's 384 ms.
    step : int
        Frames from a segment to the next.
    floor : float
        Added to the norm over time: what is far below the speech counts as
        uncorrelated and gives no gradient.

    Returns
    -------
    torch.Tensor
        (B,), 0 for equal envelopes.

    Example
    -------
    >>> bands = third_octave_bands(512, 16000)
    >>> clean = 10 * torch.randn(1, 60, 257, 2)
    >>> same = envelope_distance(clean, 3 * clean, bands)
    >>> bool(same < 0.01)
    True
    """

    def normalise(x, dim, floor):
        x = x - x.mean(dim, keepdim=True)
        return x / (x.norm(dim=dim, keepdim=True) + floor)

    def segments(spec):
        envelope = (spec.square().sum(-1) @ bands + 1e-8).sqrt()  # (B, T, J)
        size = min(frames, envelope.shape[1])
        cut = envelope.unfold(1, size, step)  # (B, M, J, N)
        return normalise(normalise(cut, -1, floor), -2, 1e-3)

    product = (segments(clean) * segments(estimate)).sum(-2)
    return 1 - product.flatten(1).mean(-1)


def time_l1(clean, estimate):
    """Mean of |s - y|.

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
    >>> time_l1(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, -2.0]]))
    tensor([1.])
    """
    return (clean - estimate).abs().mean(-1)


class EnhancementLoss(nn.Module):
    """Weighted sum of the terms, in fp32.

    The spectral terms see the STFT of the waveforms (for the estimate the
    STFT of its iSTFT), brought to a clean RMS that does not depend on the
    recording's level by the caller. Consistency is the compressed complex
    error of the model's spectrum against the STFT of its iSTFT (MP-SENet, Lu
    et al., 2023, arXiv:2308.08926), 0 if there is a signal of that spectrum.

    Arguments
    ---------
    compute_stft : torch.nn.Module
        SpeechBrain's STFT.
    magnitude, complex, si_sdr, envelope, phase, group_delay, \
    angular_frequency, consistency, time, multi_resolution, pesq : float
        Weights; a term of weight 0 is not computed. ``envelope`` resembles
        ESTOI and ``pesq`` PESQ, so a model trained with them has seen its own
        test metric; ``pesq`` needs the package torch-pesq.
    exponent : float
        Compression of the magnitude, complex and consistency terms.
    n_ffts : sequence of int
        Resolutions of ``multi_resolution``.
    front_end : torch.nn.Module, optional
        STFT of the model, for ``consistency``.

    Raises
    ------
    ValueError
        If a weight is below 0, none is above, or a term lacks what it needs.

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
        self,
        compute_stft,
        magnitude=1.0,
        complex=1.0,
        si_sdr=0.0,
        envelope=0.0,
        phase=0.0,
        group_delay=0.0,
        angular_frequency=0.0,
        consistency=0.0,
        time=0.0,
        multi_resolution=0.0,
        pesq=0.0,
        exponent=0.3,
        n_ffts=(512, 1024, 2048),
        front_end=None,
    ):
        super().__init__()
        weights = {
            "magnitude": magnitude,
            "complex": complex,
            "si_sdr": si_sdr,
            "envelope": envelope,
            "phase": phase,
            "group_delay": group_delay,
            "angular_frequency": angular_frequency,
            "consistency": consistency,
            "time": time,
            "multi_resolution": multi_resolution,
            "pesq": pesq,
        }
        _check_weights(weights, front_end)
        self.weights = {name: w for name, w in weights.items() if w}
        self.compute_stft, self.exponent = compute_stft, exponent
        self.n_ffts, self.front_end = tuple(n_ffts), front_end
        rate = compute_stft.sample_rate
        self.bands = third_octave_bands(compute_stft.n_fft, rate)
        self.pesq = PesqDisturbance(rate) if pesq else None

    def forward(self, clean, estimate, spec=None):
        """Loss of every item and its terms.

        Arguments
        ---------
        clean, estimate : torch.Tensor
            Waveforms (B, L).
        spec : torch.Tensor, optional
            Complex (B, F, T), what the model made and the estimate is the
            iSTFT of; needed for ``consistency`` alone.

        Returns
        -------
        total : torch.Tensor
            (B,).
        terms : dict of torch.Tensor
            Each (B,), without their weights.
        """
        with torch.autocast(clean.device.type, enabled=False):
            compute = self._computations(clean.float(), estimate.float(), spec)
            terms = {name: compute[name]() for name in self.weights}
        total = sum(self.weights[name] * term for name, term in terms.items())
        return total, terms

    def _computations(self, clean, estimate, spec):
        """A function for each term, called only if its weight is not 0."""
        spectra = self.compute_stft(clean), self.compute_stft(estimate)
        device, exponent = clean.device, self.exponent
        return {
            "magnitude": lambda: compressed_magnitude(*spectra, exponent),
            "complex": lambda: compressed_complex(*spectra, exponent),
            "si_sdr": lambda: negative_si_sdr(clean, estimate),
            "envelope": lambda: envelope_distance(
                *spectra, self.bands.to(device)
            ),
            "phase": lambda: instantaneous_phase(*spectra),
            "group_delay": lambda: group_delay(*spectra),
            "angular_frequency": lambda: angular_frequency(*spectra),
            "consistency": lambda: compressed_complex(
                self.front_end(estimate),
                torch.view_as_real(spec.transpose(1, 2)),
                exponent,
            ),
            "time": lambda: time_l1(clean, estimate),
            "multi_resolution": lambda: multi_resolution_stft(
                clean, estimate, self.n_ffts
            ),
            "pesq": lambda: self.pesq.to(device)(clean, estimate),
        }


def _check_weights(weights, front_end):
    if min(weights.values()) < 0 or not any(weights.values()):
        raise ValueError(
            f"loss weights are {weights}, expected none below 0 and one above"
        )
    if weights["consistency"] and front_end is None:
        raise ValueError(
            "the consistency term has no front_end, expected the STFT of the "
            "model; give one or set its weight to 0"
        )
