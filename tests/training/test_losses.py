"""Waveform in and out, the loss terms and the average of the weights."""

import math
import sys
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from dbtransform_lobes.evaluation.metrics import pesq_wide_band, si_sdr
from dbtransform_lobes.models.waveform import enhance_waveform, sqrt_hann_window
from dbtransform_lobes.training import losses, losses_phase
from dbtransform_lobes.training.ema import weight_ema
from dbtransform_lobes.training.losses_multi_resolution import (
    multi_resolution_stft,
)
from dbtransform_lobes.training.losses_pesq import PesqDisturbance
from tests.formulas import literal_stft
from tests.runs import model_of
from tests.signals import noise_like, speech_like
from tests.twins import array, assert_twin, randn

TERMS = {
    "magnitude": losses.compressed_magnitude,
    "complex": losses.compressed_complex,
    "si_sdr": losses.negative_si_sdr,
    "envelope": losses.EnvelopeDistance,
    "phase": losses_phase.instantaneous_phase,
    "group_delay": losses_phase.group_delay,
    "angular_frequency": losses_phase.angular_frequency,
    "time": losses.time_l1,
    "multi_resolution": multi_resolution_stft,
    "pesq": PesqDisturbance,
}
waveforms = partial(randn, dtype=torch.float32)
HANN = {"hop_length": 8, "window_fn": torch.hann_window}
SQRT_HANN = {"hop_length": 16, "window_fn": sqrt_hann_window}


def transforms(**settings):
    """The STFT and the iSTFT of a model."""
    hparams = model_of(torch.nn.Identity(), **settings).hparams
    return hparams.compute_stft, hparams.compute_istft


def loss_of(stft, magnitude=1, complex=1, si_sdr=0, front_end=None, **weights):
    """Return an EnhancementLoss of these weights."""
    weights |= {"magnitude": magnitude, "complex": complex, "si_sdr": si_sdr}
    consistency = partial(losses.consistency, front_end=front_end)
    terms = {**TERMS, "consistency": consistency}
    given = {name: [weight, terms[name]] for name, weight in weights.items()}
    return losses.EnhancementLoss(stft, given)


def test_rms_gain_is_one_over_the_level_and_one_of_silence():
    noisy = 3 * randn(3, 50)
    noisy[1] = 0
    noisy[2] *= 1e-6
    power = (array(noisy) ** 2).sum(1, keepdims=True) / 50
    power[1] = 1
    expected, gain = 1 / np.sqrt(power), losses.unit_rms_gain(noisy)
    np.testing.assert_allclose(array(gain), expected, rtol=1e-10)


@pytest.mark.parametrize("settings", [HANN, SQRT_HANN])
@pytest.mark.parametrize("length", [1, 127, 512, 4000])
def test_a_model_that_does_nothing_changes_nothing(length, settings):
    stft, istft = transforms(**settings)
    noisy = waveforms(2, length) * torch.tensor([[0.5], [0.001]])
    same = enhance_waveform(torch.nn.Identity(), stft, istft, noisy)
    assert same.shape == noisy.shape
    assert (same - noisy).abs().max() < 1e-5
    halved = enhance_waveform(lambda spec: 0.5 * spec, stft, istft, noisy)
    assert (halved - 0.5 * noisy).abs().max() < 1e-5


def test_sqrt_hann_window_equals_its_formula():
    window = sqrt_hann_window(512)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    np.testing.assert_allclose(window, np.sqrt(hann), rtol=0, atol=1e-6)


def spectra_twin(clean, estimate, exponent, kind):
    """Mean over bins and frames of the squared error of an item.

    magnitude: (|S|^c - |Y|^c)^2; complex: |S |S|^(c-1) - Y |Y|^(c-1)|^2.
    """
    s, y = (x[..., 0] + 1j * x[..., 1] for x in map(array, (clean, estimate)))
    error = abs(s) ** exponent - abs(y) ** exponent
    if kind == "complex":
        error = s * abs(s) ** (exponent - 1) - y * abs(y) ** (exponent - 1)
    return (abs(error) ** 2).mean((1, 2))


