"""Weights from a file, without running anything that is in it."""

import torch

from dbtransform_lobes.data.files import existing_file, refuse_lfs_pointer
from dbtransform_lobes.inference.bundled import EXPORT


def load_strictly(model, path):
    """Load finite weights from a file whose keys and shapes are the model's."""
    given = read_state_dict(path)
    damaged = [key for key in given if not given[key].isfinite().all()]
    if damaged:
        raise ValueError(
            f"{path}: {len(damaged)} weights are nan or infinite "
            f"({', '.join(damaged[:3])} ...), expected numbers; export or "
            "download it again"
        )
    title = (
        "the weights are not those of the model that the YAML file describes"
    )
    fit_weights(model, given, f"{path}: {title}; export the run again")


def fit_weights(model, state, title):
    """Load a state dict; if it does not fit, a ValueError lists why."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{title}: {error}") from error


def read_state_dict(path):
    """Read what ``torch.save`` wrote as tensors by name, on the CPU."""
    existing_file(path, f"the weights; {EXPORT}")
    refuse_lfs_pointer(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged bytes end in any of a dozen types of error within torch.
        reason = str(error).partition("\n")[0] or "the file is empty"
        raise ValueError(
            f"{path}: expected a state dict that torch can read ({reason}); "
            "export or download it again"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor)
        for key, value in state.items()
    ):
        raise ValueError(
            f"{path}: expected a state dict of named tensors, given "
            f"{type(state).__name__}; export the run again"
        )
    return state
