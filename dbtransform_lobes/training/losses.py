"""Loss terms on waveforms; their weights stand in the YAML."""

import inspect

import torch
from speechbrain.nnet.losses import cal_si_snr
from torch import nn

from dbtransform_lobes.models.band_split import compress
from dbtransform_lobes.models.compose import build


def unit_rms_gain(noisy, eps=1e-8):
    """Gain that brings every waveform of a batch to an RMS of 1.

    At that level losses are computed, whatever the level of the recordings.

    Arguments
    ---------
    noisy : torch.Tensor
        (B, L).
    eps : float
        Waveforms below this RMS count as silent and get a gain of 1.

    Returns
    -------
    torch.Tensor
        (B, 1).

    Example
    -------
    >>> unit_rms_gain(torch.tensor([[2.0, -2.0], [0.0, 0.0]]))
    tensor([[0.5000],
            [1.0000]])
    """
    level = noisy.square().mean(-1, keepdim=True).sqrt()
    return torch.where(level > eps, 1 / level.clamp_min(eps), 1.0)


def compressed_magnitude(clean_spec, estimate_spec, exponent=0.3):
    """Mean of `(|S|^c - |Y|^c)^2` (Braun & Tashev, 2021, eq. 5, left term).

    Arguments
    ---------
    clean_spec, estimate_spec : torch.Tensor
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
        """Return compressed magnitudes."""
        return (spec.square().sum(-1) + 1e-12) ** (exponent / 2)

    error = magnitude(clean_spec) - magnitude(estimate_spec)
    return error.square().flatten(1).mean(-1)


def compressed_complex(clean_spec, estimate_spec, exponent=0.3):
    """Mean of `|S |S|^(c-1) - Y |Y|^(c-1)|^2` (ibid., eq. 5, right term).

    Arguments
    ---------
    clean_spec, estimate_spec : torch.Tensor
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
    error = compress(clean_spec, exponent) - compress(estimate_spec, exponent)
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
        """Remove the mean and divide by the norm."""
        x = x - x.mean(dim, keepdim=True)
        return x / (x.norm(dim=dim, keepdim=True) + floor)

    def segments(spec):
        """Cut third-octave envelopes into segments."""
        envelope = (spec.square().sum(-1) @ bands + 1e-8).sqrt()  # (B, T, J)
        size = min(frames, envelope.shape[1])
        cut = envelope.unfold(1, size, step)  # (B, M, J, N)
        return normalise(normalise(cut, -1, floor), -2, 1e-3)

    product = (segments(clean) * segments(estimate)).sum(-2)
    return 1 - product.flatten(1).mean(-1)


def time_l1(clean, estimate):
    """Mean of `|s - y|`.

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


class EnvelopeDistance(nn.Module):
    """``envelope_distance`` with the bands of an STFT.

    Arguments
    ---------
    n_fft : int
        FFT length.
    sample_rate : int
        In Hz.

    Example
    -------
    >>> clean = torch.randn(2, 60, 257, 2)
    >>> EnvelopeDistance(512, 16000)(clean, -clean).shape
    torch.Size([2])
    """

    def __init__(self, n_fft, sample_rate):
        super().__init__()
        bands = third_octave_bands(n_fft, sample_rate)
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, clean_spec, estimate_spec):
        """Map spectra (B, T, F, 2) to (B,)."""
        return envelope_distance(clean_spec, estimate_spec, self.bands)


def consistency(estimate, spec, front_end, exponent=0.3):
    """Compressed complex error of a spectrum against the STFT of its iSTFT.

    0 if there is a signal of that spectrum (MP-SENet, Lu et al., 2023,
    arXiv:2308.08926).

    Arguments
    ---------
    estimate : torch.Tensor
        Waveforms (B, L), the iSTFT of ``spec``.
    spec : torch.Tensor
        Complex (B, F, T), what the model made.
    front_end : torch.nn.Module
        STFT of the model.
    exponent : float
        As in ``compressed_complex``.

    Returns
    -------
    torch.Tensor
        (B,), one value for each item.
    """
    spec = torch.view_as_real(spec.transpose(1, 2))
    return compressed_complex(front_end(estimate), spec, exponent)


class EnhancementLoss(nn.Module):
    """Weighted sum of terms, in fp32.

    A term is a function, or a class whose objects are called, of one value
    for each item, (B,). It is called with those of these that its signature
    names: ``clean`` and ``estimate``, waveforms (B, L); ``clean_spec`` and
    ``estimate_spec``, their STFT (B, T, F, 2); ``spec``, what the model made
    and the estimate is the iSTFT of, complex (B, F, T). A class is made with
    ``n_fft`` and ``sample_rate`` if it asks for them.

    The caller brings the waveforms to an RMS that does not depend on the
    level of the recording.

    Arguments
    ---------
    compute_stft : torch.nn.Module
        SpeechBrain's STFT, whatever the front end of the model.
    terms : dict
        Name to [weight, term]; a term of weight 0 is neither made nor
        computed.

    Raises
    ------
    ValueError
        If a weight is below 0 or none is above.

    Example
    -------
    >>> from speechbrain.processing.features import STFT
    >>> stft = STFT(sample_rate=16000, win_length=32, hop_length=8, n_fft=512)
    >>> terms = {"time": [2.0, time_l1], "complex": [1.0, compressed_complex]}
    >>> loss = EnhancementLoss(stft, terms)
    >>> clean = torch.randn(2, 4000)
    >>> total, terms = loss(clean, clean + 0.1)
    >>> total.shape, sorted(terms)
    (torch.Size([2]), ['complex', 'time'])
    """

    def __init__(self, compute_stft, terms):
        super().__init__()
        weights = {name: weight for name, (weight, _) in terms.items()}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(
                f"loss weights are {weights}, expected none below 0 and one "
                "above"
            )
        self.weights = {name: w for name, w in weights.items() if w}
        self.compute_stft = compute_stft
        self.terms = {name: self._made(terms[name][1]) for name in self.weights}

    def _made(self, term):
        if not inspect.isclass(getattr(term, "func", term)):
            return term
        rate = self.compute_stft.sample_rate
        return build(term, n_fft=self.compute_stft.n_fft, sample_rate=rate)

    def forward(self, clean, estimate, spec=None):
        """Loss of every item and its terms.

        Arguments
        ---------
        clean, estimate : torch.Tensor
            Waveforms (B, L).
        spec : torch.Tensor, optional
            Complex (B, F, T), for terms that ask for it.

        Returns
        -------
        total : torch.Tensor
            (B,).
        terms : dict of torch.Tensor
            Each (B,), without their weights.
        """
        with torch.autocast(clean.device.type, enabled=False):
            clean, estimate = clean.float(), estimate.float()
            seen = {"clean": clean, "estimate": estimate, "spec": spec}
            seen["clean_spec"] = self.compute_stft(clean)
            seen["estimate_spec"] = self.compute_stft(estimate)
            terms = {
                name: build(_callable(term, clean.device), **seen)
                for name, term in self.terms.items()
            }
        total = sum(self.weights[name] * term for name, term in terms.items())
        return total, terms


def _callable(term, device):
    """What is called of a term; a module follows the signals' device."""
    return term.to(device).forward if isinstance(term, nn.Module) else term
