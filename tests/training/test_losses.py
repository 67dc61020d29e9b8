"""Waveform in and out, the loss terms and the average of the weights."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from speechbrain.processing.features import ISTFT, STFT

from dbtransform_lobes.models.waveform import enhance_waveform, sqrt_hann_window
from dbtransform_lobes.training import losses, losses_phase
from dbtransform_lobes.training.ema import weight_ema
from dbtransform_lobes.training.losses_multi_resolution import (
    multi_resolution_stft,
)
from dbtransform_lobes.training.losses_pesq import PesqDisturbance
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
HANN = {"hop_length": 8, "window_fn": torch.hann_window}
SQRT_HANN = {"hop_length": 16, "window_fn": sqrt_hann_window}


def transforms(hop_length, window_fn):
    settings = {
        "sample_rate": 16000,
        "n_fft": 512,
        "win_length": 32,
        "hop_length": hop_length,
        "window_fn": window_fn,
    }
    return STFT(**settings), ISTFT(**settings)


def loss_of(stft, magnitude=1, complex=1, si_sdr=0, front_end=None, **weights):
    """Return an EnhancementLoss of these weights."""
    weights |= {"magnitude": magnitude, "complex": complex, "si_sdr": si_sdr}
    consistency = partial(losses.consistency, front_end=front_end)
    terms = {**TERMS, "consistency": consistency}
    given = {name: [weight, terms[name]] for name, weight in weights.items()}
    return losses.EnhancementLoss(stft, given)


def waveforms(batch, length, seed=0):
    return randn(batch, length, seed=seed, dtype=torch.float32)


# Waveform


def test_rms_gain_by_loops():
    noisy = 3 * randn(3, 50)
    noisy[1] = 0
    noisy[2] *= 1e-6
    expected = np.ones((3, 1))
    for b in (0, 2):
        power = sum(float(sample) ** 2 for sample in noisy[b]) / 50
        expected[b] = 1 / math.sqrt(power)
    gain = losses.unit_rms_gain(noisy)
    np.testing.assert_allclose(array(gain), expected, rtol=1e-10)
    level = (noisy * gain).square().mean(-1).sqrt()
    assert level.tolist() == pytest.approx([1, 0, 1])


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
    assert noisy.abs().max() > 1e-2


def test_sqrt_hann_squares_sum_to_one():
    window = sqrt_hann_window(512)
    for n in range(512):
        hann = 0.5 - 0.5 * math.cos(2 * math.pi * n / 512)
        assert float(window[n]) == pytest.approx(math.sqrt(hann), abs=1e-6)
    square = window**2
    assert (square[:256] + square[256:] - 1).abs().max() < 1e-6
    assert (window[:256] + window[256:] - 1).abs().max() > 0.1


# Loss


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


def si_sdr_twin(clean, estimate):
    """10 log10(|a s|^2 / |a s - y|^2), a = <y, s> / |s|^2, of each item."""
    values = []
    for s, y in zip(array(clean).astype(float), array(estimate), strict=True):
        s, y = s - s.mean(), y - y.mean()
        target = (s @ y) / (s @ s) * s
        error = target - y
        values.append(10 * math.log10((target @ target) / (error @ error)))
    return np.array(values)


def test_si_sdr_equals_its_twin():
    clean = waveforms(3, 200)
    levels = torch.tensor([[0.01], [0.1], [1.0]])
    estimate = 0.3 * clean + levels * waveforms(3, 200, seed=1)
    kept = clean.clone(), estimate.clone()
    value = -losses.negative_si_sdr(clean, estimate)
    twin = si_sdr_twin(clean, estimate)
    assert_twin(value, twin, -twin, twin / 2, tolerance=1e-3)
    assert torch.equal(clean, kept[0]) and torch.equal(estimate, kept[1])
    scaled = -losses.negative_si_sdr(clean, 7 * estimate)
    assert_twin(scaled, twin, tolerance=1e-3)


def test_loss_is_the_weighted_sum_of_its_terms():
    stft, _ = transforms(**HANN)
    loss = loss_of(stft, 20, 5, 0.1)
    clean = waveforms(2, 1000)
    estimate = clean + 0.3 * waveforms(2, 1000, seed=1)
    total, terms = loss(clean, estimate)
    spectra = stft(clean).double(), stft(estimate).double()
    twins = {
        "magnitude": spectra_twin(*spectra, 0.3, "magnitude"),
        "complex": spectra_twin(*spectra, 0.3, "complex"),
        "si_sdr": -si_sdr_twin(clean, estimate),
    }
    assert set(terms) == set(twins)
    for name, twin in twins.items():
        assert_twin(terms[name], twin, tolerance=1e-3)
    weights = zip((20, 5, 0.1), twins.values(), strict=True)
    expected = sum(weight * twin for weight, twin in weights)
    wrong = sum(twins.values())
    np.testing.assert_allclose(array(total), expected, rtol=1e-4)
    assert np.abs(wrong - expected).min() > 0.1


@pytest.mark.parametrize("silent", ["clean", "estimate", "both"])
def test_loss_of_silence_is_finite_with_its_gradient(silent):
    stft, _ = transforms(**HANN)
    loss = loss_of(stft, 1, 1, 1)
    clean, estimate = waveforms(1, 1000), waveforms(1, 1000, seed=1)
    if silent != "estimate":
        clean.zero_()
    if silent != "clean":
        estimate.zero_()
    estimate.requires_grad_()
    total, _ = loss(clean, estimate)
    total.sum().backward()
    assert torch.isfinite(total).all()
    assert torch.isfinite(estimate.grad).all()


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, -1, 0)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="loss weights are .*, expected none"):
        loss_of(transforms(**HANN)[0], *weights)


# Average of the weights


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
    got = term(clean, estimate)
    twin = envelope_twin(*map(array, (clean, estimate, bands)), **settings)
    assert_twin(got, twin)
    other = {**settings, "floor": 0.2}
    wrong = envelope_twin(*map(array, (clean, estimate, bands)), **other)
    assert np.abs(twin - wrong).max() > 1e-4


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