@pytest.mark.parametrize("exponent", [0.3, 1.0])
def test_spectral_terms_equal_their_twins(exponent):
    clean, estimate = 3 * randn(2, 3, 5, 4, 2)
    for kind, other, term in (
        ("magnitude", "complex", losses.compressed_magnitude),
        ("complex", "magnitude", losses.compressed_complex),
    ):
        assert_twin(
            term(clean, estimate, exponent),
            spectra_twin(clean, estimate, exponent, kind),
            spectra_twin(clean, estimate, exponent, other),
            spectra_twin(clean, estimate, 0.5, kind),
            tolerance=1e-9,  # 1e-12 is added to the powers
        )


def si_sdr_twin(clean, estimate, max_db=35):
    """SI-SDR, as evaluation has it, of each item without its mean.

    -10 log10(10^(-SDR / 10) + 10^(-max / 10)): Wisdom et al., 2020, eq. 4.
    """
    both = (x.double() for x in (clean, estimate))
    parts = (array(x - x.mean(-1, keepdim=True)) for x in both)
    sdr = np.array([*map(si_sdr, *parts)])
    return -10 * np.log10(10 ** (-sdr / 10) + 10 ** (-max_db / 10))


@pytest.mark.parametrize("max_db", [20, 35, 100])
def test_si_sdr_equals_its_twin_and_is_0_of_silence(max_db):
    clean = waveforms(5, 200)
    levels = torch.tensor([[0.01], [0.1], [1.0], [0.0], [1.0]])
    estimate = 0.3 * clean + levels * waveforms(5, 200, seed=1)
    clean[4] = 0
    estimate[3] = clean[3]  # as good as it can be
    value = -losses.negative_si_sdr(clean, estimate, max_db)
    twin = si_sdr_twin(clean[:4], estimate[:4], max_db)
    other = si_sdr_twin(clean[:4], estimate[:4], 25)
    assert_twin(value[:4], twin, -twin, other, tolerance=1e-3)
    assert value[3] == pytest.approx(max_db, abs=0.01) and value[4] == 0
    scaled = -losses.negative_si_sdr(clean[:4], 7 * estimate[:4], max_db)
    assert_twin(scaled, twin, tolerance=1e-3)


def test_loss_is_the_weighted_sum_of_its_terms():
    stft, _ = transforms(**HANN)
    clean = waveforms(2, 1000)
    estimate = clean + 0.3 * waveforms(2, 1000, seed=1)
    total, terms = loss_of(stft, 20, 5, 0.1)(clean, estimate)
    spectra = stft(clean).double(), stft(estimate).double()
    kinds = "magnitude", "complex"
    twins = [spectra_twin(*spectra, 0.3, kind) for kind in kinds]
    twins.append(-si_sdr_twin(clean, estimate))
    for name, twin in zip((*kinds, "si_sdr"), twins, strict=True):
        assert_twin(terms.pop(name), twin, tolerance=1e-3)
    assert not terms
    expected = np.dot((20, 5, 0.1), twins)
    np.testing.assert_allclose(array(total), expected, rtol=1e-4)
    assert np.abs(sum(twins) - expected).min() > 0.1


def test_loss_of_silence_is_finite_with_its_gradient():
    """Of a silent clean signal, a silent estimate, and both."""
    clean, estimate = waveforms(3, 1000), waveforms(3, 1000, seed=1)
    clean[[0, 2]], estimate[[1, 2]] = 0, 0
    estimate.requires_grad_()
    stft, _ = transforms(**HANN)
    total, _ = loss_of(stft, 1, 1, 1)(clean, estimate)
    total.sum().backward()
    assert torch.isfinite(total).all()
    assert torch.isfinite(estimate.grad).all()


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -1, 0)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="loss weights are .*, expected none"):
        loss_of(transforms(**HANN)[0], *weights)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_average_equals_its_recursion(decay):
    """a_0 = w_0; a_n = d_n a_{n-1} + (1 - d_n) w_n.

    d_n = min(decay, (1 + n) / (10 + n)).
    """
    model = torch.nn.Linear(3, 2).double()
    ema, twin = weight_ema(model, decay), None
    for n in range(40):
        weight = randn(2, 3, seed=n)
        with torch.no_grad():
            model.weight.copy_(weight)
        ema.update_parameters(model)
        weight, before = array(weight), twin
        warm = min(decay, (1 + n) / (10 + n))
        twin = warm * before + (1 - warm) * weight if n else weight
        assert_twin(ema.module.weight, twin)
        assert_twin(model.weight, weight)
        assert model.training and not ema.module.training
        if n == 5 and decay == 0.9:  # without the warm-up it would differ
            constant = decay * before + (1 - decay) * weight
            assert np.abs(twin - constant).max() > 1e-2


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_impossible_decays_are_refused(decay):
    with pytest.raises(ValueError, match="ema_decay is .*, expected 0 <="):
        weight_ema(torch.nn.Linear(1, 1), decay)


