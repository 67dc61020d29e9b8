"""Phase, consistency, waveform, multi-resolution and PESQ terms."""

import math
import sys
from functools import partial

import numpy as np
import pytest
import torch

from dbtransform_lobes.evaluation.metrics import pesq_wide_band
from dbtransform_lobes.models.waveform import enhance_waveform
from dbtransform_lobes.training.losses import compressed_complex, time_l1
from dbtransform_lobes.training.losses_multi_resolution import (
    multi_resolution_stft,
)
from dbtransform_lobes.training.losses_pesq import PesqDisturbance
from dbtransform_lobes.training.losses_phase import instantaneous_phase
from tests.signals import noise_like, speech_like
from tests.training.test_losses import (
    HANN,
    SQRT_HANN,
    TERMS,
    loss_of,
    transforms,
    waveforms,
)
from tests.twins import array, assert_twin, randn

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
def test_phase_terms_equal_their_twins(kind):
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


def test_bins_without_a_phase_give_no_error_and_no_gradient():
    clean, estimate = randn(2, 2, 6, 5, 2)
    clean[0, :3], estimate[0, 3] = 0, 0
    estimate[0, 4] *= 1e-5
    estimate.requires_grad_()
    for frame in range(6):
        parts = clean[:, [frame]], estimate[:, [frame]]
        assert (instantaneous_phase(*parts) == 0).tolist() == [frame < 5, False]
    instantaneous_phase(clean, estimate).sum().backward()
    assert (estimate.grad[0, :5] == 0).all()
    assert (estimate.grad[1].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("kind", PHASE_TERMS)
def test_gradient_of_phase_terms(kind):
    clean, estimate = randn(2, 1, 3, 4, 2)
    term = partial(TERMS[kind], clean)
    assert torch.autograd.gradcheck(term, estimate.requires_grad_())


def test_time_l1_equals_its_twin():
    clean, estimate = randn(2, 3, 40)
    twin = [
        sum(abs(s - y) for s, y in zip(*pair, strict=True)) / 40
        for pair in zip(clean.tolist(), estimate.tolist(), strict=True)
    ]
    squares = (clean - estimate).square().mean(-1)
    assert_twin(time_l1(clean, estimate), np.array(twin), array(squares))


def magnitude_twin(wave, n_fft):
    """|sum_n w(n) x(n + t hop - n_fft / 2) e^(-2 pi i f n / n_fft)|."""
    padded, n = np.pad(wave, n_fft // 2), np.arange(n_fft)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / n_fft)
    turns = np.exp(-2j * np.pi * np.outer(n, n[: n_fft // 2 + 1]) / n_fft)
    starts = range(0, len(wave) + 1, n_fft // 4)
    frames = np.array([window * padded[s : s + n_fft] for s in starts])
    return np.sqrt(np.maximum(np.abs(frames @ turns) ** 2, 1e-7))


def multi_resolution_twin(clean, estimate, n_ffts, convergence=True):
    """Yamamoto et al., 2020, eq. 3 to 6, item by item."""
    totals = []
    for pair in zip(array(clean), array(estimate), strict=True):
        total = 0.0
        for n_fft in n_ffts:
            s, y = (magnitude_twin(wave, n_fft) for wave in pair)
            if convergence:
                total += math.sqrt(((s - y) ** 2).sum() / (s**2).sum())
            total += np.abs(np.log(s / y)).mean()
        totals.append(total / len(n_ffts))
    return np.array(totals)


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


def test_resolutions_are_512_to_2048():
    pair = waveforms(1, 3000), waveforms(1, 3000, seed=1)
    each = [multi_resolution_stft(*pair, (n,)) for n in (512, 1024, 2048)]
    assert torch.allclose(multi_resolution_stft(*pair), sum(each) / 3)
    assert len(set(map(float, each))) == 3


@pytest.mark.parametrize("settings", [HANN, SQRT_HANN])
def test_consistency_is_that_of_the_models_spectrum(settings):
    stft, istft = transforms(**settings)
    loss_stft, _ = transforms(**HANN)
    loss = loss_of(loss_stft, 0, 0, consistency=3.0, front_end=stft)
    noisy = waveforms(2, 4000)
    noise = torch.randn(2, 257, 1)

    def value(model):
        parts = model, stft, istft, noisy
        estimate, spec = enhance_waveform(*parts, return_spec=True)
        assert spec.shape[:2] == (2, 257) and estimate.shape == noisy.shape
        # At the level of the spectrum, as the Brain has it.
        gain = 1 / noisy.square().mean(-1, keepdim=True).sqrt()
        total, terms = loss(noisy, estimate * gain, spec)
        assert torch.equal(total, 3 * terms["consistency"])
        again = stft(estimate * gain)
        spec = torch.view_as_real(spec.transpose(1, 2))
        assert_twin(
            terms["consistency"],
            array(compressed_complex(spec.double(), again.double(), 0.3)),
            tolerance=1e-4,
        )
        return terms["consistency"]

    assert value(lambda spec: 0.5 * spec).max() < 1e-4
    assert value(lambda spec: spec * noise.sign()).min() > 1e-2


NEW_TERMS = [*PHASE_TERMS, "consistency", "time", "multi_resolution"]


@pytest.fixture
def batch():
    """Clean and noisy waveforms (3, L); the last clean one is silent."""
    rows = [speech_like(0.6, 1), speech_like(0.6, 2), np.zeros(9600)]
    clean = torch.tensor(np.stack(rows), dtype=torch.float32)
    return clean, clean + torch.tensor(noise_like(0.6, 1)).float()


@pytest.mark.parametrize("name", ["magnitude", "complex", *NEW_TERMS])
def test_term_alone_trains_a_model_even_on_silence(name, batch):
    stft, istft = transforms(**HANN)
    weights = {"magnitude": 0, "complex": 0, name: 2.0}
    loss = loss_of(stft, front_end=stft, **weights)
    clean, noisy = batch
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


@pytest.mark.parametrize("name", ["magnitude", "complex", *NEW_TERMS])
def test_term_is_zero_for_a_perfect_estimate_also_in_bf16(name, batch):
    stft, _ = transforms(**HANN)
    weights = {"magnitude": 0, "complex": 0, name: 1.0}
    loss = loss_of(stft, front_end=stft, **weights)
    clean, noisy = batch
    perfect = torch.view_as_complex(stft(clean)).transpose(1, 2)
    assert (loss(clean, clean, perfect)[0] == 0).all()
    exact, _ = loss(clean, noisy, perfect)
    assert (exact[:2] > 1e-3).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same, _ = loss(clean, noisy, perfect)
    assert same.dtype == torch.float32 and torch.equal(same, exact)


def test_pesq_term_follows_pesq():
    pytest.importorskip("torch_pesq")
    clean = speech_like(1.0, 1)
    rows = [clean + gain * noise_like(1.0, 1) for gain in (0.03, 0.1, 0.5)]
    scores = [pesq_wide_band(clean, row) for row in rows]
    assert scores == sorted(scores, reverse=True)
    estimates = torch.tensor(np.stack([*rows, clean]), dtype=torch.float32)
    cleans = torch.tensor(clean, dtype=torch.float32).repeat(4, 1)
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


def test_missing_package_of_the_pesq_term_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pesq", None)
    with pytest.raises(ValueError, match="torch-pesq, .*pesq_weight to 0"):
        PesqDisturbance()
