"""Models without any training: a tiny run, and one of any network."""

import copy
import functools
import os
import tempfile
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.processing.features import ISTFT, STFT
from speechbrain.utils.checkpoints import Checkpointer

from dbtransform_lobes.inference import EnhanceModel
from dbtransform_lobes.models.db_transform import DBTransform
from dbtransform_lobes.training.ema import weight_ema
from tests.composition import recipe_overrides
from tests.training_runs import ROOT, TINY_MODEL, process_as_before

RECIPE = ROOT / "hparams" / "db_transform.yaml"


def write_hyperparams(folder, **overrides):
    """Let SpeechBrain write a run's hyperparams.yaml; return the folder."""
    folder = Path(folder)
    overrides = {
        "data_folder": str(folder / "data"),
        "output_folder": str(folder),
        **recipe_overrides(**{**TINY_MODEL, **overrides}),
    }
    given = str(folder), str(RECIPE), overrides
    with process_as_before():
        sb.create_experiment_directory(*given, save_env_desc=False)
    return folder


@functools.cache
def _recipe_model():
    with tempfile.TemporaryDirectory() as folder:
        file = write_hyperparams(folder) / "hyperparams.yaml"
        return load_hyperpyyaml(file.read_text())["model"]


def tiny_model(seed=0):
    """The recipe's DB-Transform, tiny, with every weight random."""
    model = copy.deepcopy(_recipe_model())
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def scores_of(count, **means):
    """What a run writes as scores.json, or what is read of it."""
    means = {metric: {"mean": mean} for metric, mean in means.items()}
    report = {"reference": "enhanced", "num_compared": count}
    return {**report, "means": {"enhanced": means}}


def save_checkpoint(folder, name, seed=0, end_of_epoch=True, **meta):
    """Save weights and their average, which differ; return the average."""
    model = tiny_model(seed)
    ema = weight_ema(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    Checkpointer(
        Path(folder) / "save", {"model": model, "ema": ema}
    ).save_checkpoint(meta=meta, end_of_epoch=end_of_epoch, name=name)
    return ema.module.eval()


def tiny_run(folder, **overrides):
    """Write a run of three checkpoints; return the best averaged model.

    The best is ``CKPT+second``; the newest is one within an epoch.
    """
    write_hyperparams(folder, **overrides)
    save_checkpoint(folder, "first", 1, pesq=1.5, stoi=0.7)
    scores = {"pesq": 2.5, "stoi": 0.8, "si_sdr": 11.25}
    best = save_checkpoint(folder, "second", 2, **scores)
    save_checkpoint(folder, "third", 3, pesq=2.25, stoi=0.9)
    save_checkpoint(folder, "within", 4, end_of_epoch=False)
    return best


class Mapping(torch.nn.Module):
    """A network that is a function of a spectrum (B, F, T)."""

    def __init__(self, forward):
        super().__init__()
        self.forward = forward


def model_of(network, pad_mode="constant", **changes):
    """An EnhanceModel of 16 kHz around a network or function, on the CPU."""
    if not isinstance(network, torch.nn.Module):
        network = Mapping(network)
    options = {
        "win_length": 32,
        "hop_length": 8,
        "n_fft": 512,
        "window_fn": torch.hann_window,
        **changes,
    }
    transforms = {
        "sample_rate": 16000,
        "compute_stft": STFT(16000, pad_mode=pad_mode, **options),
        "compute_istft": ISTFT(16000, **options),
    }
    return EnhanceModel({"model": network}, transforms, {"device": "cpu"})


class Killer(DBTransform):
    """Ends its process, as a lack of memory does, on more than 100 frames."""

    def forward(self, spec):
        """Map a complex spectrum (B, F, T) to one of that shape."""
        if spec.shape[-1] > 100:
            os._exit(9)
        return super().forward(spec)