def envelope_twin(clean, estimate, bands, frames, step, floor):
    """Jensen & Taal, 2016, eq. 3-6, segment by segment."""

    def segment(spec):
        x = np.sqrt((spec**2).sum(-1) @ bands + 1e-8)  # (frames, bands)
        for axis, least in ((0, floor), (1, 1e-3)):
            x = x - x.mean(axis, keepdims=True)
            x = x / (np.sqrt((x**2).sum(axis, keepdims=True)) + least)
        return x

    totals, size = [], min(frames, clean.shape[1])
    for pair in zip(clean, estimate, strict=True):
        products = []
        for start in range(0, clean.shape[1] - size + 1, step):
            s, y = (segment(spec[start : start + size]) for spec in pair)
            products.append((s * y).sum(1).mean())
        totals.append(1 - sum(products) / len(products))
    return np.array(totals)


@pytest.mark.parametrize("frames", [5, 12, 40])
def test_envelope_distance_is_its_twin(frames):
    clean, estimate = randn(2, 20, 9, 2), randn(2, 20, 9, 2, seed=1)
    bands = torch.eye(9, 4, dtype=torch.float64)
    bands[5:, 3] = 1.0
    settings = {"frames": frames, "step": 3, "floor": 0.1}
    term = losses.EnvelopeDistance(16, 16000, **settings)
    term.bands = bands
    twin = partial(envelope_twin, *map(array, (clean, estimate, bands)))
    wrong = twin(**{**settings, "floor": 2.0})
    assert_twin(term(clean, estimate), twin(**settings), wrong)


def test_third_octave_bands_follow_each_other_up_to_7_khz():
    bands = losses.EnvelopeDistance(512, 16000).bands
    assert bands.sum(1).max() == 1  # no bin is in two bands
    first = [int(column.nonzero()[0]) for column in bands.T]
    last = [int(column.nonzero()[-1]) for column in bands.T]
    assert first[0] == 4 and last[-1] == round(150 * 2 ** (33 / 6) / 31.25) - 1
    assert all(a + 1 == b for a, b in zip(last, first[1:], strict=False))


def test_silence_gives_the_envelope_term_no_gradient():
    clean = torch.zeros(1, 60, 257, 2)
    estimate = (1e-3 * torch.randn(1, 60, 257, 2)).requires_grad_()
    losses.EnvelopeDistance(512, 16000)(clean, estimate).sum().backward()
    assert estimate.grad.abs().max() == 0


PHASE_TERMS = ("phase", "group_delay", "angular_frequency")


def phase_twin(clean, estimate, kind, wrapped=True):
    """MP-SENet: f_AW of the difference of (differences of) phases."""
    phases = (np.angle(x[..., 0] + 1j * x[..., 1]) for x in (clean, estimate))
    axis = {"phase": None, "angular_frequency": 1, "group_delay": 2}[kind]
    if axis is not None:
        phases = (np.diff(phase, axis=axis) for phase in phases)
    error = np.subtract(*phases)
    if wrapped:
        error -= 2 * np.pi * np.round(error / (2 * np.pi))
    return np.abs(error).mean((1, 2))


