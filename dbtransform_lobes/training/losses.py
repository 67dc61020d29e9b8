"""Loss terms on waveforms; their weights stand in the YAML.

A term compares ``clean`` and ``estimate``, waveforms (B, L), or their spectra
(B, T, F, 2) in fp32, and returns one value for each item, (B,).
"""

import inspect

import torch
from torch import nn

from dbtransform_lobes.models.band_split import compress
from dbtransform_lobes.models.compose import build


def unit_rms_gain(noisy, eps=1e-8):
    """Return the gains (B, 1) that bring waveforms (B, L) to an RMS of 1.

    At that level losses are computed. Waveforms below an RMS of ``eps`` count
    as silent and get a gain of 1.

    Example
    -------
    >>> unit_rms_gain(torch.tensor([[2.0, -2.0], [0.0, 0.0]]))
    tensor([[0.5000],
            [1.0000]])
    """
    level = noisy.square().mean(-1, keepdim=True).sqrt()
    return torch.where(level > eps, 1 / level.clamp_min(eps), 1.0)


def compressed_magnitude(clean_spec, estimate_spec, exponent=0.3):
    """Average `(|S|^c - |Y|^c)^2` (Braun & Tashev, 2021, eq. 5, left term).

    ``exponent`` is c.
    Example
    -------
    >>> clean = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    >>> round(float(compressed_magnitude(clean, 0 * clean, exponent=1.0)), 3)
    25.0
    """

    s, y = (x.square().sum(-1) + 1e-12 for x in (clean_spec, estimate_spec))
    error = s ** (exponent / 2) - y ** (exponent / 2)
    return error.square().flatten(1).mean(-1)


def compressed_complex(clean_spec, estimate_spec, exponent=0.3):
    """Average `|S |S|^(c-1) - Y |Y|^(c-1)|^2`, c = ``exponent`` (ibid.).

    Example
    -------
    >>> clean = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    >>> compressed_complex(clean, -clean, exponent=1.0)
    tensor([100.])
    """
    error = compress(clean_spec, exponent) - compress(estimate_spec, exponent)
    return error.square().sum(-1).flatten(1).mean(-1)


def consistency(estimate, spec, front_end, exponent=0.3):
    """Compare a spectrum with the STFT of its iSTFT by ``compressed_complex``.

    0 if there is a signal of that spectrum (MP-SENet, Lu et al., 2023,
    arXiv:2308.08926). ``estimate`` is the iSTFT of ``spec``, which is what the
    model made, complex (B, F, T); ``front_end`` is the STFT of the model.

    Example
    -------
    >>> from speechbrain.processing.features import STFT
    >>> stft = STFT(16000, win_length=32, hop_length=8, n_fft=512)
    >>> wave = torch.randn(2, 4000)
    >>> spec = torch.view_as_complex(stft(wave)).transpose(1, 2)
    >>> consistency(wave, spec, stft)
    tensor([0., 0.])
    """
    spec = torch.view_as_real(spec.transpose(1, 2))
    return compressed_complex(front_end(estimate), spec, exponent)


def negative_si_sdr(clean, estimate, max_db=35.0):
    """Return minus the scale-invariant SDR in dB (Le Roux et al., 2019).

    It saturates at ``max_db``, so that nearly clean items do not rule the
    gradient (Wisdom et al., 2020, arXiv:2006.12701, eq. 4). Items of silent
    clean speech, for which it is not defined, count 0.

    Example
    -------
    >>> clean = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    >>> error = torch.tensor([[0.1, 0.1, -0.1, -0.1]])
    >>> negative_si_sdr(clean, 2 * (clean + error), max_db=100.0)
    tensor([-20.0000])
    """
    clean, estimate = (x - x.mean(-1, keepdim=True) for x in (clean, estimate))
    energy = clean.square().sum(-1, keepdim=True)
    scale = (clean * estimate).sum(-1, keepdim=True) / (energy + 1e-8)
    target = scale * clean
    signal = target.square().sum(-1) + 1e-8
    error = (estimate - target).square().sum(-1)
    sdr = signal / (error + 10 ** (-max_db / 10) * signal)
    return torch.where(energy[:, 0] > 0, -10 * torch.log10(sdr), 0.0)


def time_l1(clean, estimate):
    """Average `|s - y|`.

    Example
    -------
    >>> time_l1(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.0, -2.0]]))
    tensor([1.])
    """
    return (clean - estimate).abs().mean(-1)


