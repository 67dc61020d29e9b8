"""Every YAML of hparams/ loads and agrees with what it claims."""

import re
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from dbtransform_lobes.training.recipe import load_recipe

HPARAMS = Path(__file__).resolve().parents[2] / "hparams"
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


@pytest.mark.parametrize(
    "recipe, name",
    [
        ("db_transform", "db_transform"),
        ("db_transform_small", "db_transform_small"),
        ("db_transform_dns", "db_transform"),
    ],
)
def test_recipe_trains_the_model_of_that_name(recipe, name, tmp_path):
    hparams, _, _ = load_recipe(
        HPARAMS / f"{recipe}.yaml",
        f"data_folder: none\noutput_folder: {tmp_path}",
    )
    file = load_model_file(name)
    trained = {k: v.shape for k, v in hparams["model"].state_dict().items()}
    ready = {k: v.shape for k, v in file["model"].state_dict().items()}
    assert trained == ready
    for transform in ("compute_stft", "compute_istft"):
        assert hparams[transform].hop_length == file[transform].hop_length
        assert torch.equal(hparams[transform].window, file[transform].window)


def test_given_overrides_win_over_those_of_the_variant(tmp_path):
    hparams, _, _ = load_recipe(
        HPARAMS / "db_transform_small.yaml",
        f"data_folder: none\noutput_folder: {tmp_path}\n"
        "architecture: {num_layers: 1}",
    )
    layers = [n for n in hparams["model"].state_dict() if "offset" in n]
    assert len(layers) == 1


@pytest.mark.parametrize("recipe", ["db_transform", "db_transform_dns"])
def test_misspelt_key_is_refused(recipe, tmp_path):
    with pytest.raises(KeyError, match="earlyms not found in .*early|lr"):
        load_recipe(
            HPARAMS / f"{recipe}.yaml",
            f"data_folder: none\noutput_folder: {tmp_path}\nearlyms: 1",
        )


def test_variant_adds_keys_and_replaces_the_source(tmp_path):
    hparams, _, _ = load_recipe(
        HPARAMS / "db_transform_dns.yaml",
        f"data_folder: none\noutput_folder: {tmp_path}\nearly_ms: 20.0",
    )
    source = hparams["recordings_source"]
    assert source.func.__name__ == "DegradedRecordings"
    assert source.keywords["early_ms"] == 20.0


def test_another_model_takes_the_place_of_db_transform(tmp_path):
    hparams, _, _ = load_recipe(
        HPARAMS / "db_transform.yaml",
        f"data_folder: none\noutput_folder: {tmp_path}\n"
        "architecture: !include:models/bsrnn.yaml",
    )
    assert type(hparams["modules"]["model"]).__name__ == "BSRNN"


def test_every_key_of_the_recipe_is_used():
    text = (HPARAMS / "db_transform.yaml").read_text()
    scripts = HPARAMS.parent / "recipes" / "Voicebank" / "train.py"
    package = HPARAMS.parent / "dbtransform_lobes"
    code = scripts.read_text() + "".join(
        path.read_text() for path in package.rglob("*.py")
    )
    # Read by speechbrain.core.Brain itself.
    by_brain = {"max_grad_norm", "ckpt_interval_minutes", "__set_seed"}
    for key in re.findall(r"^(\w+):", text, flags=re.MULTILINE):
        by_code = re.search(rf'"{key}"|hparams\.{key}\b', code)
        assert f"<{key}" in text or by_code or key in by_brain, key


def test_model_of_the_command_line_is_taken(tmp_path):
    hparams, _, _ = load_recipe(
        str(HPARAMS / "db_transform_small.yaml"),
        f"data_folder: none\noutput_folder: {tmp_path}\n"
        "model_overrides: models/db_transform_streaming.yaml\n"
        "architecture: {blocks: {attention: {window: 7}}}",
    )
    own = load_model_file("db_transform_streaming")["model"]
    assert hparams["model"].causal
    assert count(hparams["model"]) == count(own)
    assert hparams["model"].blocks[0].block.window == 7
