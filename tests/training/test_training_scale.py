"""Ranks, accumulation, interruption: the same run whatever it runs on."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import torch.distributed as dist
from speechbrain import Stage
from speechbrain.nnet.schedulers import WarmCoolDecayLRSchedule
from torch.utils.data import get_worker_info

from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.sources import Pairs, Recordings
from dbtransform_lobes.models.band_linear import BandLinear
from dbtransform_lobes.models.waveform import enhance_waveform
from dbtransform_lobes.training.brain import ResumableBrain
from dbtransform_lobes.training.checkpoints import AtomicCheckpointer
from dbtransform_lobes.training.losses import EnhancementLoss
from dbtransform_lobes.training.ranks import prepare_on_main
from dbtransform_lobes.training.run_folder import warn_of_other_files
from dbtransform_lobes.training.settings import check_settings
from tests.runs import tiny_model
from tests.signals import noise_like, speech_like, voicebank_tree, write_wav
from tests.training.test_losses import HANN, transforms
from tests.training_runs import ROOT, arguments, checkpoint, logged, train

# Of weights after six steps: other batches round otherwise. Another SNR
# range makes a difference of 6e-3.
ROUNDING = 5e-4


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voicebank")
    voicebank_tree(folder, sample_rate=16000, seconds=1.5)
    for kind in ("clean", "noisy"):
        (folder / f"{kind}_testset_wav" / "p232_002.wav").unlink()
    return folder


def chance(clean):
    """A term that draws numbers, as dropout does, and teaches nothing."""
    return torch.rand(len(clean))


CHANCE = f"{{terms: {{chance: [1.0e-6, !name:{__name__}.chance {{}}]}}}}"


@pytest.fixture(scope="module")
def one(tree, tmp_path_factory):
    """An uninterrupted run of one process; not to be changed."""
    output = tmp_path_factory.mktemp("one") / "out"
    train(tree, output, loss=CHANCE)
    return output


def distance(first, second):
    """Largest difference of any weight."""
    return max((first[key] - second[key]).abs().max() for key in first)


def seen(state):
    """Without the bias of the graph's keys: its gradient is rounding alone."""
    state = dict(state)
    for name in state:
        if name.endswith("project.bias"):
            query, _, value = state[name].chunk(3)
            state[name] = torch.cat([query, value])
    return state


