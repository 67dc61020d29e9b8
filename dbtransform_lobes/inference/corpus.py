"""Which files are enhanced, where their results go, and which are done."""

import glob
import hashlib
import os
import sys
from pathlib import Path

from dbtransform_lobes.data.audio import (
    AUDIO_SUFFIXES,
    OTHER_SUFFIXES,
    audio_info,
    conversion,
    find_audio,
)
from dbtransform_lobes.data.files import (
    check_parent,
    raise_problems,
    read_record,
    read_table,
    write_json,
)
from dbtransform_lobes.inference.bundled import WEIGHTS, find_onnx


def single_pair(paths, suffix=""):
    """Return (input, output), the two paths of a command without --output."""
    if len(paths) != 2:
        raise ValueError(
            f"{len(paths)} paths given without --output, expected the noisy "
            "file and the file to write; give --output FOLDER"
        )
    source, target = map(Path, paths)
    if source.is_dir():
        raise ValueError(f"{source}: is a folder; give --output FOLDER")
    if _is_pattern(source):
        raise ValueError(f"{source}: is a pattern; give --output FOLDER")
    if suffix:
        raise ValueError(
            f"--suffix {suffix} given without --output, which names the "
            "folder of the results; leave out one path and give --output"
        )
    check_parent(target)
    return source, target


def folder_pairs(paths, output, suffix=""):
    """Pair every file with its place in a folder of results, each once.

    Paths are files, folders, which keep their structure, patterns, which keep
    what is below their fixed part, and manifests. What is left out is told on
    stderr.
    """
    if os.path.lexists(output) and not output.is_dir():
        raise ValueError(f"{output}: is no folder, expected one (--output)")
    if "/" in suffix or "\\" in suffix:
        raise ValueError(f"--suffix is {suffix!r}, expected a part of a name")
    pairs = []
    for path in map(Path, paths):
        for file, place in _found(path, output):
            target = output / place
            pairs.append((file, target.with_stem(target.stem + suffix)))
    return list(dict.fromkeys(pairs))  # a manifest may name a file twice


def _is_pattern(path):
    return glob.has_magic(str(path)) and not path.exists()


def _found(path, output):
    """List (file, place of its result) of a path of the command line."""
    if _is_pattern(path):
        return _matches(path, output)
    if path.suffix.lower() == ".csv" and not path.is_dir():
        return _read_corpus(path)
    if not path.is_dir():
        return [(path, path.name)]
    if path.resolve() == output.resolve():
        raise ValueError(
            f"{path}: is the input and the --output; give another folder"
        )
    if found := _below(path, path, output):
        return found
    raise ValueError(
        f"{path}: there is no audio, expected files of the suffixes "
        f"{', '.join(AUDIO_SUFFIXES)}"
    )


def _below(folder, root, output):
    files = find_audio(folder, output=output, skipped=_print_skipped)
    return [(file, file.relative_to(root)) for file in files]


def _matches(path, output):
    """List audio files of a pattern, and in folders unless ** enters them.

    Hidden ones and the results in ``output`` are left out.
    """
    number = [glob.has_magic(part) for part in path.parts].index(True)
    root, pattern = Path(*path.parts[:number]), Path(*path.parts[number:])
    if pattern.name == "**":
        pattern /= "*"
    found, output = [], output.resolve()
    for file in sorted(root.glob(str(pattern))):  # not through links by **
        place, suffix = file.resolve(), file.suffix.lower()
        hidden = any(p.startswith(".") for p in file.relative_to(root).parts)
        if hidden or output in (place, *place.parents):
            continue
        if file.is_dir():
            entered = "**" in pattern.parts
            found += [] if entered else _below(file, root, output)
        elif suffix in AUDIO_SUFFIXES:
            found.append((file, file.relative_to(root)))
        elif suffix in OTHER_SUFFIXES:
            _print_skipped(file, conversion(file))
    if not found:
        raise ValueError(f"{path}: no folder and no audio file has such a name")
    return found


def _print_skipped(path, reason):
    print(f"skipped: {path}: {reason}", file=sys.stderr)


def _read_corpus(manifest):
    """List (file, place of its result) of a CSV with a column ``path``.

    Places are relative to the manifest, of files from elsewhere whole paths.
    """
    root, files = Path(os.path.abspath(manifest)).parent, []
    for number, row in enumerate(read_table(manifest, ["path"]), start=1):
        path = (row["path"] or "").strip()
        if not path:
            raise ValueError(
                f"{manifest}: row {number} has no path; fill it in or remove "
                "the row"
            )
        file = Path(os.path.normpath(root / path))
        anchor = root if file.is_relative_to(root) else file.anchor
        files.append((file, file.relative_to(anchor)))
    return files


def check_pairs(pairs, force, named):
    """Raise one ValueError for missing inputs and outputs that cannot be.

    A file that is missing but not ``named``, so in a manifest, or a link to
    nothing is a failure of its own.
    """
    problems, taken, named = [], {}, set(map(Path, named))
    inputs = {source.resolve() for source, _ in pairs}
    for source, target in pairs:
        place = target.resolve()
        missing = not source.is_file() and not source.is_symlink()
        if missing and source in named:
            problems.append(f"{source}: there is no such file")
        elif target.suffix.lower() not in AUDIO_SUFFIXES:
            other = source.suffix.lower() in OTHER_SUFFIXES
            problems.append(
                f"{target}: expected one of the suffixes "
                f"{', '.join(AUDIO_SUFFIXES)}"
                + (f"; {conversion(source)}" if other else "")
            )
        elif place in inputs:
            problems.append(f"{target}: the output of {source} is an input")
        elif place in taken:
            problems.append(f"{target}: for {taken[place]} and {source}")
        elif target.is_dir():
            problems.append(f"{target}: is a folder")
        elif os.path.lexists(target) and not force:
            problems.append(f"{target}: exists; use --force to replace it")
        taken[place] = source
    raise_problems("nothing was enhanced, mend these first", problems)


def claim_output(record, model_options, options, resume):
    """Record the model and settings of a folder of results.

    The record is left as it is if it says the same, so that results younger
    than it are of these. ``resume`` refuses to mix those of others.
    """
    settings = {"model_sha256": _digest(**model_options), **options}
    settings["precision"] = model_options["precision"]
    earlier = read_record(record)
    if earlier == settings:
        return
    if resume and record.exists():
        told = {key: f"{key} {earlier.get(key)}" for key in settings}
        told["model_sha256"] = "another model or backend"
        others = [k for k in settings if earlier.get(k) != settings[k]]
        what = " and ".join(told[k] for k in others) if earlier else ""
        raise ValueError(
            f"{record.parent}: has results of {what or 'unknown settings'}"
            ", so that --resume would mix them; use --force to replace them, "
            "or another --output"
        )
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, settings)


def _digest(source, backend, **_):
    files = [Path(source, name) for name in ("hyperparams.yaml", WEIGHTS)]
    if backend == "onnx":
        files = [Path(find_onnx(source))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_finished(source, target, record):
    """Whether a result is whole and not older than its input and record."""
    try:
        newest = max(path.stat().st_mtime_ns for path in (source, record))
        return (
            target.stat().st_mtime_ns >= newest
            # more where libsndfile guesses the length of an MP3 too low
            and audio_info(target).frames >= audio_info(source).frames
        )
    except (ValueError, OSError):
        return False
