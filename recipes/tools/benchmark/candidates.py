"""The models of a benchmark: found by name, made from their YAML."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references

from dbtransform_lobes.models.waveform import enhance_waveform

ROOT = Path(__file__).resolve().parents[3]
sys.path.append(str(ROOT))  # of the tests, which have the literal proposal
from tests.literal import literal_twin  # noqa: E402

LITERAL, PROPOSAL = "literal", "db_transform_proposal"
KEYS = ("model", "compute_stft", "compute_istft", "sample_rate")


@dataclass
class Candidate:
    """A model with its front end.

    Arguments
    ---------
    name : str
        Of its YAML, without suffix.
    model : torch.nn.Module
        Maps a complex spectrum (B, F, T) to one of the same shape.
    compute_stft, compute_istft : torch.nn.Module
        SpeechBrain's STFT and ISTFT.
    sample_rate : int
        In Hz.
    configuration : str
        Its YAML with all references resolved.
    """

    name: str
    model: torch.nn.Module
    compute_stft: torch.nn.Module
    compute_istft: torch.nn.Module
    sample_rate: int
    configuration: str

    def enhance(self, noisy):
        """The whole path: map waveforms (B, L) to (B, L)."""
        return enhance_waveform(
            self.model, self.compute_stft, self.compute_istft, noisy
        )

    def noise(self, seconds, batch=1, seed=0):
        """White noise (B, L) that depends on the arguments alone."""
        generator = torch.Generator().manual_seed(seed)
        samples = round(seconds * self.sample_rate)
        return torch.randn(batch, samples, generator=generator)


def configuration_folders():
    """Where names are looked up: here and in the repository.

    ``hparams/models`` of the current folder (that of the repository or of a
    recipe) comes before that of the repository the package lies in.
    """
    folders = (
        Path("hparams/models"),
        ROOT / "hparams/models",
    )
    return [folder for folder in folders if folder.is_dir()]


def available_names():
    """Names of the YAML files in ``configuration_folders``, sorted."""
    return sorted(
        {
            path.stem
            for folder in configuration_folders()
            for path in folder.glob("*.yaml")
            if re.search("^model:", path.read_text("utf-8"), re.MULTILINE)
        }
    )


def find_configuration(name):
    """Find the YAML of a model.

    Arguments
    ---------
    name : str
        Path of a YAML, or the name of a file of hparams/models/ without its
        suffix; "literal" stands for the proposal band by band.

    Returns
    -------
    pathlib.Path
        The YAML.

    Raises
    ------
    ValueError
        If there is none; the message lists the names.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"there is no file {name}: check the path")
        return Path(name)
    wanted = PROPOSAL if name == LITERAL else name
    for folder in configuration_folders():
        path = folder / f"{wanted}.yaml"
        if path.is_file():
            return path
    names = ", ".join(available_names()) or (
        "none, since there is no folder hparams/models here: run it in the "
        "repository"
    )
    raise ValueError(
        f"there is no model {wanted!r}, expected the path of a YAML or one "
        f"of: {names}"
    )


def load_candidate(name, seed=0):
    """Make a model with random weights, for inference.

    Arguments
    ---------
    name : str
        See ``find_configuration``.
    seed : int
        Of the weights.

    Returns
    -------
    Candidate
        In evaluation mode.

    Raises
    ------
    ValueError
        If there is no such YAML or it lacks a key.
    """
    path = find_configuration(name)
    with open(path, encoding="utf-8") as file:
        configuration = resolve_references(file).getvalue()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hparams = load_hyperpyyaml(configuration)
        missing = [key for key in KEYS if key not in hparams]
        if missing:
            raise ValueError(
                f"{path} lacks {', '.join(missing)}; expected the keys "
                f"{', '.join(KEYS)}, as in hparams/models/db_transform.yaml"
            )
        parts = {key: hparams[key] for key in KEYS}
        if name == LITERAL:
            parts["model"] = literal_twin(parts["model"])
    parts["model"].eval()
    name = LITERAL if name == LITERAL else path.stem
    return Candidate(name, configuration=configuration, **parts)
