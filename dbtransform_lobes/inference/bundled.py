"""Models by name: those of the package, folders, and names on the hub."""

import os
import re
from pathlib import Path

from dbtransform_lobes.data.files import existing_folder

BUNDLED = Path(__file__).resolve().parents[1] / "bundled"
DEFAULT = "db_transform_small"
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
WEIGHTS = "model.ckpt"
GRAPH = "model.onnx"
EXPORT = "write one with `dbtransform export RUN_FOLDER MODEL_FOLDER`"


def bundled_models():
    """List the models that come with the package, the default first."""
    names = [path.parent.name for path in BUNDLED.glob("*/hyperparams.yaml")]
    return sorted(names, key=lambda name: (name != DEFAULT, name))


def local_folder(source=None):
    """Return the folder of a model, None for one on the hub ("owner/name").

    A bundled model, the default one without a name, goes before a folder of
    its name, which is meant by ``./name``.
    """
    if not isinstance(source, str | os.PathLike | None):
        raise ValueError(
            f"source is {source!r}, expected a folder or the name of a model"
        )
    if source is None and not bundled_models():
        raise FileNotFoundError(
            "this package was built without weights: give a model folder or a "
            f"name on the hub, or, for a model folder, {EXPORT}"
        )
    source = os.fspath(bundled_models()[0] if source is None else source)
    folder = os.path.expanduser(source)
    if source in bundled_models():
        return str(BUNDLED / source)
    if os.path.isdir(folder):
        return folder
    if HUB_NAME.fullmatch(source):
        return None
    raise FileNotFoundError(
        f"{source}: there is no such folder or file, expected a model folder, "
        "a graph of `dbtransform export-onnx`, a bundled model "
        f"({', '.join(bundled_models()) or 'none'}) or a name on the hub "
        "(owner/name)"
    )


def check_folder(folder, hparams_file="hyperparams.yaml"):
    """Refuse a folder that is no model folder by a FileNotFoundError."""
    folder = existing_folder(folder, f"a model folder: {EXPORT}")
    if (folder / "save").is_dir() and not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder}: this is the output folder of a training, expected a "
            f"model folder: {EXPORT.replace('RUN_FOLDER', str(folder))}"
        )
    if not (folder / hparams_file).is_file():
        raise FileNotFoundError(
            f"{folder}: there is no {hparams_file}, expected a model folder "
            "as `dbtransform export` writes it"
        )


def find_source(source=None, revision=None):
    """Return the path of a model: its folder, or the graph that was given.

    One of the hub is downloaded first, of a branch, tag or commit.
    """
    if isinstance(source, str | os.PathLike) and os.path.isfile(source):
        folder = os.fspath(source)
    else:
        folder = local_folder(source)
    if folder is not None and revision is not None:
        raise ValueError(
            f"revision is {revision}, but {folder} is on this machine, "
            "expected a name on the hub (owner/name); leave it out"
        )
    if folder is not None:
        return folder
    try:
        from dbtransform_lobes.inference.source import find_model, hub_config
    except ImportError as error:
        raise ValueError(
            f"{source}: getting a model of the hub needs PyTorch, which is not "
            f"installed ({error}): pip install dbtransform, or elsewhere "
            f"`hf download {source} --local-dir FOLDER`, and give the folder"
        ) from error
    return str(find_model(source, fetch_config=hub_config(revision)))


def find_onnx(source=None):
    """Return the path of a graph, itself or that of a model."""
    path = find_source(source)
    if os.path.isdir(path):
        path = os.path.join(path, GRAPH)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: there is no such file; write one with `dbtransform "
            f"export-onnx {source or DEFAULT} {path}`"
        )
    return path