class EnvelopeDistance(nn.Module):
    """One minus the correlation of third-octave envelopes, 0 for equal ones.

    Envelopes of short segments are brought to zero mean and unit norm over
    time for each band, then over the bands for each frame; the mean product
    of the two is the correlation (ESTOI; Jensen & Taal, 2016, eq. 3-6).

    Arguments
    ---------
    n_fft, sample_rate : int
        FFT length of the spectra; rate in Hz.
    frames, step : int
        Length of a segment and distance to the next one, in frames; 48 of
        8 ms are ESTOI's 384 ms. Shorter spectra are one segment.
    floor : float
        Added to the norm over time: what is far below the speech counts as
        uncorrelated and gives no gradient.

    Example
    -------
    >>> clean = 10 * torch.randn(2, 60, 257, 2)
    >>> bool((EnvelopeDistance(512, 16000)(clean, 3 * clean) < 0.01).all())
    True
    """

    def __init__(self, n_fft, sample_rate, frames=48, step=8, floor=0.1):
        super().__init__()
        self.frames, self.step, self.floor = frames, step, floor
        bands = _third_octave_bands(n_fft, sample_rate)
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, clean_spec, estimate_spec):
        """Map spectra (B, T, F, 2) to (B,)."""
        pair = map(self._segments, (clean_spec, estimate_spec))
        return 1 - torch.mul(*pair).sum(-2).flatten(1).mean(-1)

    def _segments(self, spec):
        power = spec.square().sum(-1) @ self.bands
        envelope = (power + 1e-8).sqrt()  # (B, T, J)
        size = min(self.frames, envelope.shape[1])
        cut = envelope.unfold(1, size, self.step)  # (B, M, J, N)
        for dim, floor in ((-1, self.floor), (-2, 1e-3)):
            cut = cut - cut.mean(dim, keepdim=True)
            cut = cut / (cut.norm(dim=dim, keepdim=True) + floor)
        return cut


def _third_octave_bands(n_fft, sample_rate, lowest_hz=150.0):
    """Return (bins, bands) of zeros and ones; centres go up from 150 Hz."""
    bin_hz, columns, centre = sample_rate / n_fft, [], lowest_hz
    while centre * 2 ** (1 / 6) < sample_rate / 2:
        first = round(centre * 2 ** (-1 / 6) / bin_hz)
        last = round(centre * 2 ** (1 / 6) / bin_hz)
        column = torch.zeros(n_fft // 2 + 1)
        column[first : max(last, first + 1)] = 1.0
        columns.append(column)
        centre *= 2 ** (1 / 3)
    return torch.stack(columns, dim=-1)


class EnhancementLoss(nn.Module):
    """Add weighted terms, in fp32.

    A term is a function, or a class whose objects are called. It is called
    with those of these that its signature names: ``clean``, ``estimate``,
    ``clean_spec``, ``estimate_spec`` and ``spec``, what the model made and the
    estimate is the iSTFT of, complex (B, F, T). A class is made with
    ``n_fft`` and ``sample_rate`` if it asks for them. The caller brings the
    waveforms to one RMS. ValueError if a weight is below 0 or none is above.

    Arguments
    ---------
    compute_stft : torch.nn.Module
        SpeechBrain's STFT, whatever the front end of the model.
    terms : dict
        Name to [weight, term]; a term of weight 0 is neither made nor
        computed.

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
        self.terms = {name: terms[name][1] for name in self.weights}
        for name, term in self.terms.items():
            if inspect.isclass(getattr(term, "func", term)):
                n_fft, rate = compute_stft.n_fft, compute_stft.sample_rate
                self.terms[name] = build(term, n_fft=n_fft, sample_rate=rate)

    def forward(self, clean, estimate, spec=None):
        """Map waveforms (B, L) to the loss (B,) and its terms.

        ``spec`` is needed by terms that ask for it. The terms are a dict of
        (B,), without their weights.
        """
        with torch.autocast(clean.device.type, enabled=False):
            clean, estimate = clean.float(), estimate.float()
            seen = {"clean": clean, "estimate": estimate, "spec": spec}
            seen["clean_spec"] = self.compute_stft(clean)
            seen["estimate_spec"] = self.compute_stft(estimate)
            terms = {}
            for name, term in self.terms.items():
                if isinstance(term, nn.Module):  # follows the signals' device
                    term = term.to(clean.device).forward
                terms[name] = build(term, **seen)
        total = sum(self.weights[name] * term for name, term in terms.items())
        return total, terms
