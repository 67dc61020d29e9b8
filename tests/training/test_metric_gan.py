"""The metric discriminator, its losses, and PESQ in other processes."""

import os
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from speechbrain.processing.features import STFT

from dbtransform_lobes.evaluation.metrics import pesq_wide_band
from dbtransform_lobes.models.metric_discriminator import MetricDiscriminator
from dbtransform_lobes.training import pesq_workers
from dbtransform_lobes.training.metric_gan import MetricGAN
from dbtransform_lobes.training.pesq_workers import PesqWorkers, _pesq_target
from tests.signals import noise_like, speech_like
from tests.twins import array, assert_twin, randn


def stft(sample_rate=16000):
    return STFT(sample_rate, n_fft=512, win_length=32, hop_length=8)


def tiny_gan(**settings):
    torch.manual_seed(0)
    return MetricGAN(stft(), num_channels=4, **settings)


def batch(gains=(0.05, 0.5)):
    """Clean and noisy waveforms (B, L) of 0.5 s."""
    clean = np.stack([speech_like(0.5, seed) for seed in range(len(gains))])
    noise = np.stack([noise_like(0.5, seed) for seed in range(len(gains))])
    noisy = clean + np.array(gains)[:, None] * noise
    return torch.tensor(clean).float(), torch.tensor(noisy).float()


