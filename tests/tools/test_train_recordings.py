"""The trainer of the bundled models, on generated recordings."""

import pytest
import torch

import train_recordings as tool
from command import build_parser
from dbtransform_lobes.training.losses_pesq import PesqDisturbance
from tests.composition import composed, front_end_yaml, model_yaml
from tests.signals import noise_like, speech_like, write_wav

torch_pesq = pytest.importorskip("torch_pesq")

SMALL = {"num_channels": 8, "num_heads": 2, "window": 4}
MODEL = front_end_yaml(512, 32, 16) + model_yaml(**SMALL, level=61)


def parse(options):
    options = f"m.yaml --output o --hours 1 {options}".split()
    return build_parser("train_recordings").parse_args(options)


def make_recordings(folder):
    for name in ("anna", "bert"):
        write_wav(folder / f"speech/train/{name}/1.wav", speech_like(2.0))
    write_wav(folder / "noise/train/fan/1.wav", noise_like(2.0))
    return folder


def test_the_filters_of_the_pesq_loss_are_those_of_its_package():
    torch.manual_seed(0)
    clean = torch.randn(3, 16000) * torch.linspace(0, 1, 16000)
    estimate = clean + 0.1 * torch.randn(3, 16000)
    expected = torch_pesq.PesqLoss(1.0, 16000)(clean.clone(), estimate.clone())
    given = PesqDisturbance()(clean, estimate)
    assert torch.allclose(given, expected.float(), rtol=1e-3)


def test_sdr_saturates_and_si_sdr_does_not_see_the_level():
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 1, 16000)
    noise -= (noise * clean).sum() / clean.square().sum() * clean
    noisy = clean + noise * 10**-0.5
    for term, estimate, expected in (
        (tool.negative_bounded_sdr, noisy, pytest.approx(-10, abs=0.1)),
        (tool.negative_bounded_sdr, clean, pytest.approx(-35, abs=1)),
        (tool.negative_bounded_sdr, clean / 2, pytest.approx(-6.02, abs=0.1)),
        (tool.negative_bounded_si_sdr, clean / 2, pytest.approx(-35, abs=1)),
        (tool.negative_bounded_si_sdr, noisy / 2, pytest.approx(-10, abs=0.1)),
    ):
        assert float(term(clean, estimate)) == expected


def test_crops_without_speech_count_in_the_spectral_terms_alone():
    noisy = 0.1 * torch.randn(2, 16000)
    clean = torch.stack((0.5 * noisy[0], torch.zeros(16000)))
    loss = tool.RecordingsLoss({"si_sdr": 0.0, "sdr": 2.0})
    total, terms = loss(noisy, clean, 0.9 * noisy)
    assert set(terms) == {"magnitude", "complex", "sdr", "envelope", "pesq"}
    weighted = sum(loss.weights[name] * terms[name] for name in terms)
    assert torch.equal(total, weighted)
    first = loss(noisy[:1], clean[:1], 0.9 * noisy[:1])[1]
    second = loss(noisy[1:], clean[1:], 0.9 * noisy[1:])[1]
    for name, term in terms.items():
        both = (first[name] + second[name]) / 2
        expected = both if name in tool.SPECTRAL else first[name]
        torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'loudness'.*expected some of"):
        tool.RecordingsLoss({"loudness": 1.0})


@pytest.mark.parametrize("weights", ["shared", "per_band"])
@torch.no_grad()
def test_a_model_that_grows_begins_as_the_same_function(weights):
    options = {"band_weights": weights}
    torch.manual_seed(0)
    small, large = (
        composed(**SMALL, num_layers=size, feed_forward=size, **options)
        for size in (1, 2)
    )
    spec = torch.randn(1, 257, 20, dtype=torch.complex64)
    assert not torch.allclose(large(spec), small(spec), atol=1e-3)
    tool.load_and_grow(large, dict(small.state_dict()))
    assert torch.allclose(large(spec), small(spec), atol=1e-5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other = composed(num_channels=16, num_heads=2, window=4)
        tool.load_and_grow(large, dict(other.state_dict()))


def test_a_run_learns_stops_and_goes_on(tmp_path, run):
    model, other = tmp_path / "model.yaml", tmp_path / "other.yaml"
    for path in (model, other):
        path.write_text(MODEL)
    options = "--batch-size 2 --crop-seconds 1 --warmup-steps 3 --hours".split()
    options = "--output", tmp_path / "run", *options
    options = "--recordings", make_recordings(tmp_path / "data"), *options
    run("train_recordings", model, *options, "0.0008")
    first = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert first["step"] > 1
    run("train_recordings", model, *options, "0.0014")
    second = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert second["step"] > first["step"]
    weights = torch.load(tmp_path / "run/model_ema.ckpt", weights_only=True)
    assert weights.keys() == second["model"].keys()
    changed = [not torch.equal(weights[k], first["ema"][k]) for k in weights]
    assert any(changed) and all(w.isfinite().all() for w in weights.values())
    told = run("train_recordings", other, *options, "1", code=1).err
    assert "another --output" in told


def test_batches_go_on_where_a_run_stopped_with_any_workers(tmp_path):
    recordings = make_recordings(tmp_path)
    command = f"--recordings {recordings} --batch-size 2 --crop-seconds 0.5"

    def begin(workers, done):
        args = parse(f"{command} --workers {workers}")
        return iter(tool.training_batches(args, done))

    alone, others = begin(workers=0, done=0), begin(workers=2, done=2)
    batches = [next(alone) for _ in range(4)]
    for batch in batches[2:]:
        other = next(others)
        for name in ("noisy", "clean"):
            assert batch[name].shape == (2, 8000)
            assert torch.equal(batch[name], other[name])
    assert not torch.equal(batches[2]["noisy"], batches[0]["noisy"])


def test_the_learning_rate_warms_up_holds_and_falls():
    run = tool.Run.__new__(tool.Run)
    run.args = parse("--recordings r --lr 1")
    for step, hours, rate in (
        (0, 0, 1 / 300),
        (1000, 0.4, 1),
        (1000, 0.7, 0.5),
        (1000, 1, 0),
    ):
        run.step, run.seconds = step, 3600 * hours
        assert run.learning_rate() == pytest.approx(rate, abs=1e-9)