@pytest.mark.parametrize("kind", PHASE_TERMS)
def test_phase_terms_and_their_gradients_equal_twins(kind):
    clean, estimate = 3 * randn(2, 3, 6, 5, 2)
    got = TERMS[kind](clean, estimate)
    pair = array(clean), array(estimate)
    assert_twin(
        got,
        phase_twin(*pair, kind),
        phase_twin(*pair, kind, wrapped=False),
        *(phase_twin(*pair, each) for each in PHASE_TERMS if each != kind),
    )
    assert (got > 0).all() and (got < math.pi).all()
    clean, estimate = randn(2, 1, 3, 4, 2)
    term = partial(TERMS[kind], clean)
    assert torch.autograd.gradcheck(term, estimate.requires_grad_())


def test_bins_without_a_phase_give_no_error_and_no_gradient():
    clean, estimate = randn(2, 2, 6, 5, 2)
    clean[0, :3], estimate[0, 3] = 0, 0
    estimate[0, 4] *= 1e-5
    estimate.requires_grad_()
    for frame in range(6):
        parts = clean[:, [frame]], estimate[:, [frame]]
        none = losses_phase.instantaneous_phase(*parts) == 0
        assert none.tolist() == [frame < 5, False]
    losses_phase.instantaneous_phase(clean, estimate).sum().backward()
    assert (estimate.grad[0, :5] == 0).all()
    assert (estimate.grad[1].abs().sum(-1) > 0).all()


def test_time_l1_equals_its_twin():
    clean, estimate = randn(2, 3, 40)
    error = array(clean) - array(estimate)
    twins = abs(error).sum(1) / 40, (error**2).sum(1) / 40
    assert_twin(losses.time_l1(clean, estimate), *twins)


