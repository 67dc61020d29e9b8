"""Export of a run: which weights, what YAML, and nothing left on errors."""

import copy
import json
import os
import re
import shutil
from functools import partial

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml

from dbtransform_lobes.data.files import write_json
from dbtransform_lobes.export.hub import plan_upload
from dbtransform_lobes.export.model_folder import FILES, export_model
from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.models.waveform import enhance_waveform
from tests.runs import (
    save_checkpoint,
    scores_of,
    tiny_run,
    write_hyperparams,
)
from tests.signals import names, noisy_batch, write_wav


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder and its best averaged model; not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    return folder, tiny_run(folder)


def test_round_trip_is_the_averaged_model_of_the_best(trained, tmp_path):
    (folder, best), noisy = trained, noisy_batch(1.0, 0)
    assert export_model(folder, tmp_path / "m").path.name == "CKPT+second"
    assert names(tmp_path) == ["m"] and names(tmp_path / "m") == sorted(FILES)
    model = EnhanceModel.from_hparams(str(tmp_path / "m"))
    transforms = model.hparams.compute_stft, model.hparams.compute_istft
    with torch.inference_mode():
        expected = enhance_waveform(best, *transforms, noisy)
    enhanced = model.enhance_batch(noisy).cpu()
    assert (enhanced - expected).abs().max() <= 1e-6
    # The weights that were not averaged would have been told apart.
    other = copy.deepcopy(best)
    other.load_state_dict(torch.load(folder / "save/CKPT+second/model.ckpt"))
    with torch.inference_mode():
        raw = enhance_waveform(other, *transforms, noisy)
    assert (enhanced - raw).abs().max() > 1e-4


def test_weights_are_plain_and_the_yaml_is_minimal(trained, model_folder):
    state = torch.load(model_folder / "model.ckpt", weights_only=True)
    assert state.keys() == trained[1].state_dict().keys()
    assert all(type(value) is torch.Tensor for value in state.values())
    numbers = [value for value in state.values() if value.is_floating_point()]
    assert {value.dtype for value in numbers} == {torch.float32}
    names = "hyperparams.yaml", "README.md"
    texts = [(model_folder / name).read_text() for name in names]
    hparams = load_hyperpyyaml(texts[0])
    keys = "sample_rate compute_stft compute_istft model modules pretrainer"
    assert set(hparams) == set(keys.split())
    assert hparams["modules"]["model"] is hparams["model"]
    assert hparams["pretrainer"].loadables["model"] is hparams["model"]
    assert hparams["pretrainer"].paths == {}
    root = str(model_folder.parents[1])  # of all folders of the tests
    assert not any(root in text for text in texts)


@pytest.mark.parametrize("meta", [{}, {"pesq": float("nan")}])
def test_without_scores_the_newest_epoch_is_taken(tmp_path, meta):
    run = write_hyperparams(tmp_path / "run")
    for number, name in enumerate(("b", "c", "a")):
        save_checkpoint(run, name, unixtime=float(number), **meta)
    save_checkpoint(run, "d", end_of_epoch=False, unixtime=9.0)
    assert export_model(run, tmp_path / "m").path.name == "CKPT+a"


# Test sets, as of the DNS Challenge; one was scored before the checkpoint.
SCORED = {"test": 2.125, "test_room": 1.75, "test_old": 1.5}


def card_of(trained, tmp_path, **overrides):
    """Card of the run with a data set, other hyperparameters and scores."""
    folder = tmp_path / "run"
    shutil.copytree(trained[0], folder)
    write_hyperparams(folder, data_folder=str(tmp_path / "data"), **overrides)
    (tmp_path / "data").mkdir()
    waves = {"source": "wa|ves", "licence": "CC-BY", "files": 3, "hours": 0.5}
    hours = {"train": (9, 0.75), "valid": (7, 0.25)}
    splits = {k: {"files": n, "hours": h} for k, (n, h) in hours.items()}
    record = {"sources": [waves], "splits": splits}
    (tmp_path / "data/dataset.json").write_text(json.dumps(record))
    for name, pesq in SCORED.items():
        write_json(folder / name / "scores.json", scores_of(60, pesq=pesq))
    os.utime(folder / "test_old/scores.json", (0, 0))
    limits = tmp_path / "limits.md"
    limits.write_text("## Limits\n\nNot for music.")
    export_model(folder, tmp_path / "m", card=limits, language="cs")
    card = (tmp_path / "m/README.md").read_text()
    assert str(tmp_path) not in card
    return re.sub(r"(?<=\S) +", " ", card)  # tables are padded


