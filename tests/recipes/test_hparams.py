"""Every YAML of hparams/ loads and agrees with what it claims."""

import re

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from dbtransform_lobes.training.settings import check_overrides
from tests.training_runs import ROOT

HPARAMS = ROOT / "hparams"
FILES = {path.stem for path in (HPARAMS / "models").glob("*.yaml")}
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


DATA = "data_folder: none"
RECIPES = ("db_transform", "db_transform_dns", "db_transform_timit")


def load_recipe(name, folder, overrides=""):
    given = {"data_folder": "none", "output_folder": str(folder)}
    if name == "db_transform_timit":
        given |= {"noise_folder": "none", "test_noises": ["car"]}
    lines = [f"{key}: {value}" for key, value in given.items()]
    with open(HPARAMS / f"{name}.yaml") as file:
        return load_hyperpyyaml(file, "\n".join([*lines, overrides]))


@pytest.mark.parametrize("name", sorted(FILES - {"front_end"}))
def test_model_file_is_ready_and_takes_the_place_of_a_recipes(name, tmp_path):
    own, (low, high) = load_model_file(name), SIZES[name]
    model = own["model"]
    stft = own["compute_stft"](torch.randn(1, 4000))
    spec = torch.view_as_complex(stft.contiguous()).transpose(1, 2)
    with torch.no_grad():
        estimate = model(spec)
        assert estimate.shape == spec.shape
        if name == "db_transform_streaming":
            first, _ = model.step(spec[..., :1], model.initial_state())
            assert torch.allclose(first, estimate[..., :1], atol=1e-5)
    text = f"architecture: !include:models/{name}.yaml"
    check_overrides(HPARAMS / "db_transform.yaml", f"{DATA}\n{text}")
    hparams = load_recipe("db_transform", tmp_path, text)
    assert type(hparams["modules"]["model"]) is type(model)
    assert low < count(model) / 1e6 < high
    assert count(hparams["model"]) == count(model)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_trains_the_full_model_with_its_overrides(recipe, tmp_path):
    early = "early_ms: 20.0" if recipe == "db_transform_dns" else ""
    hparams = load_recipe(recipe, tmp_path, early)
    if early:
        assert hparams["recordings_source"].keywords["early_ms"] == 20.0
    file = load_model_file("db_transform")
    trained, ready = (
        {k: v.shape for k, v in each["model"].state_dict().items()}
        for each in (hparams, file)
    )
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
        (  # changes would replace the file
            "architecture: !include:models/bsrnn.yaml {model: {num_layers: 1}}",
            "bsrnn.yaml with a mapping, expected the name alone",
        ),
        (
            "opt_class: !name:torch.optim.SGD {lr: 1}",
            "opt_class is .*SGD with a mapping, .* go to .*AdamW",
        ),
        ("opt_class: !name:torch.optim.SGDD", "opt_class is .*SGDD, expected"),
        (
            "recordings_source: {babbel: 1}",
            "source is .*Recordings, .* 'babbel', expected some of .*babble",
        ),
        (
            "architecture: {blocks: {attention: {num_head: 1}}}",
            "blocks.attention is .* 'num_head', expected .*num_heads",
        ),
        (
            "lr_schedule: !new:speechbrain.nnet.schedulers.NewBobScheduler",
            "lr_schedule is .*, missing a required argument: 'initial_value'",
        ),
        ("lr: low", "lr is 'low', expected a value like that of .*, 0.001"),
        ("recordings_source: {babble: much}", "source.babble is 'much', exp"),
        ("num_workers: True", "num_workers is True, expected .*, 4"),
        ("skip_prep: no", "skip_prep is 'no', expected .*, False"),
        ("betas: 0.9", r"betas is 0.9, expected .*, \[0.9, 0.99\]"),
        ("snr_db: [low, 20]", r"snr_db is \['low', 20\], expected .*-5.0"),
        ("architecture: bsrnn.yaml", "a mapping or !include:FILE"),
    ],
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_overrides_that_would_be_taken_for_others_are_refused(
    recipe, text, wrong
):
    with pytest.raises(ValueError, match=wrong):
        check_overrides(HPARAMS / f"{recipe}.yaml", f"{DATA}\n{text}")


@pytest.mark.parametrize(
    "text",
    [
        "valid_files: null",
        "architecture: {win_length: 25.5}",
        "recordings_source: {in_memory: True, source_weights: {some: 2}}",
        "loss: {terms: {own: [0.5, !name:torch.nn.L1Loss {}]}}",
        "opt_class: !name:torch.optim.RAdam",
        "opt_class: !name:torch.optim.AdamW {eps: 1.0e-6}",
        "lr: !ref <weight_decay>",
    ],
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_other_values_and_arguments_are_taken(recipe, text):
    check_overrides(HPARAMS / f"{recipe}.yaml", f"{DATA}\n{text}")


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
