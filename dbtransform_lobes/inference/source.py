"""Where a model comes from: a folder, the package or the hub.

A ``savedir`` remembers what it was filled from, so that it is never taken for
another model.
"""

import os
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import get_token, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from speechbrain.utils.fetching import (
    FetchConfig,
    FetchFrom,
    FetchSource,
    LocalStrategy,
    link_with_strategy,
)

from dbtransform_lobes.data.files import read_record, write_json
from dbtransform_lobes.inference.bundled import (
    WEIGHTS,
    check_folder,
    local_folder,
)

PATTERNS = ("*.yaml", "*.ckpt", "*.onnx", "README.md", "custom.py")
RECORD = "source.json"


def find_model(
    source=None,
    hparams_file="hyperparams.yaml",
    savedir=None,
    local_strategy=LocalStrategy.SYMLINK,
    fetch_config=None,
):
    """Return a folder with the files of a model, downloading it if need be.

    FileNotFoundError if the folder or a file of it is missing; ValueError if a
    download fails, ``savedir`` holds another model or a type is wrong.

    Arguments
    ---------
    source, hparams_file : str
        As of ``local_folder``, or a FetchSource; its YAML file.
    savedir : str, optional
        Folder to collect the files in. Without it a local model is read in
        place and a model of the hub from the hub's cache.
    local_strategy : LocalStrategy
        How ``savedir`` gets the files: links, copies, copies without the
        hub's cache, or (NO_LINK) not at all.
    fetch_config : FetchConfig, optional
        Revision, token, cache, and whether to use the network, to look for
        updates and to refill a ``savedir``.
    """
    config, text = fetch_config or hub_config(), str | os.PathLike
    for name, value, kind, expected in (
        ("hparams_file", hparams_file, text, "the name of a file"),
        ("savedir", savedir, text | None, "the path of a folder, or None"),
        ("local_strategy", local_strategy, LocalStrategy, "a LocalStrategy"),
        ("fetch_config", config, FetchConfig, "a FetchConfig"),
    ):
        if not isinstance(value, kind) or value == "":
            raise ValueError(f"{name} is {value!r}, expected {expected}")
    kind, path = _resolve(source)
    record = {"source": path, "revision": config.revision}
    in_place = savedir is None or local_strategy == LocalStrategy.NO_LINK
    in_place = in_place or Path(savedir).resolve() == Path(path)
    savedir = None if in_place else Path(savedir)
    of_hub = kind == FetchFrom.HUGGING_FACE
    if savedir and _is_filled(savedir, record, hparams_file, config) and of_hub:
        return savedir
    direct = savedir and local_strategy == LocalStrategy.COPY_SKIP_CACHE
    with TemporaryDirectory() if direct else nullcontext() as local_dir:
        if of_hub:
            path = _download(path, hparams_file, local_dir, config)
        check_folder(path, hparams_file)
        if savedir is None:
            return Path(path)
        _collect(Path(path), savedir, hparams_file, local_strategy)
    write_json(savedir / RECORD, record)
    return savedir


def hub_config(revision=None):
    """Return how to get a model of the hub, with the user's token if any."""
    return FetchConfig(revision=revision, token=get_token() is not None)


def _resolve(source):
    """Return the kind of a source, and its name on the hub or whole path."""
    if isinstance(source, FetchSource):
        kind, path = source.FetchFrom, str(source.path)
    else:
        folder = local_folder(source)
        kind = FetchFrom.HUGGING_FACE if folder is None else FetchFrom.LOCAL
        path = source if folder is None else folder
    if kind == FetchFrom.LOCAL:
        path = str(Path(path).expanduser().resolve())
    return kind, path


def _is_filled(savedir, record, hparams_file, config):
    """Tell if a savedir has this model already; refuse one with another."""
    files = [savedir / name for name in (hparams_file, WEIGHTS)]
    if not any(map(os.path.lexists, files)):
        return False
    given, update = read_record(savedir / RECORD), config.allow_updates
    moved = update and given.get("source") == record["source"]
    if given != record and not moved and not config.overwrite:
        raise ValueError(
            f"{savedir}: holds a model from {_shown(given)}, expected one "
            f"from {_shown(record)}; give another savedir, or "
            "FetchConfig(overwrite=True) to replace it"
        )
    whole = given == record and all(file.is_file() for file in files)
    return whole and not update and not config.overwrite


def _shown(record):
    revision = record.get("revision")
    return record.get("source", "an unknown source") + (
        f" at revision {revision}" if revision else ""
    )


def _download(name, hparams_file, local_dir, config):
    """Download the files of a model of one commit; return their folder."""
    try:
        return snapshot_download(
            name,
            revision=config.revision,
            token=config.token,
            cache_dir=config.huggingface_cache_dir,
            local_dir=local_dir,
            local_files_only=not config.allow_network,
            allow_patterns=[*PATTERNS, hparams_file],
            ignore_patterns="*/*",
        )
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name}: there is no such folder, and getting it from the hub "
            f"failed ({type(error).__name__}: {reason}); check the name, the "
            "revision and the network; a private model needs "
            "FetchConfig(token=True) and a token (HF_TOKEN or `hf auth login`)"
        ) from error


def _collect(folder, savedir, hparams_file, local_strategy):
    """Put the files of a folder into a savedir, which loses its record."""
    for name in (RECORD, WEIGHTS):
        (savedir / name).unlink(missing_ok=True)
    names = {hparams_file}
    for pattern in PATTERNS:
        names |= {path.name for path in folder.glob(pattern)}
    for name in sorted(names):
        (savedir / name).parent.mkdir(parents=True, exist_ok=True)
        # a file of the hub's cache is itself a link to a blob
        source = (folder / name).resolve()
        link_with_strategy(source, savedir / name, local_strategy)