def torchrun(*argv):
    """Run a script on two ranks; stdout holds stderr as well."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", *map(str, argv)]
    return subprocess.run(
        [*command, "--distributed_backend=gloo"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,  # a rank that waited for ever would end here
    )


def test_two_ranks_train_as_one(tree, one, tmp_path):
    """With two batches a step, three validation files, one test file."""
    keep, output = tmp_path, tmp_path / "out"
    given = arguments(tree, output, grad_accumulation_factor=2)
    done = torchrun("tests/training_runs.py", keep, *given)
    assert done.returncode == 0, done.stdout
    # The same samples and gradients, up to rounding.
    both = seen(checkpoint(output)), seen(checkpoint(one))
    assert distance(*both) < ROUNDING
    for stage, name in (("train", "loss"), ("valid", "loss_si_sdr")):
        both = logged(output, stage, name), logged(one, stage, name)
        assert len(both[0]) == 2
        np.testing.assert_allclose(*both, rtol=0.02)
    # Ranks hold the same average.
    ranks = [torch.load(keep / f"rank{rank}.pt")["ema"] for rank in (0, 1)]
    assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0])
    # Logged, saved and scored once, over the files of both.
    assert done.stdout.count("Saved an end-of-epoch checkpoint") == 2
    assert len(list(Path(output, "save").glob("CKPT*"))) <= 2
    scores = json.loads((output / "test/scores.json").read_text())
    assert scores["num_compared"] == 1
    alone = json.loads((one / "test/scores.json").read_text())
    for name, score in scores["means"]["enhanced"].items():
        mean = alone["means"]["enhanced"][name]["mean"]
        assert score["mean"] == pytest.approx(mean, abs=1e-3)


def _prepare_slowly(rank, store):
    limit = timedelta(seconds=2)
    dist.init_process_group("gloo", f"file://{store}", limit, 2, rank)
    prepare_on_main(lambda: time.sleep(3))
    if rank == 0:
        time.sleep(3)
    else:
        with pytest.raises(RuntimeError, match="[Tt]imed out"):
            dist.barrier()


def test_ranks_wait_for_the_preparation_longer_than_their_timeout(tmp_path):
    given = _prepare_slowly, (str(tmp_path / "store"),), 2, False
    start = torch.multiprocessing.start_processes
    ranks = start(*given, start_method="forkserver")
    while not ranks.join():  # raises what a rank raises
        pass
    assert [rank.exitcode for rank in ranks.processes] == [0, 0]


def test_other_samples_give_other_weights(tree, one, tmp_path):
    """So that the comparisons of this file could fail."""
    train(tree, tmp_path, snr_db="[-5.0, 19.0]")
    assert distance(checkpoint(tmp_path), checkpoint(one)) > 1e-3


def test_other_training_files_are_told(tree, one, tmp_path, caplog):
    """Their place may be another, what is in them may not."""
    for kind in ("speech", "noise"):
        folder = tree / "clean_trainset_28spk_wav"
        for name in ("here", "there"):
            shutil.copytree(folder, tmp_path / name / kind / "train/a")
    given = [Recordings(tmp_path / name).files for name in ("here", "there")]
    extra = tmp_path / "there/noise/train/b/new.wav"
    write_wav(extra, np.full(1600, 0.1))
    other = Recordings(tmp_path / "there").files
    known = json.loads((one / "training_files.json").read_text())
    assert known["files"] == 2  # which the run itself has written
    (tmp_path / "save/CKPT+0").mkdir(parents=True)
    for files, told in zip([*given, other, other], (0, 0, 1, 1), strict=True):
        warn_of_other_files(tmp_path, files)
        assert len(caplog.records) == told
    told = (
        f"the {len(other)} training files are others than the {len(other) - 1}"
    )
    assert told in caplog.text
    shutil.rmtree(tmp_path / "save")  # a run that begins anew
    warn_of_other_files(tmp_path, given[0])
    assert len(caplog.records) == 1


def test_a_failing_rank_stops_all_with_its_message(tree, one, tmp_path):
    """Of two training files one has a NaN: one rank draws it."""
    bad = tmp_path / "tree"
    shutil.copytree(tree, bad)
    path = bad / "noisy_trainset_28spk_wav" / "p225_001.wav"
    signal = read_audio(path)
    signal[signal.argmax()] = np.nan
    sf.write(path, signal, 16000, "FLOAT")
    changes = {"save_folder": tmp_path, "skip_prep": True, "batch_size": 2}
    for name in ("train", "valid"):
        shutil.copy(one / "save" / f"{name}.json", tmp_path)
    changes["crop_seconds"] = 2.0  # the whole file
    argv = arguments(bad, tmp_path / "out", **changes)
    done = torchrun("recipes/Voicebank/train.py", *argv)
    assert done.returncode != 0
    assert f"{path}: samples are not finite" in done.stdout


def _train_until(step, stop_by, tree, output, changes):
    """Train until a step begins, then send this process a signal."""
    set_rate = WarmCoolDecayLRSchedule.__call__

    def stop(schedule, optimizer, number):
        if number == step:
            os.kill(os.getpid(), stop_by)
        set_rate(schedule, optimizer, number)

    WarmCoolDecayLRSchedule.__call__ = stop
    train(tree, output, **changes)


def interrupt(step, tree, output, stop_by=signal.SIGKILL, **changes):
    """Stop a process that trains, with a checkpoint after each step."""
    changes |= {"ckpt_interval_minutes": 0, "ckpt_interval_steps": 1}
    given = step, stop_by, tree, output, changes
    server = multiprocessing.get_context("forkserver")
    process = server.Process(target=_train_until, args=given)
    process.start()
    process.join()
    assert process.exitcode == (-stop_by if stop_by == signal.SIGKILL else 1)


@pytest.mark.parametrize(
    "accumulation, stop_by", [(1, signal.SIGKILL), (2, signal.SIGINT)]
)
def test_interrupted_run_goes_on(tree, one, tmp_path, accumulation, stop_by):
    """Stopped in its fifth step of six, or with accumulation amid that.

    It goes on with --compile as well, which wraps the model and runs eagerly
    here, but not with other epochs.
    """
    changes = {"grad_accumulation_factor": accumulation, "loss": CHANCE}
    interrupt(5, tree, tmp_path, stop_by, **changes)
    assert "test:" not in (tmp_path / "train_log.txt").read_text()
    assert len(logged(tmp_path, "valid", "pesq")) == 1
    unfinished = distance(checkpoint(tmp_path), checkpoint(one))
    assert unfinished > 1e-4
    goes_on = {"loss": CHANCE, "num_workers": 2, "compile": None}
    with pytest.raises(SystemExit, match="steps_per_epoch differ"):
        train(tree, tmp_path, **goes_on, steps_per_epoch=2)
    with torch.compiler.set_stance("force_eager"):
        brain = train(tree, tmp_path, **goes_on)["brain"]
    assert isinstance(brain.modules.model, torch._dynamo.OptimizedModule)
    assert brain.optimizer_step == 6
    for name in ("model", "ema"):
        states = checkpoint(tmp_path, name), checkpoint(one, name)
        if accumulation == 1:
            assert distance(*states) == 0
            for name in ("loss", "loss_si_sdr", "loss_chance"):  # of epochs
                both = [logged(f, "train", name) for f in (tmp_path, one)]
                np.testing.assert_allclose(*both, rtol=1e-5)
                assert both[0][0] != both[0][1]
        else:  # other batches round otherwise
            assert distance(*map(seen, states)) < unfinished / 10


class DyingPairs(Pairs):
    """Kills its worker process once, as soon as there is a checkpoint."""

    root = output = None

    def __init__(self, manifest):
        super().__init__(manifest, self.root, snr_db=(-5.0, 20.0))

    def draw(self, index, length, rng):
        mark = Path(self.output, "killed")
        saved = list(Path(self.output, "save").glob("CKPT*/CKPT.yaml"))
        if get_worker_info() and saved and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(index, length, rng)


def test_a_run_whose_worker_died_goes_on(tree, one, tmp_path, monkeypatch):
    monkeypatch.setattr(DyingPairs, "root", tree)
    monkeypatch.setattr(DyingPairs, "output", tmp_path)
    changes = {
        "recordings": one / "save" / "train.json",
        "recordings_source": f"!name:{__name__}.DyingPairs",
        "num_workers": 1,
    }
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        train(tree, tmp_path, **changes)
    assert (tmp_path / "killed").exists()
    train(tree, tmp_path, **changes)
    assert distance(checkpoint(tmp_path), checkpoint(one)) == 0


def test_killed_while_writing_a_checkpoint_keeps_the_last_good_one(tmp_path):
    """The process is killed between two files of its second checkpoint."""
    weights = torch.nn.Linear(1, 1)
    saver = AtomicCheckpointer(tmp_path, {"a": weights, "b": weights})

    def save_until_killed():
        saver.save_checkpoint(name="good")
        kill = partial(os.kill, os.getpid(), signal.SIGKILL)
        saver.custom_save_hooks["b"] = lambda *_: kill()
        saver.save_checkpoint(name="torn")

    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=save_until_killed)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    names = {path.name for path in tmp_path.glob("CKPT+torn/*")}
    assert names == {"CKPT.part", "a.ckpt"}
    assert saver.recover_if_possible().path.name == "CKPT+good"
    # What was torn goes with the next deletion.
    saver.save_and_keep_only(name="next")
    assert [path.name for path in tmp_path.iterdir()] == ["CKPT+next"]


def spoil(monkeypatch, *bad, gradient=False):
    """Make some losses or gradients NaN; return a list of batches to come."""
    forward, batches = EnhancementLoss.forward, []

    def sometimes(loss, clean, *others):
        losses, terms = forward(loss, clean, *others)
        if losses.requires_grad:
            batches.append(float(clean.sum()))
            if len(batches) in bad:
                nan = (0 * losses).sqrt() if gradient else math.nan
                losses = losses + nan
        return losses, terms

    monkeypatch.setattr(EnhancementLoss, "forward", sometimes)
    return batches


def steps_of(optimizer):
    """Steps that the state of an optimizer has made, for every weight."""
    return {int(each["step"]) for each in optimizer["state"].values()}


def test_a_batch_without_a_finite_loss_makes_no_step(
    tree, tmp_path, monkeypatch
):
    batches = spoil(monkeypatch, 2)
    brain = train(tree, tmp_path)["brain"]
    assert len(batches) == brain.optimizer_step == 6
    log = (tmp_path / "log.txt").read_text()
    assert "the loss is not finite for ['p225_" in log
    for name in ("model", "ema"):
        for weight in checkpoint(tmp_path, name).values():
            assert torch.isfinite(weight).all()
    assert steps_of(brain.optimizer.state_dict()) == {5}


def test_a_validation_loss_that_is_not_finite_names_the_files():
    losses, names = torch.tensor([1, math.inf, math.nan]), ["a", "b", "c"]
    are_finite = partial(ResumableBrain.are_finite, None)
    assert are_finite(losses[:1], names[:1], Stage.VALID)
    assert not are_finite(losses, names, Stage.TRAIN)
    with pytest.raises(ValueError, match=r"not finite for \['b', 'c'\]"):
        are_finite(losses, names, Stage.VALID)


@pytest.mark.parametrize(
    "accumulation, gradient", [(1, False), (1, True), (2, False)]
)
def test_a_run_goes_on_after_bad_batches(
    tree, tmp_path, monkeypatch, accumulation, gradient
):
    """The second and third step of six are bad, the last of an epoch is one."""
    bad = (2, 3) if accumulation == 1 else (3, 6)
    batches = spoil(monkeypatch, *bad, gradient=gradient)
    options = {"grad_accumulation_factor": accumulation}
    options["nonfinite_patience"] = 0
    for stopped in (2, 3):
        with pytest.raises(ValueError, match="for 1 batches.*goes on after"):
            train(tree, tmp_path, **options)
        assert len(batches) == stopped * accumulation
        assert steps_of(checkpoint(tmp_path, "optimizer")) == {1}
    brain = train(tree, tmp_path, **options)["brain"]
    assert brain.optimizer_step == 6
    assert len(set(batches)) == len(batches) == 6 * accumulation
    assert steps_of(brain.optimizer.state_dict()) == {4}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_grad_norm": -1}, "max_grad_norm is -1.*1e9"),
        ({"max_grad_norm": "nan"}, "max_grad_norm is nan"),
        ({"remove_vector_weight_decay": None}, "leave it out"),
        ({"grad_accumulation_factor": 3}, "batch_size is 4.* = 1 x 3"),
        ({"grad_accumulation_factor": 0}, "batch_size is 4.* = 1 x 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"valid_files": 0}, "valid_files is 0"),
        ({"steps_per_epoch": -1}, "steps_per_epoch is -1, expected 1 or more"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"data_folder": ""}, "data_folder is None, expected a folder"),
        ({"crop_seconds": 0}, "crop_seconds is 0, expected 0.1 or more"),
        ({"snr_db": "[20, -5]"}, "expected two numbers in dB, the lower first"),
        (
            {"level_dbfs": "[-20]"},
            "expected two numbers in dB, the lower first",
        ),
        ({"betas": "[0.9, 1.5]"}, "Invalid beta parameter at index 1: 1.5"),
    ],
)
def test_impossible_options_are_refused(tree, tmp_path, changes, message):
    with pytest.raises(SystemExit, match=message):
        train(tree, tmp_path, **changes)


def test_rates_without_pesq_are_refused():
    with pytest.raises(ValueError, match="sample_rate is 8000, expected 16000"):
        check_settings({"sample_rate": 8000})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_spectra_stay_in_fp32_under_autocast(dtype):
    """As --precision=bf16 and (on GPUs only) fp16 set it."""
    model, seen = tiny_model(), []
    linear = next(m for m in model.modules() if isinstance(m, BandLinear))
    for part in (linear, model):
        part.register_forward_hook(
            lambda _, given, out: seen.extend((given[0].dtype, out.dtype))
        )
    noisy = torch.tensor(speech_like(0.5) + noise_like(0.5)).float()[None]
    given = model, *transforms(**HANN), 100 * noisy
    with torch.autocast("cpu", dtype=dtype):
        estimate = enhance_waveform(*given)
    assert seen[1:] == [dtype, torch.complex64, torch.complex64]
    assert estimate.dtype == torch.float32
    expected = enhance_waveform(*given)
    error = (estimate - expected).norm() / expected.norm()
    assert 0 < error < 0.05
    estimate.square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(grad.isfinite().all() for grad in grads)


def test_pretrained_weights_start_model_and_average(
    tree, model_folder, tmp_path
):
    changes = {"lr": 0.0, "number_of_epochs": 1}
    train(tree, tmp_path, pretrained=model_folder, **changes)
    given = torch.load(model_folder / "model.ckpt", weights_only=True)
    assert distance(given, checkpoint(tmp_path)) == 0
    average = checkpoint(tmp_path, "ema")
    average = {k.removeprefix("module."): v for k, v in average.items()}
    assert distance(given, average) < 1e-6


def test_a_checkpoint_goes_before_pretrained(tree, one, model_folder, tmp_path):
    shutil.copytree(one, tmp_path / "out")
    train(tree, tmp_path / "out", pretrained=model_folder, loss=CHANCE)
    assert distance(checkpoint(tmp_path / "out"), checkpoint(one)) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "goes on from its own checkpoint" in log


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_channels": 16}, "do not fit.*YAML.*size mismatch for .*16"),
        ({"feed_forward": 1}, "do not fit.* Missing key"),
        ({"graph": "none"}, "do not fit.* Unexpected key"),
        ({"hop_length": 16}, "hop_length is 128, expected 256.*YAML"),
        (
            {"window_fn": "!name:torch.hamming_window"},
            "window is another, expected the same",
        ),
        ({"pretrained": "run"}, "dbtransform export"),
        ({"pretrained": "nowhere"}, "there is no such folder"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tree, one, own_folder, tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(one)
    with pytest.raises(SystemExit, match=message):
        train(tree, tmp_path / "out", **{"pretrained": "own", **changes})


def test_odd_files_are_trained_on_and_left_out_of_the_scores(tmp_path):
    """Silent, clipped, too short and too long: to train and to validate on."""
    tree = voicebank_tree(tmp_path / "tree", 16000, utterances=1, seconds=1.5)
    loud = (20 * speech_like(1.5)).clip(-1, 1)
    signals = {
        "silent": (0 * loud, 0 * loud),
        "clipped": (loud, (loud + noise_like(1.5)).clip(-1, 1)),
        "short": (np.full(400, 0.5), np.full(400, 0.2)),
        "long": (np.tile(loud, 21),) * 2,  # 31.5 s
    }
    for speaker, (name, pair) in product(("p225", "p226"), signals.items()):
        for kind, wave in zip(("clean", "noisy"), pair, strict=True):
            path = f"{kind}_trainset_28spk_wav/{speaker}_{name}.wav"
            write_wav(tree / path, wave)
    train(tree, tmp_path / "out", valid_files=10, number_of_epochs=1)
    assert logged(tmp_path / "out", "valid", "unscored_files") == [3]
    assert logged(tmp_path / "out", "valid", "pesq")[0] > 1
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "not scored: p226_long: the signals last 31.5 s" in log
    assert "p226_short: PESQ failed" in log
    assert "p226_silent: clean is silent" in log
    weights = checkpoint(tmp_path / "out").values()
    assert all(weight.isfinite().all() for weight in weights)


def test_validation_without_a_file_to_score_says_so(tmp_path):
    tree = voicebank_tree(tmp_path / "tree", 16000, utterances=1, seconds=0.1)
    with pytest.raises(ValueError, match="more valid_files"):
        train(tree, tmp_path / "out")