def test_card_says_what_is_known(trained, tmp_path):
    card = card_of(trained, tmp_path)
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "speechbrain"
    assert front["pipeline_tag"] == "audio-to-audio"
    assert front["license"] == "apache-2.0" and front["language"] == "cs"
    assert front["metrics"] == ["pesq"]
    results = front["model-index"][0]["results"]
    for result, name in zip(results, ("test", "test_room"), strict=True):
        assert result["metrics"] == [{"type": "pesq", "value": SCORED[name]}]
        assert result["dataset"]["name"].startswith(f"{name} ")
    count = sum(weight.numel() for weight in trained[1].parameters())
    assert f"| parameters | {count:,} |" in card
    assert "| num_channels | 8 |" in card and "| layout.n_fft | 512 |" in card
    assert r"| wa\|ves | CC-BY | 3 | 0.5 |" in card
    assert "`train`: 9 files, 0.75 hours" in card
    assert "`valid`: 7 files, 0.25 hours" in card
    assert "| pesq | si_sdr | stoi |" in card
    assert "| 2.500 | 11.250 | 0.800 |" in card
    table = r"Test \(60 files scored\):\n\n\| pesq \|\n.*\n\| 2.125 \|\n"
    assert re.search(table, card)
    assert "Test_room (60 files" in card and "Test_old" not in card
    assert "Not for music." in card and "unixtime" not in card


def test_card_names_recordings_mixed_on_the_fly(trained, tmp_path):
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        "path,kind,speaker,split,source,licence,seconds\n"
        "a.wav,speech,x,train,birds,CC0,1800\n"
        "b.wav,speech,x,train,birds,CC0,1800\n"
        "c.wav,speech,y,test,cars,GPL-2+,3600\n"
    )
    both = [str(manifest), str(tmp_path)]  # a file, and a folder with one
    card = card_of(trained, tmp_path / "both", recordings=both)
    assert "| birds | CC0 | 4 | 2.0 |" in card
    card = card_of(trained, tmp_path, recordings=str(manifest))
    assert "| birds | CC0 | 2 | 1.0 |" in card and "cars" not in card
    assert "`train`" not in card and "ves" not in card
    assert "`valid`: 7 files, 0.25 hours" in card


@pytest.mark.parametrize("force", [False, True])
def test_mismatch_leaves_nothing(trained, tmp_path, monkeypatch, force):
    if force:
        export_model(trained[0], tmp_path / "m")
        (tmp_path / "m/README.md").write_text("old")
    monkeypatch.setattr(EnhanceModel, "enhance_batch", lambda _, x: 1.01 * x)
    with pytest.raises(ValueError, match="differs from that of the run"):
        export_model(trained[0], tmp_path / "m", force=force)
    if force:
        assert (tmp_path / "m/README.md").read_text() == "old"
    assert names(tmp_path) == (["m"] if force else [])


