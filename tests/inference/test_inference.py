"""EnhanceModel: strict and offline loading, batches, files."""

import os
import sys

import numpy as np
import pytest
import soundfile as sf
import torch
from speechbrain.inference.interfaces import foreign_class
from speechbrain.utils import fetching

from dbtransform_lobes import inference
from dbtransform_lobes.inference import EnhanceModel, bundled
from tests.signals import noise_like, noisy_batch, speech_like, write_wav

CPU = {"device": "cpu"}


def test_a_folder_loads_offline_and_leaves_nothing(
    own_folder, tmp_path, monkeypatch, no_network
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for source in (
        str(own_folder),
        own_folder,
        "own",
        "./own",
        fetching.FetchSource(fetching.FetchFrom.LOCAL, str(own_folder)),
    ):
        loaded = EnhanceModel.from_hparams(source, run_opts=CPU)
        assert not any(w.requires_grad for w in loaded.parameters())
        assert not loaded.mods.model.training
    assert EnhanceModel.from_hparams("own", download_only=True) is None
    foreign = {"pymodule_file": "custom.py", "classname": "EnhanceModel"}
    made = foreign_class("own", **foreign, run_opts=CPU)
    assert type(made) is EnhanceModel
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setitem(sys.modules, "dbtransform_lobes.inference", None)
    with pytest.raises(ImportError, match="pip install dbtransform"):
        foreign_class("own", **foreign)


def test_overrides_change_the_model(model, model_folder):
    options = {"overrides": {"model": {"level": 3}}, "run_opts": CPU}
    changed = EnhanceModel.from_hparams(model_folder, **options)
    noisy = noisy_batch(0.3, 0)
    outs = [each.enhance_batch(noisy) for each in (changed, model)]
    assert not torch.equal(*outs)


def test_bundled_weights_are_the_default_before_folders(tmp_path, monkeypatch):
    name = "db_transform_small"
    weights = torch.load(bundled.BUNDLED / name / "model.ckpt")
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    for source in (None, name):
        loaded = EnhanceModel.from_hparams(source, run_opts=CPU)
        state = loaded.mods.model.state_dict()
        torch.testing.assert_close(dict(state), dict(weights), rtol=0, atol=0)
    with pytest.raises(FileNotFoundError, match="no hyperparams.yaml"):
        EnhanceModel.from_hparams(f"./{name}")
    monkeypatch.setattr(bundled, "BUNDLED", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="built without weights"):
        EnhanceModel.from_hparams()


def test_a_savedir_has_one_source(own_folder, model_folder, tmp_path):
    """And is never stale."""
    savedir, load = tmp_path / "savedir", EnhanceModel.from_hparams
    copy = {"local_strategy": fetching.LocalStrategy.COPY}
    first = load(str(own_folder), savedir=str(savedir), **copy)
    state = torch.load(own_folder / "model.ckpt")
    torch.save({k: v * 2 for k, v in state.items()}, own_folder / "model.ckpt")
    second = load(str(own_folder), savedir=str(savedir), **copy)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(2 * one, two)
    load(own_folder, savedir=savedir)
    assert (savedir / "model.ckpt").resolve() == own_folder / "model.ckpt"
    with pytest.raises(ValueError, match="holds a model from .*own, expected"):
        load(model_folder, savedir=savedir)
    with pytest.raises(ValueError, match="give another savedir"):
        load("owner/name", savedir=savedir)
    assert (savedir / "model.ckpt").resolve() == own_folder / "model.ckpt"
    config = fetching.FetchConfig(overwrite=True)
    load(model_folder, savedir=savedir, fetch_config=config, **copy)
    assert not (savedir / "model.ckpt").is_symlink()
    load(model_folder, savedir=savedir)  # links again, as it is told
    assert (savedir / "model.ckpt").is_symlink()
    (savedir / "source.json").unlink()  # as stock SpeechBrain leaves it
    with pytest.raises(ValueError, match="from an unknown source"):
        load(model_folder, savedir=savedir)
    load(model_folder, savedir=model_folder)  # the folder itself: in place
    nowhere = {"local_strategy": fetching.LocalStrategy.NO_LINK}
    load(model_folder, savedir=tmp_path / "unused", **nowhere)
    assert not (tmp_path / "unused").exists()


def test_keys_are_strict(own_folder):
    path = own_folder / "model.ckpt"
    state = torch.load(path)
    first, second, *_ = state
    state["surplus"] = state.pop(first)
    state[second] = state[second][None]
    torch.save(state, path)
    told = (
        "(?s)model.ckpt: the weights are not those .* export the run again: "
        rf'.*Missing key.s. in state_dict: "{first}"\. \n'
        rf'.*Unexpected key.s. in state_dict: "surplus"\. \n'
        rf".*size mismatch for {second}: .*\[1, "
    )
    with pytest.raises(ValueError, match=told):
        EnhanceModel.from_hparams(own_folder)


def test_broken_weights_are_refused(own_folder):
    path = own_folder / "model.ckpt"
    torch.save([torch.ones(1)], path)
    for content, message in (
        (path.read_bytes(), "a state dict of named tensors, given list"),
        (b"", "expected a state dict .*the file is empty"),
        (b"no weights", "expected a state dict"),
        (b"PK\x03\x04cut", "expected a state dict"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            EnhanceModel.from_hparams(own_folder)


def test_missing_files_are_named(own_folder, tmp_path):
    for source in (tmp_path / "no", "./no", "~/no/such/folder", "no"):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            EnhanceModel.from_hparams(source)
    (own_folder / "model.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="model.ckpt.*dbtransform exp"):
        EnhanceModel.from_hparams(own_folder)
    (own_folder / "save").mkdir()  # as in a run
    with pytest.raises(FileNotFoundError, match="`dbtransform export .*own M"):
        EnhanceModel.from_hparams(own_folder)
    (own_folder / "save").rmdir()
    (own_folder / "hyperparams.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="no hyperparams.yaml"):
        EnhanceModel.from_hparams(own_folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("modules:", "others:", "hyperparams.yaml lack modules"),
        ("modules:\n  model:", "modules:\n  net:", "modules lack model"),
        ("sample_rate:", "other:", "hparams lack sample_rate"),
        ("compute_istft:", "other:", "hparams lack compute_istft"),
        ("  model: !ref <model>", "  model: net", "model is str, expected a t"),
        ("sample_rate: 16000\n", "sample_rate: [16000\n", "HyperPyYAML"),
    ],
)
def test_yaml_that_lacks_something(own_folder, old, new, message):
    path = own_folder / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        EnhanceModel.from_hparams(own_folder)


def test_batch_enhances_and_equals_its_items(model):
    """At any level, and as silence where there is silence."""
    noisy = noisy_batch(0.5, 0, 1, 2)
    noisy[2] = 0
    enhanced = model.enhance_batch(noisy)
    assert enhanced.dtype == torch.float32 and enhanced.shape == noisy.shape
    assert (enhanced - noisy).abs().max() > 1e-2 and not enhanced[2].any()
    for item, one in zip(noisy, enhanced, strict=True):
        alone = model(item[None])
        assert torch.allclose(alone[0], one, atol=1e-6)
    for gain in (1e-4, 0.1, 32768.0):
        scaled = model.enhance_batch(gain * noisy) / gain
        assert torch.allclose(scaled, enhanced, atol=1e-5)
    enhanced += 1  # an ordinary tensor, not one of inference mode
    assert torch.equal(model.enhance_batch(noisy.double()), model(noisy))


@pytest.mark.parametrize("garbage", [0.0, 100.0])
def test_padding_never_changes_an_item(model, garbage):
    samples = [8000, 5003, 5003, 1]
    noisy = torch.full((4, 8000), garbage)
    for row, length in enumerate(samples):
        noisy[row, :length] = noisy_batch(0.5, row)[0, -length:]
    lengths = torch.tensor(samples, dtype=torch.float32) / 8000
    enhanced = model.enhance_batch(noisy, lengths)
    half = model.enhance_batch(noisy, lengths, strength=0.5)
    for row, length in enumerate(samples):
        alone = model.enhance_batch(noisy[row : row + 1, :length])
        assert torch.allclose(enhanced[row, :length], alone[0], atol=1e-6)
        assert not enhanced[row, length:].any() and not half[row, length:].any()
        assert half[row, :length].any()


@pytest.mark.parametrize(
    ("noisy", "lengths", "message"),
    [
        (torch.ones(100), None, r"shape \(100,\).*noisy\[None\]"),
        (torch.ones(1, 2, 100), None, "expected .batch, samples"),
        (torch.ones(1, 0), None, "at least one"),
        (torch.ones(1, 100, dtype=torch.int16), None, "int16.*by 32768"),
        (torch.ones(1, 100, dtype=torch.cfloat), None, "floating-point"),
        (np.ones((1, 100)), None, "of float64, expected a .*Tensor"),
        (torch.full((1, 100), -float("inf")), None, "not finite"),
        (torch.ones(2, 100), torch.tensor([1.0]), r"expected \(2,\)"),
        (torch.ones(1, 100), torch.tensor([1.1]), "shares"),
        (torch.ones(1, 100), torch.tensor([0.0]), "shares"),
        (torch.ones(1, 100), torch.tensor([float("nan")]), "shares"),
        (torch.ones(1, 100), torch.tensor([50]), "noisy.shape"),
        (torch.ones(1, 100), "1.0", "lengths are '1.0', expected a tensor"),
        (torch.ones(1, 100), ["a"], "lengths are .'a'., expected a tensor"),
    ],
)
def test_bad_batches(model, noisy, lengths, message):
    with pytest.raises(ValueError, match=message):
        model.enhance_batch(noisy, lengths)


def test_file_equals_batch_and_array_and_is_written(model, tmp_path):
    signal = noisy_batch(0.5, 0)[0]
    path, output = tmp_path / "a.wav", tmp_path / "b.wav"
    sf.write(path, signal.numpy(), 16000, subtype="FLOAT")
    output.write_text("replaced")
    options = {"strength": 0.7, "attenuation_limit_db": 8.0}
    enhanced = model.enhance_file(path, output, **options)
    expected = model.enhance_batch(signal[None], **options)[0]
    assert torch.allclose(enhanced, expected, atol=1e-6)
    assert sf.info(output).subtype == "FLOAT"
    written = torch.from_numpy(sf.read(output, dtype="float32")[0])
    assert torch.equal(written, enhanced)
    assert sorted(tmp_path.iterdir()) == [path, output]
    assert torch.equal(model.enhance_file(str(path), **options), enhanced)
    array = model.enhance_array(signal.numpy(), 16000, **options)
    assert np.array_equal(array, enhanced.numpy())
    whole = model.enhance_file(path)
    assert not torch.allclose(whole, enhanced, atol=1e-3)


def test_beyond_full_scale_is_clipped_not_wrapped(identity, tmp_path):
    signal = 3 * noisy_batch(0.5, 0)[0].numpy()
    sf.write(tmp_path / "a.wav", signal, 16000, subtype="FLOAT")
    enhanced = identity.enhance_file(tmp_path / "a.wav", tmp_path / "b.flac")
    written = sf.read(tmp_path / "b.flac", dtype="float32")[0]
    assert np.abs(signal).max() > 1.2
    assert np.allclose(enhanced, signal, atol=1e-5)
    assert np.allclose(written, signal.clip(-1, 1), atol=1e-4)


def test_bad_inputs_and_outputs(model, tmp_path):
    path = write_wav(tmp_path / "a.wav", speech_like(0.2))
    before = path.read_bytes()
    (tmp_path / "text.wav").write_text("no audio")
    write_wav(tmp_path / "empty.wav", np.zeros(0))
    sf.write(tmp_path / "nan.wav", [0.1, np.nan], 16000, subtype="FLOAT")
    (tmp_path / "link.wav").symlink_to(path)
    os.link(path, tmp_path / "hard.wav")
    (tmp_path / "folder.wav").mkdir()
    for given, output, message in (
        ("no.wav", "b.wav", "no such file"),
        ("text.wav", "b.wav", "text.wav: expected audio"),
        ("empty.wav", "b.wav", "no samples"),
        ("nan.wav", "b.wav", "nan.wav: .*not finite"),
        ("a.wav", "a.wav", "output is the input"),
        ("a.wav", f"../{tmp_path.name}/a.wav", "output is the input"),
        ("a.wav", "link.wav", "output is the input"),
        ("a.wav", "hard.wav", "output is the input"),
        ("a.wav", "b.txt", "suffix is '.txt', expected one of"),
        ("a.wav", "no/b.wav", "make it first"),
        ("a.wav", "folder.wav", "is a folder"),
    ):
        missing = "no.wav" in given or "no/" in output
        with pytest.raises(
            FileNotFoundError if missing else ValueError, match=message
        ):
            model.enhance_file(tmp_path / given, tmp_path / output)
    for given in (3, None, b"a.wav", np.zeros(9)):
        for name, *output in ((given,), (given, tmp_path / "b.wav")):
            with pytest.raises(ValueError, match="its path as str"):
                model.enhance_file(name, *output)
        if given is not None:
            with pytest.raises(ValueError, match="its path as str"):
                model.enhance_file(path, given)
    assert path.read_bytes() == before and not (tmp_path / "b.wav").exists()


def test_a_name_that_the_package_does_not_have():
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = inference.Other


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_torch_does_not_count(model, model_folder, dtype):
    noisy = noise_like(0.2)
    expected = model.enhance_array(noisy, 16000)
    torch.set_default_dtype(dtype)
    try:
        same = EnhanceModel.from_hparams(model_folder, run_opts=CPU)
        enhanced = same.enhance_array(noisy, 16000)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.abs(enhanced - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_opts": {"jit": True}}, "cannot be compiled by TorchScript"),
        ({"run_opts": "cpu"}, "run_opts is 'cpu', expected a dict"),
        *(
            ({"run_opts": {"device": name}}, f"device '{name}' cannot be used")
            for name in ("xpu", "cuda:99", "meta", "nonsense")
        ),
        ({"source": 3}, "source is 3, expected a folder or the name"),
        ({"savedir": 3}, "savedir is 3, expected the path of a folder"),
        ({"savedir": ""}, "savedir is '', expected the path of a folder"),
        ({"hparams_file": None}, "hparams_file is None, expected the name"),
        ({"local_strategy": "x"}, "local_strategy is 'x', expected a Local"),
        ({"fetch_config": 3}, "fetch_config is 3, expected a FetchConfig"),
        ({"overrides": {"mdoel": 1}}, "'mdoel' not found .*; correct the over"),
        ({"overrides": {"model": {"lvel": 1}}}, "unexpected keyword .*'lvel'"),
        ({"overrides": {"model": 3}}, "model is int, expected a torch module"),
        ({"overrides": "a: [1"}, "expected HyperPyYAML .while parsing"),
        ({"run_opts": {"devise": 1, 3: 4}}, "has devise, 3, expected some of"),
    ],
)
def test_mistaken_options(options, message):
    with pytest.raises(ValueError, match=message) as error:
        EnhanceModel.from_hparams(**options)
    assert "\n" not in str(error.value)
