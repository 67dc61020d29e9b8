"""Weights from a file, without running anything that is in it."""

import os

import torch

from dbtransform_lobes.data.files import is_lfs_pointer


def load_strictly(model, path):
    """Load a file of tensors into a model if keys and shapes are the same.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no state dict or that of another model (see
        ``check_weights``), or a weight is not finite.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/model.ckpt"
    ...     torch.save({"weight": torch.ones(1, 1)}, path)
    ...     model = torch.nn.Linear(1, 1, bias=False)
    ...     load_strictly(model, path)
    >>> model.weight.item()
    1.0
    """
    given = read_state_dict(path)
    check_weights(
        given,
        model.state_dict(),
        f"{path}: the weights are not those of the model that the YAML file "
        "describes; export the run again",
    )
    damaged = [key for key in given if not given[key].isfinite().all()]
    if damaged:
        raise ValueError(
            f"{path}: {len(damaged)} weights are nan or infinite "
            f"({', '.join(damaged[:3])} ...), expected numbers; export or "
            "download it again"
        )
    model.load_state_dict(given)


def check_weights(given, expected, title):
    """Raise a ValueError if two state dicts differ.

    It lists the keys that are missing, unexpected and of another shape, below
    a title, which says what is wrong and what to do about it.

    Example
    -------
    >>> check_weights({"a": torch.ones(1)}, {"a": torch.zeros(1)}, "differ")
    """
    problems = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [str(key) for key in given if key not in expected],
        "of another shape": [
            f"{key} {tuple(given[key].shape)}, expected "
            f"{tuple(expected[key].shape)}"
            for key in expected
            if key in given and given[key].shape != expected[key].shape
        ],
    }
    lines = [f"  {kind}: {', '.join(k)}" for kind, k in problems.items() if k]
    if lines:
        raise ValueError("\n".join([title, *lines]))


def read_state_dict(path):
    """Read what ``torch.save`` wrote as tensors by name, on the CPU.

    FileNotFoundError if there is no such file, ValueError if it holds
    anything but tensors.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: there is no such file, expected the weights; make a "
            "model folder with `dbtransform export RUN_FOLDER MODEL_FOLDER`"
        )
    if is_lfs_pointer(path):
        raise ValueError(
            f"{path}: expected weights, given a Git LFS pointer to them; get "
            "the file by `git lfs pull`"
        )
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
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ValueError(
            f"{path}: expected a state dict of tensors, given "
            f"{type(state).__name__}; export the run again"
        )
    return state