def wait_for(condition, seconds=120):
    """Poll; the limit only keeps a broken test from hanging."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("what was waited for did not come")


def test_scores_of_items_depend_on_both_signals_and_no_other_item():
    """So no statistics need to be exchanged between ranks."""
    torch.manual_seed(0)
    model = MetricDiscriminator(4).eval()
    clean, estimate = torch.rand(2, 3, 50, 257)
    score = model(clean, estimate)
    assert score.shape == (3,) and ((score > 0) & (score < 1)).all()
    assert (score != model(estimate, clean)).all()
    assert (score != model(clean, clean)).all()
    alone = [*map(model, clean.split(1), estimate.split(1))]
    assert torch.allclose(torch.cat(alone), score, atol=1e-6)
    norms = torch.nn.modules.batchnorm._BatchNorm
    assert not any(isinstance(part, norms) for part in model.modules())
    with pytest.raises(ValueError, match="31 frames .*at least 32"):
        model(*torch.rand(2, 1, 31, 257))


def test_spectral_norm_of_the_weights_is_one():
    torch.manual_seed(0)
    model = MetricDiscriminator(4)
    for _ in range(50):  # power iterations
        model(*torch.rand(2, 1, 32, 33))
    model.requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert float(norm) == pytest.approx(1, abs=0.02)


def test_losses_equal_their_twins():
    """CMGAN, eq. 5 and 6, from the scores of the same discriminator."""
    gan = tiny_gan(lr=0.0)
    gan.discriminator.head[1].p = 0.0
    clean, noisy = batch((0.05, 0.2, 0.5))
    targets = [0.9, 0.5, 0.1]
    for _ in range(30):  # the power iterations settle
        gan.step(clean, [])

    def magnitude(wave):
        real, imaginary = np.moveaxis(array(stft()(wave)), -1, 0)
        return torch.tensor(np.hypot(real, imaginary) ** 0.3)

    score, reference = gan.discriminator.eval(), magnitude(clean)
    same, other = (
        array(score(reference, magnitude(wave))) for wave in (clean, noisy)
    )
    twins = (other - 1) ** 2, other**2, (same - 1) ** 2
    term = gan.generator_term(clean, noisy)
    assert_twin(term, *twins, tolerance=1e-5)
    errors = (other - np.array(targets)) ** 2
    alone = sum((same - 1) ** 2) / 3
    items = list(zip(clean, noisy, targets, strict=True))
    loss, error = gan.step(clean, items), sum(errors) / 3
    assert_twin(loss, alone + error, alone, error, tolerance=1e-3)
    # An item whose PESQ failed is not among them.
    assert_twin(gan.step(clean, items[:1]), alone + errors[0], tolerance=1e-3)
    assert gan.step(clean, []) is None


def test_gradient_goes_to_the_estimate_alone():
    gan = tiny_gan()
    clean, noisy = batch()
    gan.step(clean, [])
    gan.optimizer.zero_grad()
    gan.generator_term(clean, noisy.requires_grad_()).sum().backward()
    assert (noisy.grad.abs().amax(-1) > 0).all()
    assert torch.isfinite(noisy.grad).all()
    assert all(p.grad is None for p in gan.discriminator.parameters())
    before = [p.clone() for p in gan.discriminator.parameters()]
    gan.step(clean, [(clean[0], noisy[0].detach(), 0.3)])
    pairs = zip(before, gan.discriminator.parameters(), strict=True)
    assert any(not torch.equal(*pair) for pair in pairs)


def test_silence_and_autocast_leave_it_finite_and_in_fp32():
    gan = tiny_gan()
    clean, noisy = batch()
    exact = gan.generator_term(clean, noisy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gan.generator_term(clean, noisy), exact)
    silence = torch.zeros_like(noisy, requires_grad=True)
    term = gan.generator_term(clean, silence)
    term.sum().backward()
    assert torch.isfinite(term).all() and torch.isfinite(silence.grad).all()
    assert exact.dtype == torch.float32 and (exact > 0).all()


def test_discriminator_learns_a_fixed_batch():
    """Also after clean pairs alone, which could teach it to say 1 to all."""
    gan = tiny_gan(lr=0.01)
    clean, noisy = batch((0.05, 0.2, 0.5))
    for _ in range(100):
        gan.step(clean, [])
    assert (gan.generator_term(clean, noisy) > 1e-3).all()
    items = list(zip(clean, noisy, [0.8, 0.4, 0.05], strict=True))
    losses = [float(gan.step(clean, items)) for _ in range(150)]
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:3])
    # It has learned the order, not only the mean.
    term = gan.generator_term(clean, noisy)
    assert (term.sqrt().diff() > 0.1).all() and term[-1] > 0.5


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"weight": -1.0}, "metric_weight is -1.0, expected more than 0"),
        ({"num_workers": 0}, "pesq_workers is 0, expected at least 1"),
        ({"compute_stft": stft(48000)}, "rate is 48000 Hz, expected 16000 Hz"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MetricGAN(**{"compute_stft": stft(), **settings})


def test_target_is_the_scaled_pesq_where_there_is_one():
    """Q = (PESQ - 1) / 3.5."""
    clean, noisy = (array(wave[0]) for wave in batch())
    score = pesq_wide_band(clean, noisy)
    assert abs(_pesq_target(clean, noisy) - (score - 1) / 3.5) < 1e-10
    assert 1 < score < 4.5 and _pesq_target(clean, clean) > 1  # of 4.64
    click = np.append(np.zeros(7400), noisy[:600])
    silent, short = (0 * clean, noisy), (clean[:2000], noisy[:2000])
    for pair in (silent, (clean, 0 * noisy), short, (click, noisy)):
        assert np.isnan(_pesq_target(*pair))


@pytest.fixture
def workers():
    workers = PesqWorkers(1)
    yield workers
    workers.close()


def pids(workers):
    processes = workers.workers.processes if workers.workers else []
    return [process.pid for process in processes]


def take(workers, count):
    """Wait until so many items are no longer with the workers."""
    items = []

    def arrived():
        items.extend(workers.ready())
        gone = sum(workers.counts.values())
        return gone >= count

    wait_for(arrived)
    return items


def test_workers_score_mask_failures_and_survive_a_death(workers):
    assert workers.ready() == [] and pids(workers) == []
    clean, noisy = batch((0.05, 0.5, 0.5))
    clean[1] = 0
    workers.submit(clean, noisy)
    items = take(workers, 3)
    assert workers.counts == {"scored": 2, "failed": 1}
    for item, (reference, estimate, target) in zip((0, 2), items, strict=True):
        assert torch.equal(reference, clean[item])
        assert torch.equal(estimate, noisy[item])
        twin = (pesq_wide_band(array(reference), array(estimate)) - 1) / 3.5
        assert target == pytest.approx(twin, abs=1e-6)

    # A stopped worker stops nobody: nothing waits, and little is held.
    (pid,) = pids(workers)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(5):
        workers.submit(clean, noisy)
        assert workers.ready() == []
    assert len(workers.waiting) == 6
    assert workers.counts["skipped"] == 9
    os.kill(pid, signal.SIGCONT)
    assert len(take(workers, 3 + 15)) == 4

    # A killed one loses the item it had; another takes the rest.
    os.kill(pid, signal.SIGSTOP)
    workers.submit(clean, noisy)
    os.kill(pid, signal.SIGKILL)
    assert len(take(workers, 18 + 3)) == 1
    assert workers.counts == {"scored": 7, "failed": 4, "skipped": 10}
    assert len(set(pids(workers)) - {pid}) == 1


def test_an_item_that_ends_meanwhile_is_not_lost(workers):
    future = Mock(done=Mock(side_effect=[False, True]))
    workers.waiting.append((future, *torch.zeros(2, 8)))
    assert workers.ready() == [] and len(workers.waiting) == 1


def test_workers_that_only_die_stop_the_run(workers, monkeypatch):
    monkeypatch.setattr(pesq_workers, "MAX_DEATHS", 1)
    workers.submit(*batch())
    os.kill(wait_for(lambda: pids(workers))[0], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="died 1 times .*pesq_workers lower"):
        take(workers, 2)


def score_for_ever(pipe):
    """Send the number of a worker that has scored; wait."""
    workers = PesqWorkers(1)
    workers.submit(*torch.zeros(2, 1, 8000))
    take(workers, 1)
    pipe.send(pids(workers)[0])
    time.sleep(600)


def test_workers_end_when_their_parent_is_killed():
    server = mp.get_context("forkserver")
    pipe, end = server.Pipe()
    parent = server.Process(target=score_for_ever, args=(end,))
    parent.start()
    end.close()
    pid = pipe.recv()
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


def one_rank(rank, folder):
    """Rank 0 has a scored item, rank 1 has none."""
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", meet, rank=rank, world_size=2)
    torch.manual_seed(rank)
    gan = MetricGAN(stft(), num_channels=2)
    clean, noisy = randn(2, 2, 8000, seed=rank, dtype=torch.float32)
    for step in range(2):
        gan.generator_term(clean, noisy)
        items = [(clean[0], noisy[0], 0.3)] if rank == 0 else []
        gan.step(clean, items * step)
    weights = {k: p.detach() for k, p in gan.discriminator.named_parameters()}
    torch.save(weights, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_keep_one_discriminator_whatever_each_has_scored(tmp_path):
    mp.start_processes(one_rank, (str(tmp_path),), 2, start_method="forkserver")
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(0)
    start = MetricGAN(stft(), num_channels=2).discriminator.state_dict()
    assert any(not torch.equal(first[key], start[key]) for key in first)
