"""A manifest of files to enhance, and the state of a folder of results."""

import hashlib
import os
from pathlib import Path

from dbtransform_lobes.data.audio import audio_info
from dbtransform_lobes.data.files import read_record, read_table, write_json
from dbtransform_lobes.inference.backend import model_folder
from dbtransform_lobes.inference.bundled import GRAPH, WEIGHTS


def read_corpus(manifest):
    """List the files of a manifest and where their results belong.

    Arguments
    ---------
    manifest : str
        CSV with a column ``path``; paths are absolute or relative to it.

    Returns
    -------
    list of tuple
        (file, place) of every row, in order: an absolute ``Path``, and that
        of its result in the output folder. That is the place below the
        folder of the manifest; files from elsewhere keep their whole path.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such CSV, or a row has no path.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "manifest.csv")
    ...     _ = path.write_text("path\\na/b.wav\\n/data/c.wav\\n")
    ...     [str(place) for _, place in read_corpus(path)]
    ['a/b.wav', 'data/c.wav']
    """
    root, files = os.path.dirname(os.path.abspath(manifest)), []
    if not os.path.isfile(manifest):
        raise FileNotFoundError(
            f"{manifest}: there is no such file, expected a folder or a CSV "
            "with a column path"
        )
    for number, row in enumerate(read_table(manifest, ["path"]), start=1):
        path = (row["path"] or "").strip()
        if not path:
            raise ValueError(
                f"{manifest}: row {number} has no path; fill it in or remove "
                "the row"
            )
        file = os.path.normpath(os.path.join(root, path))
        inside = os.path.commonpath((root, file)) == root
        anchor = root if inside else Path(file).anchor
        files.append((Path(file), Path(file).relative_to(anchor)))
    return files


def claim_output(record, model_options, options, resume):
    """Record the model and settings of a folder of results.

    Arguments
    ---------
    record : pathlib.Path
        JSON file to write. It is left as it is if it says the same, so that
        results younger than it are of these settings.
    model_options, options : dict
        Of ``enhance_files``.
    resume : bool
        Whether earlier results are to be kept.

    Raises
    ------
    ValueError
        If they are to be kept but are of another model or other settings.
    """
    settings = {"model_sha256": _digest(**model_options), **options}
    earlier = read_record(record)
    if earlier == settings:
        return
    if resume and record.exists():
        raise ValueError(
            f"{record.parent}: has results of {_differences(earlier, settings)}"
            ", so that --resume would mix them; use --force to replace them, "
            "or another --output"
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, settings)


def _digest(source=None, revision=None, **_):
    """Digest of the files of a model, whatever computes it."""
    files = [source]
    if source is None or not os.path.isfile(source):
        folder = model_folder(source, revision)
        names = ("hyperparams.yaml", WEIGHTS, GRAPH)
        files = [os.path.join(folder, name) for name in names]
        files = [file for file in files if os.path.isfile(file)][:2]
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _differences(earlier, settings):
    """Say in words which settings an earlier run had."""
    texts = [
        "another model"
        if key == "model_sha256"
        else f"{key} {earlier.get(key)}"
        for key in settings
        if earlier.get(key) != settings[key]
    ]
    return " and ".join(texts) if earlier else "unknown settings"


def is_finished(source, target, record):
    """Whether a result is whole and not older than its input and record.

    Example
    -------
    >>> is_finished(Path("no.wav"), Path("result.wav"), Path("no.json"))
    False
    """
    try:
        newest = max(path.stat().st_mtime_ns for path in (source, record))
        return (
            target.stat().st_mtime_ns >= newest
            and audio_info(target).frames == audio_info(source).frames
        )
    except (ValueError, OSError):
        return False
