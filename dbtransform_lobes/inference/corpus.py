"""A manifest of files to enhance, and the state of a folder of results."""

import csv
import hashlib
import io
import json
import os
from pathlib import Path

from dbtransform_lobes.data.audio import audio_info
from dbtransform_lobes.data.files import read_text, write_text
from dbtransform_lobes.inference.source import WEIGHTS, find_model


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
    root = os.path.dirname(os.path.abspath(manifest))
    files = []
    for number, path in _paths(manifest):
        if not path:
            raise ValueError(
                f"{manifest}: row {number} has no path; fill it in or remove "
                "the row"
            )
        file = os.path.normpath(os.path.join(root, path))
        inside = os.path.commonpath((root, file)) == root
        anchor = root if inside else Path(file).anchor
        files.append((Path(file), Path(file).relative_to(anchor)))
    if not files:
        raise ValueError(f"{manifest}: lists no files, expected one a row")
    return files


def _paths(manifest):
    """Number, from 1, and path of every row."""
    if not os.path.isfile(manifest):
        raise FileNotFoundError(
            f"{manifest}: there is no such file, expected a folder or a CSV "
            "with a column path"
        )
    try:
        reader = csv.DictReader(io.StringIO(read_text(manifest), newline=""))
        if "path" not in (reader.fieldnames or ()):
            raise ValueError(
                f"columns are {', '.join(reader.fieldnames or ()) or None}, "
                "expected one named path"
            )
        for number, row in enumerate(reader, start=1):
            yield number, (row["path"] or "").strip()
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{manifest}: expected a CSV ({error})") from error


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
    settings = {"model_sha256": _digest(model_options), **options}
    text = json.dumps(settings, indent=2) + "\n"
    if record.exists():
        earlier = record.read_text("utf-8")
        if earlier == text:
            return
        if resume:
            differences = _differences(earlier, settings)
            raise ValueError(
                f"{record.parent}: has results of {differences}, so "
                "that --resume would mix them; use --force to replace "
                "them, or another --output"
            )
    record.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, text)


def _digest(model_options):
    """Digest of the files of a model."""
    if "onnx" in model_options:
        files = [Path(model_options["onnx"])]
    else:
        folder = find_model(
            model_options["source"], fetch_config=model_options["fetch_config"]
        )
        files = [folder / "hyperparams.yaml", folder / WEIGHTS]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _differences(earlier, settings):
    """Say in words which settings an earlier run had."""
    try:
        earlier = json.loads(earlier)
    except ValueError:
        return "unknown settings"
    texts = [
        "another model"
        if key == "model_sha256"
        else f"{key} {earlier.get(key)}"
        for key in settings
        if earlier.get(key) != settings[key]
    ]
    return " and ".join(texts) or "other settings"


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
