"""The models of a benchmark: found by name, made from their YAML."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references

from dbtransform_lobes.inference.restricted_yaml import open_yaml
from dbtransform_lobes.models.waveform import enhance_waveform

ROOT = Path(__file__).resolve().parents[3]
LITERAL, PROPOSAL = "literal", "db_transform_proposal"
KEYS = ("model", "compute_stft", "compute_istft", "sample_rate")


@dataclass
class Candidate:
    """A model, of complex spectra (B, F, T), with its front end."""

    name: str
    model: torch.nn.Module
    compute_stft: torch.nn.Module
    compute_istft: torch.nn.Module
    sample_rate: int
    source: str = ""
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


def find_configuration(name):
    """Return the path of the YAML of a model, given itself or by its name."""
    folder = Path("hparams/models")
    if not folder.is_dir():
        folder = ROOT / folder
    path = folder / f"{PROPOSAL if name == LITERAL else name}.yaml"
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    if not path.is_file():
        names = sorted(path.stem for path in folder.glob("*.yaml"))
        raise ValueError(
            f"there is no model {name!r}, expected the path of a YAML or one "
            f"of: {', '.join(names)}"
        )
    return path


def load_candidate(source):
    """Make a model with random weights, in evaluation mode."""
    path = find_configuration(source)
    with open_yaml(path) as file:
        configuration = resolve_references(file).getvalue()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            hparams = load_hyperpyyaml(configuration)
        except (TypeError, AttributeError) as error:  # of wrong arguments
            reason = ": ".join(map(str, error.args))
            raise ValueError(f"{path}: correct it: {reason}") from error
    missing = [key for key in KEYS if key not in hparams]
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(missing)}; expected the keys "
            f"{', '.join(KEYS)}, as in hparams/models/db_transform.yaml"
        )
    parts, name = {key: hparams[key] for key in KEYS}, path.stem
    if source == LITERAL:
        sys.path.insert(0, str(ROOT))
        from tests.literal import literal_twin

        name, parts["model"] = LITERAL, literal_twin(parts["model"])
    parts["model"].eval()
    return Candidate(name, **parts, source=source, configuration=configuration)
