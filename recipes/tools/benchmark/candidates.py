"""The models of a benchmark: found by name, made from their YAML."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references

from dbtransform_lobes.models.waveform import enhance_waveform

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))  # of the tests, which have the literal proposal
from tests.literal import literal_twin  # noqa: E402

LITERAL, PROPOSAL = "literal", "db_transform_proposal"
KEYS = ("model", "compute_stft", "compute_istft", "sample_rate")


@dataclass
class Candidate:
    """A model, of complex spectra (B, F, T), with its front end.

    ``name`` is that of its YAML, ``configuration`` the YAML with all
    references resolved, ``sample_rate`` in Hz.
    """

    name: str
    model: torch.nn.Module
    compute_stft: torch.nn.Module
    compute_istft: torch.nn.Module
    sample_rate: int
    configuration: str = ""

    def enhance(self, noisy):
        """Map waveforms (B, L) to (B, L), the whole path."""
        return enhance_waveform(
            self.model, self.compute_stft, self.compute_istft, noisy
        )

    def noise(self, seconds, batch=1, seed=0):
        """Return white noise (B, L) that depends on the arguments alone."""
        generator = torch.Generator().manual_seed(seed)
        samples = round(seconds * self.sample_rate)
        return torch.randn(batch, samples, generator=generator)


def available_models():
    """Return the YAML files of models by name, sorted.

    ``hparams/models`` of the current folder (that of the repository or of a
    recipe) comes before that of the repository.
    """
    folders = (ROOT / "hparams/models", Path("hparams/models"))
    return {
        path.stem: path
        for folder in folders
        for path in sorted(folder.glob("*.yaml"))
        if re.search("^model:", path.read_text("utf-8"), re.MULTILINE)
    }


def find_configuration(name):
    """Return the path of the YAML of a model.

    The name is a path, or that of a file of hparams/models/ without its
    suffix; "literal" stands for the proposal band by band. A ValueError that
    lists the names tells of one that is unknown.
    """
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(f"there is no file {name}: check the path")
        return Path(name)
    wanted, models = PROPOSAL if name == LITERAL else name, available_models()
    if wanted not in models:
        raise ValueError(
            f"there is no model {wanted!r}, expected the path of a YAML or one "
            f"of: {', '.join(models)}"
        )
    return models[wanted]


def load_candidate(name):
    """Make a model with random weights, in evaluation mode.

    A ValueError tells of a YAML that is missing or lacks a key.
    """
    path = find_configuration(name)
    with open(path, encoding="utf-8") as file:
        configuration = resolve_references(file).getvalue()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
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