def magnitude_twin(wave, n_fft):
    """|STFT| with a Hann window and a hop of a quarter, in whole frames."""
    hop, window = n_fft // 4, np.hanning(n_fft + 1)[:-1]
    spec = literal_stft(wave, n_fft, hop, window)[: len(wave) // hop + 1]
    return np.sqrt(np.maximum(np.abs(spec) ** 2, 1e-7))


def multi_resolution_twin(clean, estimate, n_ffts, convergence=True):
    """Yamamoto et al., 2020, eq. 3 to 6, item by item."""
    totals = np.zeros(len(clean))
    for (i, wave), n_fft in product(enumerate(clean), n_ffts):
        s, y = (magnitude_twin(array(x), n_fft) for x in (wave, estimate[i]))
        if convergence:
            totals[i] += math.sqrt(((s - y) ** 2).sum() / (s**2).sum())
        totals[i] += np.abs(np.log(s / y)).mean()
    return totals / len(n_ffts)


def test_multi_resolution_term_equals_its_twin():
    clean, estimate = randn(2, 2, 50)
    estimate[1, :20] = 0  # below the floor
    got = multi_resolution_stft(clean, estimate, (8, 16))
    assert_twin(
        got,
        multi_resolution_twin(clean, estimate, (8, 16)),
        multi_resolution_twin(clean, estimate, (8,)),
        multi_resolution_twin(clean, estimate, (8, 16), convergence=False),
        multi_resolution_twin(estimate, clean, (8, 16)),
    )
    # By default the resolutions are 512 to 2048.
    pair = waveforms(1, 3000), waveforms(1, 3000, seed=1)
    each = [multi_resolution_stft(*pair, (n,)) for n in (512, 1024, 2048)]
    assert torch.allclose(multi_resolution_stft(*pair), sum(each) / 3)
    assert len(set(map(float, each))) == 3


@pytest.mark.parametrize("settings", [HANN, SQRT_HANN])
def test_consistency_is_that_of_the_models_spectrum(settings):
    stft, istft = transforms(**settings)
    loss_stft, _ = transforms(**HANN)
    loss = loss_of(loss_stft, 0, 0, consistency=3.0, front_end=stft)
    noisy, values = waveforms(2, 4000), []
    # At the level of the spectrum, as the Brain has it.
    gain = losses.unit_rms_gain(noisy)
    for mask in (torch.tensor(0.5), waveforms(2, 257, 1).sign()):
        parts = mask.mul, stft, istft, noisy
        estimate, spec = enhance_waveform(*parts, return_spec=True)
        assert spec.shape[:2] == (2, 257) and estimate.shape == noisy.shape
        total, terms = loss(noisy, gain * estimate, spec)
        values.append(terms["consistency"])
        assert torch.equal(total, 3 * values[-1])
        spec = torch.view_as_real(spec.transpose(1, 2)).double()
        again = stft(gain * estimate).double()
        twin = spectra_twin(spec, again, 0.3, "complex")
        assert_twin(values[-1], twin, tolerance=1e-4)
    assert values[0].max() < 1e-4 and values[1].min() > 1e-2


OTHERS = ["magnitude", "complex", "consistency", "time", "multi_resolution"]


@pytest.mark.parametrize("name", [*PHASE_TERMS, *OTHERS])
def test_term_alone_trains_and_is_zero_for_a_perfect_estimate(name):
    """Even on silence, the last of the clean signals; in bf16 as in fp32."""
    stft, istft = transforms(**HANN)
    weights = {"magnitude": 0, "complex": 0, name: 2.0}
    loss = loss_of(stft, front_end=stft, **weights)
    rows = [speech_like(0.6, 1), speech_like(0.6, 2), np.zeros(9600)]
    clean = torch.tensor(np.stack(rows), dtype=torch.float32)
    noisy = clean + torch.tensor(noise_like(0.6, 1)).float()
    model = torch.nn.Conv1d(257, 257, 1)
    parts = stft, istft, noisy
    wave, spec = enhance_waveform(
        lambda s: s * model(s.abs()).sigmoid(), *parts, return_spec=True
    )
    total, terms = loss(clean, wave, spec)
    assert list(terms) == [name] and torch.equal(total, 2 * terms[name])
    total.sum().backward()
    assert torch.isfinite(total).all() and (total[:2] > 0).all()
    assert torch.isfinite(model.weight.grad).all()
    assert model.weight.grad.abs().max() > 0
    perfect = torch.view_as_complex(stft(clean)).transpose(1, 2)
    assert (loss(clean, clean, perfect)[0] == 0).all()
    exact, _ = loss(clean, noisy, perfect)
    assert (exact[:2] > 2e-3).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same, _ = loss(clean, noisy, perfect)
    assert same.dtype == torch.float32 and torch.equal(same, exact)


def test_pesq_term_follows_pesq():
    pytest.importorskip("torch_pesq")
    clean = speech_like(1.0, 1)
    rows = [clean + gain * noise_like(1.0, 1) for gain in (0.03, 0.1, 0.5)]
    scores = [pesq_wide_band(clean, row) for row in rows]
    assert scores == sorted(scores, reverse=True)
    # The last one ends in digital silence.
    rows += [clean, np.append(rows[0][:8000], np.zeros(8000))]
    estimates = torch.tensor(np.stack(rows), dtype=torch.float32)
    cleans = torch.tensor(clean, dtype=torch.float32).repeat(5, 1)
    cleans[3] = 0  # silent: not defined, counts 0
    estimates.requires_grad_()
    stft, _ = transforms(**HANN)
    total, terms = loss_of(stft, 0, 0, pesq=2.0)(cleans, estimates)
    assert torch.equal(total, 2 * terms["pesq"])
    assert (terms["pesq"][:3].diff() > 0.1).all() and terms["pesq"][3] == 0
    for value, score in zip(terms["pesq"].tolist(), scores, strict=False):
        mos = 0.999 + 4 / (1 + math.exp(-1.3669 * (4.5 - value) + 3.8224))
        assert mos == pytest.approx(score, abs=0.3)
    total.sum().backward()
    assert torch.isfinite(estimates.grad).all()


def test_the_filters_of_the_pesq_term_are_those_of_its_package():
    package = pytest.importorskip("torch_pesq")
    clean = waveforms(3, 16000) * torch.linspace(0, 1, 16000)
    estimate = clean + 0.1 * waveforms(3, 16000, seed=1)
    expected = package.PesqLoss(1.0, 16000)(clean.clone(), estimate.clone())
    given = PesqDisturbance()(clean, estimate)
    assert torch.allclose(given, expected.float(), rtol=1e-3)


def test_missing_package_of_the_pesq_term_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pesq", None)
    with pytest.raises(ValueError, match="torch-pesq, .*pesq_weight to 0"):
        PesqDisturbance()
