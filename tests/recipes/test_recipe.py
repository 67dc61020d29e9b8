"""The whole recipe on a tiny tree of the true layout: 48 kHz VoiceBank."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from tests.signals import contents, voicebank_tree, write_wav
from tests.training_runs import (
    ROOT,
    arguments,
    checkpoint,
    run_script,
    scored_here,
)

TINY = {"batch_size": 2, "warmup_steps": 2, "valid_files": 2}
BELOW = "learning rate stays below lr"


def run_recipe(data, output, *flags, recipe=("Voicebank", "db_transform")):
    """Run train.py of a recipe to the end of a tiny training."""
    folder, name = ROOT / "recipes" / recipe[0], recipe[1]
    _, *tiny = arguments(data, output, **TINY)
    given = {flag.split("=")[0] for flag in flags}
    flags += tuple(f for f in tiny if f.split("=")[0] not in given)
    argv = [str(folder / f"hparams/{name}.yaml"), *flags]
    with scored_here():
        run_script(argv, folder / "train.py")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voicebank")
    voicebank_tree(folder, sample_rate=48000, utterances=2, seconds=1.5)
    return folder


@pytest.fixture(scope="module")
def trained(tree, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "out"
    run_recipe(tree, output, "--number_of_epochs=2")
    return output


def test_recipe_trains_evaluates_and_saves_its_settings(trained):
    log = (trained / "train_log.txt").read_text()
    assert log.count("valid pesq") == 2
    assert "test: test" in log
    scores = json.loads((trained / "test/scores.json").read_text())
    assert scores["num_compared"] == 2
    assert scores["means"]["enhanced"]["pesq"]["mean"] > 1
    settings = (trained / "hyperparams.yaml").read_text()
    assert "num_channels: 8" in settings
    versions = json.loads((trained / "versions.json").read_text())
    assert torch.__version__.startswith(versions["torch"])
    # Without a weight there is no discriminator.
    assert "metric" not in log
    assert BELOW not in (trained / "log.txt").read_text()
    for name in ("discriminator", "metric_optimizer"):
        assert not list((trained / "save").rglob(f"{name}*"))


def test_second_start_finds_everything_done(tree, trained):
    before = checkpoint(trained)
    scores = json.loads((trained / "test/scores.json").read_text())
    for part in ("clean", "enhanced"):  # of another test set
        path = trained / f"test/{part}/p232_001.wav"
        shutil.copy(path, path.with_name("old.wav"))
    run_recipe(tree, trained, "--number_of_epochs=2")
    after = checkpoint(trained)
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = json.loads((trained / "test/scores.json").read_text())
    assert again["num_files"] == 2
    for name, mean in scores["means"]["enhanced"].items():
        assert again["means"]["enhanced"][name] == pytest.approx(mean)


def test_another_model_trains_on_recordings_in_bf16(tree, tmp_path):
    """A model by its file, recordings in place of pairs."""
    recordings = tmp_path / "recordings"
    for kind, part in (("speech", "clean"), ("noise", "noisy")):
        folder = recordings / kind / "train"
        folder.mkdir(parents=True)
        for wav in (tree / f"{part}_trainset_28spk_wav").glob("*.wav"):
            (folder / wav.name).symlink_to(wav)
    flags = "--precision=bf16 --use_tensorboard=True --number_of_epochs=1 "
    flags += "--warmup_steps=4"  # of three
    model = "--architecture=!include:models/bsrnn_small.yaml"
    flags += f" --recordings=[{recordings},{recordings}] --crop_seconds=0.4"
    memory = "--recordings_source={in_memory: True, source_weights: {}}"
    given = model, memory, *flags.split()
    run_recipe(tree, tmp_path / "out", *given)
    assert list((tmp_path / "out" / "tensorboard").rglob("events*"))
    settings = (tmp_path / "out" / "hyperparams.yaml").read_text()
    assert "bsrnn.BSRNN" in settings
    assert BELOW in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--lr=0.5", r"another configuration, .* \(lr, opt_class differ\)"),
        ("--debug", "expected a folder of its own for --debug"),
    ],
)
def test_another_configuration_changes_nothing(tree, trained, flag, told):
    files = contents(trained)
    with pytest.raises(SystemExit, match=told):
        run_recipe(tree, trained, "--number_of_epochs=2", flag)
    after = contents(trained)
    assert {name: after[name] for name in files} == files


def test_debug_goes_on_in_a_folder_of_its_own(tree, tmp_path):
    for flags in (["--debug"], ["--debug", "--debug_persistently"]):
        run_recipe(tree, tmp_path, *flags)
    told = "holds a run of --debug, expected a folder"
    with pytest.raises(SystemExit, match=told):
        run_recipe(tree, tmp_path)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--seed=3", "nowhere: there is no such folder"),
        ("--batchsize=2", "batchsize not found in .* some of batch_size"),
        ("--lr=[1", "expected ',' or ']'"),
        ("--device=cuda:99", "the device 'cuda:99' cannot be used"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, flag, message):
    argv = arguments(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(SystemExit, match=f"^train.py: .*{message}") as error:
        run_script([*argv, flag])
    assert "\n" not in str(error.value)


def test_no_run_writes_among_its_data(tmp_path):
    """It would empty ``test/clean`` before its test."""
    write_wav(tmp_path / "test/clean/a.wav", np.zeros(9))
    with pytest.raises(SystemExit, match="output_folder is data_folder"):
        run_script(arguments(tmp_path, tmp_path / "." / "test/.."))
    assert list(contents(tmp_path)) == ["test/clean/a.wav"]


METRIC = "--metric_weight=0.05 --metric_channels=2 --pesq_workers=1 "
METRIC += "--metric_start_epoch=2 --consistency_weight=1.0 --precision=bf16"


def test_recipe_trains_and_resumes_the_discriminator(tmp_path):
    """Off in epoch 1, on in epoch 2, resumed in epoch 3, in bf16."""
    tree = voicebank_tree(tmp_path / "vb", 16000, utterances=1, seconds=1.5)
    output = tmp_path / "out"
    for last in (2, 3):
        epochs = f"--number_of_epochs={last}"
        run_recipe(tree, output, *METRIC.split(), epochs)
        steps = checkpoint(output, "metric_optimizer")["state"][0]["step"]
        assert int(steps) == 3 * (last - 1)
        if last == 2:
            before = checkpoint(output, "discriminator")
    after = checkpoint(output, "discriminator")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    lines = (output / "train_log.txt").read_text().splitlines()
    epochs = [line for line in lines if line.startswith("epoch")]
    for epoch, line in enumerate(epochs, start=1):
        train, valid = line.split("valid", 1)
        for name in ("loss_metric", "pesq_failed"):
            assert (f"train {name}" in train) == (epoch > 1), line
        # It learns only from scores, which come when they are ready.
        scored = re.search(r"train pesq_scored: [1-9]", train) is not None
        assert ("train loss_discriminator" in train) == scored, line
        assert "metric" not in valid and "discriminator" not in valid
        assert re.search(r"train loss_consistency: \d", train)
    assert len(epochs) == 3
