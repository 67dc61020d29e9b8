"""A corpus to enhance: its files, its settings, and what failed of it.

Only paths are held in memory, never signals.
"""

import csv
import hashlib
import io
import json
import os
from pathlib import Path

from dbtransform_lobes.data.recordings import (
    AUDIO_SUFFIXES,
    raise_problems,
    write_text,
)
from dbtransform_lobes.inference.source import WEIGHTS, find_model

SETTINGS = "enhance_corpus.json"
FAILURES = "failures.csv"


def read_corpus(manifest):
    """List the files of a manifest and where their results belong.

    Arguments
    ---------
    manifest : str
        CSV with a column ``path``; paths are absolute or relative to it.

    Returns
    -------
    list of tuple
        (file, place) of every row, in order: an absolute path, and the path
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
    ...     [place for _, place in read_corpus(path)]
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
        files.append((file, os.path.relpath(file, anchor)))
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
        with open(manifest, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if "path" not in (reader.fieldnames or ()):
                raise ValueError(
                    f"columns are {', '.join(reader.fieldnames or ()) or None}"
                    ", expected one named path"
                )
            for number, row in enumerate(reader, start=1):
                yield number, (row["path"] or "").strip()
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{manifest}: expected a CSV ({error})") from error


def pair_files(files, output):
    """Pair every file with the file to write, each once.

    Arguments
    ---------
    files : iterable of tuple
        (file, place) of ``read_corpus``.
    output : str
        Folder of the results.

    Returns
    -------
    pairs : list of tuple
        (input, output), absolute paths.
    refused : dict
        Path of a file that cannot be enhanced to the reason.

    Raises
    ------
    ValueError
        If no file can be enhanced, or a result would replace a file of the
        corpus.
    """
    output = os.path.abspath(output)
    sources, refused = {}, {}
    for file, place in files:
        target = os.path.join(output, place)
        if Path(file).suffix.lower() not in AUDIO_SUFFIXES:
            refused[file] = (
                f"expected one of the suffixes {', '.join(AUDIO_SUFFIXES)}"
            )
        elif sources.setdefault(target, file) != file:
            refused[file] = f"{target} is the place of {sources[target]}"
    if not sources:
        problems = [f"{file}: {reason}" for file, reason in refused.items()]
        raise_problems("none of these can be enhanced", problems)
    for target in sources.keys() & set(sources.values()):
        raise ValueError(
            f"{target}: is of the corpus, and the result of {sources[target]} "
            "would replace it; give another --output"
        )
    return [(file, target) for target, file in sources.items()], refused


def claim_output(output, model_options, options, force):
    """Note the settings in the folder of the results, refuse others.

    Results of two models or strengths shall not stand side by side. Partial
    files of a run that was killed are removed.

    Arguments
    ---------
    output : str
        Folder of the results, made if it is not there.
    model_options, options : dict
        Of ``enhance_corpus``.
    force : bool
        Whether all is to be enhanced anew.

    Raises
    ------
    ValueError
        If the folder has results of other settings.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file, expected a folder (--output)")
    folder = find_model(
        model_options["source"], fetch_config=model_options["fetch_config"]
    )
    digest = hashlib.sha256()
    for name in ("hyperparams.yaml", WEIGHTS):
        digest.update((folder / name).read_bytes())
    settings = {"model_sha256": digest.hexdigest(), **options}
    record = output / SETTINGS
    text = json.dumps(settings, indent=2) + "\n"
    if record.exists() and not force and record.read_text("utf-8") != text:
        raise ValueError(
            f"{output}: has results of another model or other settings (see "
            f"{SETTINGS}); use --force to replace them, or another --output"
        )
    output.mkdir(parents=True, exist_ok=True)
    write_text(record, text)
    remove_partial(output)


def remove_partial(output):
    """Remove what killed processes have left under temporary names."""
    for path in Path(output).rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_failures(output, failures):
    """Write the table of failures, of no rows if there are none.

    Arguments
    ---------
    output : str
        Folder of the results.
    failures : dict
        Path of a file to the reason.

    Returns
    -------
    pathlib.Path
        The table, a CSV with the columns path and reason.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "reason"))
    writer.writerows(sorted(failures.items()))
    table = Path(output) / FAILURES
    write_text(table, stream.getvalue())
    return table
