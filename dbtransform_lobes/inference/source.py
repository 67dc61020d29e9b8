"""Models of the Hugging Face hub, downloaded once."""

from pathlib import Path

from huggingface_hub import get_token, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from speechbrain.utils.fetching import FetchConfig, FetchFrom, FetchSource

from dbtransform_lobes.inference.bundled import check_folder, local_folder

PATTERNS = ("*.yaml", "*.ckpt", "*.onnx", "README.md", "custom.py")


def find_model(
    source=None,
    hparams_file="hyperparams.yaml",
    savedir=None,
    fetch_config=None,
):
    """Return the folder of a model, downloading it if need be.

    FileNotFoundError if the folder or a file of it is missing; ValueError if a
    download fails.

    Arguments
    ---------
    source, hparams_file : str
        As of ``local_folder``, or a FetchSource; its YAML file.
    savedir : str, optional
        Folder to keep models of the hub in, in place of the hub's cache;
        several models and revisions may lie in one.
    fetch_config : FetchConfig, optional
        Revision, token, cache, whether to use the network and to download
        anew what is there.
    """
    if isinstance(source, FetchSource):
        kind, path = source.FetchFrom, str(source.path)
    else:
        path = local_folder(source)
        kind = FetchFrom.HUGGING_FACE if path is None else FetchFrom.LOCAL
        path = path or source
    if kind == FetchFrom.HUGGING_FACE:
        config = fetch_config or hub_config()
        path = _download(path, hparams_file, savedir, config)
    path = Path(path).expanduser().resolve()
    check_folder(path, hparams_file)
    return path


def hub_config(revision=None):
    """Return how to get a model of the hub, with the user's token if any."""
    return FetchConfig(revision=revision, token=get_token() is not None)


def _download(name, hparams_file, savedir, config):
    """Download the files of a model of one commit; return their folder."""
    try:
        return snapshot_download(
            name,
            revision=config.revision,
            token=config.token,
            cache_dir=savedir or config.huggingface_cache_dir,
            force_download=config.overwrite,
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
