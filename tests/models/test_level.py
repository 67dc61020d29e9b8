"""Level and trends of frames: literal twins, gains, jumps, silence."""

import math

import pytest
import torch

from dbtransform_lobes.models.bsrnn import BSRNN
from dbtransform_lobes.models.cmgan import CMGAN
from dbtransform_lobes.models.detrend import Detrend
from dbtransform_lobes.models.level import RunningLevel, over_signal_level
from tests.composition import composed


def literal_level(bins, back):
    out = torch.zeros_like(bins)
    for b, item in enumerate(bins):
        for t in range(item.shape[0]):
            seen = item[max(t - back, 0) : t + 1].square().sum(-1).mean(-1)
            if seen.sum() > 0:
                level = (seen.square().sum() / seen.sum()).sqrt()
                out[b, t] = item[t] / level
    return out


def jumping(frames=40):
    bins = torch.randn(2, frames, 9, 2, dtype=torch.float64)
    bins[:, 10:15] = 0
    bins[:, 25:] *= 1e-3
    return bins.float()


def test_running_level_is_its_equation():
    bins = jumping()
    expected = literal_level(bins.double(), back=6)
    assert torch.allclose(RunningLevel(6)(bins).double(), expected, atol=1e-5)
    assert not torch.allclose(expected, literal_level(bins.double(), back=7))


def test_running_level_does_not_know_the_gain():
    bins, level = jumping(), RunningLevel(6)
    for gain in (1e-4, 1e4):
        assert torch.allclose(level(gain * bins), level(bins), atol=1e-5)


def test_running_level_forgets_what_is_older_than_its_window():
    bins, level = jumping(), RunningLevel(6)
    alone = level(bins[:, 25:])
    assert torch.allclose(level(bins)[:, 31:], alone[:, 6:], atol=1e-5)


def test_running_level_of_silence_is_silence():
    assert torch.equal(
        RunningLevel(3)(torch.zeros(1, 5, 9, 2)).sum(), torch.tensor(0.0)
    )


def test_detrend_is_the_projection_of_the_windowed_frame():
    window = torch.hann_window(64, dtype=torch.float64).sqrt()
    time = torch.linspace(-1, 1, 64, dtype=torch.float64)
    basis = torch.stack([window, window * time, window * time**2], dim=1)
    frame = torch.randn(64, dtype=torch.float64) + 1
    solution = torch.linalg.lstsq(basis, (window * frame)[:, None]).solution
    expected = window * frame - (basis @ solution)[:, 0]
    spec = torch.fft.rfft(window * frame).to(torch.complex64)
    result = Detrend(window)(torch.view_as_real(spec)[None, None])
    assert torch.allclose(
        torch.fft.irfft(torch.view_as_complex(result)[0, 0]).double(),
        expected,
        atol=1e-5,
    )


def test_detrend_removes_dc_and_rumble_but_no_speech():
    window, time = torch.hann_window(512).sqrt(), torch.arange(512) / 16000
    detrend = Detrend(window)

    def left(hz):
        wave = torch.sin(2 * torch.pi * hz * time + 1)
        spec = torch.view_as_real(torch.fft.rfft(window * wave))[None, None]
        return float(detrend(spec).norm() / spec.norm())

    assert left(0) < 1e-5 and left(10) < 0.02 and left(20) < 0.2
    assert left(100) > 0.99 and left(1000) > 0.999


def test_level_of_a_signal_is_its_rms():
    signal = 0.03 * torch.randn(2, 16000, dtype=torch.float64)
    signal[1] *= 1e-9
    window = torch.hamming_window(400, dtype=torch.float64)
    spec = torch.stft(signal, 400, 100, window=window, return_complex=True)
    power = [sum(float(x) ** 2 for x in each) / 16000 for each in signal]
    over, level = over_signal_level(spec)
    expected = [math.sqrt(p) for p in power]
    assert level.flatten().tolist() == pytest.approx(expected, rel=0.02)
    assert torch.allclose(over * level, spec) and not torch.equal(over, spec)
    assert not over_signal_level(0 * spec)[0].any()


MODELS = {
    "db_transform": lambda: composed(num_channels=8, num_heads=2),
    "bsrnn": lambda: BSRNN(num_channels=8, num_layers=1),
    "cmgan": lambda: CMGAN(512, 8, num_blocks=1, num_heads=2).eval(),
}


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_no_model_knows_the_gain_of_a_signal(name):
    """From -150 to 120 dB; weak bands as well."""
    torch.manual_seed(0)
    model, spec = MODELS[name](), torch.randn(1, 257, 20).cfloat()
    spec[:, 100:] *= 1e-3
    expected = model(spec)
    assert (expected - spec).abs().max() > 1e-2
    for gain in (10**-7.5, 1e-3, 1e6):
        error = (model(gain * spec) / gain - expected).abs()
        assert (error < 1e-4 * expected.abs().amax((1, 2))).all()
        strong, weak = error[:, :100].max(), error[:, 100:].max()
        assert weak < 1e-4 * expected[:, 100:].abs().max(), strong
    assert not model(0 * spec).any()
