"""Every YAML of hparams/ loads and agrees with what it claims."""

import re

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from dbtransform_lobes.training.run_folder import check_overrides
from tests.training_runs import ROOT

HPARAMS = ROOT / "hparams"
# Millions of parameters: at least, at most.
SIZES = {
    "bsrnn": (2.962, 2.964),
    "bsrnn_small": (0.1, 0.3),
    "cmgan": (1.83, 1.84),
    "cmgan_small": (0.1, 0.3),
    "db_transform": (1.0, 4.1),
    "db_transform_proposal": (6.3, 6.4),
    "db_transform_small": (0.1, 1.0),
    "db_transform_streaming": (0.1, 1.0),
}


def load_model_file(name):
    with open(HPARAMS / "models" / f"{name}.yaml") as file:
        return load_hyperpyyaml(file)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_model_file_is_listed():
    files = {path.stem for path in (HPARAMS / "models").glob("*.yaml")}
    assert files - {"front_end"} == set(SIZES)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_model_file_gives_a_ready_model_of_its_size(name):
    hparams = load_model_file(name)
    low, high = SIZES[name]
    assert low < count(hparams["model"]) / 1e6 < high
    noisy = torch.randn(1, 4000)
    stft = hparams["compute_stft"](noisy)
    spec = torch.view_as_complex(stft.contiguous()).transpose(1, 2)
    with torch.no_grad():
        assert hparams["model"](spec).shape == spec.shape


def test_streaming_model_steps():
    model = load_model_file("db_transform_streaming")["model"]
    frame = torch.randn(1, 257, 1, dtype=torch.complex64)
    with torch.no_grad():
        estimate, _ = model.step(frame, model.initial_state())
        assert torch.allclose(estimate, model(frame), atol=1e-5)


RECIPES = ("db_transform", "db_transform_dns", "db_transform_timit")


def load_recipe(name, folder, overrides=""):
    given = {"data_folder": "none", "output_folder": str(folder)}
    if name == "db_transform_timit":
        given |= {"noise_folder": "none", "test_noises": ["car"]}
    lines = [f"{key}: {value}" for key, value in given.items()]
    with open(HPARAMS / f"{name}.yaml") as file:
        return load_hyperpyyaml(file, "\n".join([*lines, overrides]))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains_the_full_model(recipe, tmp_path):
    hparams = load_recipe(recipe, tmp_path)
    file = load_model_file("db_transform")
    trained = {k: v.shape for k, v in hparams["model"].state_dict().items()}
    ready = {k: v.shape for k, v in file["model"].state_dict().items()}
    assert trained == ready
    for transform in ("compute_stft", "compute_istft"):
        assert hparams[transform].hop_length == file[transform].hop_length
        assert torch.equal(hparams[transform].window, file[transform].window)


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("lrr: 1", "lrr not found in .*yaml, expected some of lr; correct"),
        ("xyz: 1", "xyz not found in .*yaml, expected some of .*seed, .*lr"),
        (
            "architecture: {num_chanels: 8}",
            "architecture.num_chanels not found",
        ),
        ("architecture: {blocks: {atention: {}}}", "blocks.atention not found"),
    ],
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_misspelt_key_is_refused(recipe, text, wrong):
    with pytest.raises(ValueError, match=wrong):
        check_overrides(HPARAMS / f"{recipe}.yaml", text)


def test_a_file_with_changes_is_refused_since_they_would_replace_it():
    text = "architecture: !include:models/bsrnn.yaml {model: {num_layers: 1}}"
    with pytest.raises(ValueError, match="names a file and changes model"):
        check_overrides(HPARAMS / "db_transform.yaml", text)


def test_override_reaches_the_source_of_recordings(tmp_path):
    hparams = load_recipe("db_transform_dns", tmp_path, "early_ms: 20.0")
    assert hparams["recordings_source"].keywords["early_ms"] == 20.0


@pytest.mark.parametrize("name", sorted(SIZES))
def test_any_model_file_takes_the_place_of_the_full_model(name, tmp_path):
    text = f"architecture: !include:models/{name}.yaml"
    check_overrides(HPARAMS / "db_transform.yaml", text)
    hparams = load_recipe("db_transform", tmp_path, text)
    own = load_model_file(name)["model"]
    assert type(hparams["modules"]["model"]) is type(own)
    assert count(hparams["model"]) == count(own)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_key_of_the_recipe_is_used(recipe):
    text = (HPARAMS / f"{recipe}.yaml").read_text()
    script = HPARAMS.parent / "recipes" / "Voicebank" / "train.py"
    package = HPARAMS.parent / "dbtransform_lobes"
    files = script, *package.rglob("*.py")
    code = "".join(path.read_text() for path in files)
    # Read by speechbrain.core.Brain itself.
    by_brain = {"max_grad_norm", "ckpt_interval_minutes", "__set_seed"}
    for key in re.findall(r"^(\w+):", text, flags=re.MULTILINE):
        # In the forms that the checks of SpeechBrain find.
        by_code = re.search(rf'hparams(\["{key}"\]|\.{key}\b)', code)
        assert f"<{key}" in text or by_code or key in by_brain, key
