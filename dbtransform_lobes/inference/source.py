"""Where a model comes from: a folder, the package or the hub.

A ``savedir`` remembers what it was filled from, so that it is never taken for
another model.
"""

import os
from pathlib import Path

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
    in_place = savedir is None or local_strategy == LocalStrategy.NO_LINK
    in_place = in_place or Path(savedir).resolve() == Path(path)
    savedir = None if in_place else Path(savedir)
    if savedir and _is_filled(savedir, kind, path, hparams_file, config):
        return savedir
    folder = Path(path)
    if kind == FetchFrom.HUGGING_FACE:
        folder = _download(path, hparams_file, savedir, local_strategy, config)
    check_folder(folder, hparams_file)
    if savedir in (None, folder):
        return folder
    return _collect(folder, savedir, hparams_file, local_strategy)


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


def _is_filled(savedir, kind, path, hparams_file, config):
    """Tell if nothing is to do; refuse a savedir of another model."""
    record = {"source": path, "revision": config.revision}
    place = savedir / RECORD
    filled = [savedir / name for name in (hparams_file, WEIGHTS)]
    filled = [file for file in filled if os.path.lexists(file)]
    given = read_record(place) if filled else record
    if given != record and not config.overwrite:
        moved = given.get("source") == path and config.allow_updates
        if not moved:
            raise ValueError(
                f"{savedir}: holds a model from {_shown(given)}, expected one "
                f"from {_shown(record)}; give another savedir, or "
                "FetchConfig(overwrite=True) to replace it"
            )
    whole = len(filled) == 2 and all(file.is_file() for file in filled)
    if whole and given == record and kind != FetchFrom.LOCAL:
        if not config.overwrite and not config.allow_updates:
            return True
    savedir.mkdir(parents=True, exist_ok=True)
    for file in filled if given != record else ():
        file.unlink()  # or a failing download would pass for a good one
    write_json(place, record)
    return False


def _shown(record):
    revision = record.get("revision")
    return record.get("source", "an unknown source") + (
        f" at revision {revision}" if revision else ""
    )


def _download(name, hparams_file, savedir, local_strategy, config):
    """Download the files of a model of one commit; return their folder."""
    direct = local_strategy == LocalStrategy.COPY_SKIP_CACHE
    local_dir = savedir if direct else None
    try:
        folder = snapshot_download(
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
    return savedir if direct and savedir else Path(folder)


def _collect(folder, savedir, hparams_file, local_strategy):
    names = {hparams_file}
    for pattern in PATTERNS:
        names |= {path.name for path in folder.glob(pattern)}
    for name in sorted(names):
        (savedir / name).parent.mkdir(parents=True, exist_ok=True)
        # a file of the hub's cache is itself a link to a blob
        source = (folder / name).resolve()
        link_with_strategy(source, savedir / name, local_strategy)
    return savedir