def test_weights_that_are_not_those_of_the_run(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    path = folder / "save/CKPT+second/ema.ckpt"
    state = torch.load(path)
    nan = {k: v * float("nan") for k, v in state.items() if k.endswith("bias")}
    nan = {**state, **nan}
    for broken, message in (
        (nan, "are nan or infinite"),
        ({"weight": torch.ones(1)}, '(?s)not fit .*"n_averaged".*"weight"'),
        ([torch.ones(1)], "expected a state dict of named tensors"),
    ):
        torch.save(broken, path)
        with pytest.raises(ValueError, match=message):
            export_model(folder, tmp_path / "m")
    torch.save(state, path)
    write_hyperparams(folder, num_channels=16)
    with pytest.raises(ValueError, match="do not fit"):
        export_model(folder, tmp_path / "m")
    assert names(tmp_path) == ["run"]


def test_what_is_missing_is_named(tmp_path):
    run, model = tmp_path / "run", tmp_path / "m"
    with pytest.raises(FileNotFoundError, match="give the output_folder"):
        export_model(run, model)
    write_hyperparams(run)
    with pytest.raises(FileNotFoundError, match="expected the checkpoints"):
        export_model(run, model)
    save_checkpoint(run, "a", end_of_epoch=False)
    with pytest.raises(ValueError, match="until the first validation"):
        export_model(run, model)
    save_checkpoint(run, "b", pesq=1.0)
    with pytest.raises(FileNotFoundError, match="leave out --card"):
        export_model(run, model, card=tmp_path / "no.md")
    (run / "save/CKPT+b/ema.ckpt").unlink()
    with pytest.raises(ValueError, match="ema.ckpt"):
        export_model(run, model)
    path = run / "hyperparams.yaml"
    path.write_text(path.read_text().replace("compute_istft:", "other:"))
    with pytest.raises(ValueError, match="compute_istft missing"):
        export_model(run, model)
    assert names(tmp_path) == ["run"]


def test_example_is_heard_in_the_card_and_sent(trained, tmp_path):
    noisy = noisy_batch(1.0, 0)[0].numpy()
    write_wav(tmp_path / "talk.wav", noisy)
    options = {"example": tmp_path / "talk.wav", "force": True}
    for _ in range(2):  # the folder of before is replaced
        export_model(trained[0], tmp_path / "m", **options)
    card = (tmp_path / "m/README.md").read_text()
    model = EnhanceModel.from_hparams(str(tmp_path / "m"))
    expected = model.enhance_file(tmp_path / "talk.wav").numpy()
    for name, signal in (("noisy", noisy), ("enhanced", expected)):
        name = f"example_{name}.flac"
        assert f'<audio controls src="{name}">' in card
        written, _ = sf.read(tmp_path / "m" / name)
        np.testing.assert_allclose(written, signal, atol=1e-4)
    assert np.abs(expected - noisy).max() > 1e-2
    files, others = plan_upload(tmp_path / "m", "owner/name")
    assert sorted(file.name for file in files) == names(tmp_path / "m")
    assert others == []
    options["example"] = tmp_path / "no.wav"
    with pytest.raises(FileNotFoundError, match="no.wav"):
        export_model(trained[0], tmp_path / "new", **options)
    assert names(tmp_path) == ["m", "talk.wav"]


def test_command_replaces_a_folder_by_force_alone(trained, tmp_path, run):
    card = tmp_path / "m/README.md"
    export = partial(run, "export", trained[0])
    assert "make it first" in export(tmp_path / "no/m", code=1).err
    assert "CKPT+second (pesq 2.500" in export(tmp_path / "m").out
    card.write_text("old")
    assert "exists; use --force" in export(tmp_path / "m", code=1).err
    assert card.read_text() == "old"
    (tmp_path / "m/model.onnx").write_text("of the model before")
    export(tmp_path / "m", "--force")
    assert not (tmp_path / "m/model.onnx").exists()
    assert card.read_text() != "old" and names(tmp_path) == ["m"]
    # A folder of other things is spared.
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.tex").write_text("years of work")
    told = export(tmp_path / "home", "--force", code=1).err
    assert "more than a model (thesis.tex" in told
    assert names(tmp_path / "home") == ["thesis.tex"]
    told = export(tmp_path / "home/thesis.tex", "--force", code=1).err
    assert "is no folder" in told and names(tmp_path) == ["home", "m"]
    told = run("export", tmp_path / "no", tmp_path / "n", code=1).err
    assert "output_folder" in told


def test_own_blocks_are_exported_and_used_by_those_who_trust_them(
    trained, tmp_path, run, monkeypatch
):
    """As docs/add_block.md has them: a module on the path, named in YAML."""
    module = "dbtransform_lobes.models.harmonic_graph"
    name = "HarmonicGraphAttention"
    own = tmp_path / "own_graphs.py"
    own.write_text(f"from {module} import {name} as OwnGraph\n")
    folder = shutil.copytree(trained[0], tmp_path / "run")
    text = (folder / "hyperparams.yaml").read_text()
    assert f"{module}.{name}" in text
    text = text.replace(f"{module}.{name}", "own_graphs.OwnGraph")
    (folder / "hyperparams.yaml").write_text(text)
    told = run("export", folder, tmp_path / "m", code=1).err
    assert "own_graphs.OwnGraph" in told and "PYTHONPATH" in told
    monkeypatch.syspath_prepend(tmp_path)
    run("export", folder, tmp_path / "m")
    for command in (["info"], ["push", "owner/name", "--dry-run"]):
        command.insert(1, tmp_path / "m")
        told = run(*command, code=1).err
        assert "own_graphs.OwnGraph" in told and "--trust-code" in told
        run(*command, "--trust-code")
