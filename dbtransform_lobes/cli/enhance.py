"""``dbtransform enhance``: enhance files and folders of noisy speech."""

import glob
import sys
from pathlib import Path

from dbtransform_lobes.cli.options import (
    ENHANCING,
    add_options,
    check_options,
    model_options,
)

HELP = "Enhance noisy speech; rate, channels, length and level are kept."
EXAMPLES = """\
  dbtransform enhance noisy.wav enhanced.wav
  dbtransform enhance noisy_folder --output enhanced_folder
  dbtransform enhance "talks/**/*.mp3" --output enhanced_folder --jobs 2
  dbtransform enhance noisy_folder --output enhanced_folder --resume
  dbtransform enhance manifest.csv --output enhanced_folder --jobs 8
  dbtransform enhance a.wav b.flac --output . --suffix _enhanced
  dbtransform enhance noisy.wav enhanced.wav --attenuation-limit 12
  dbtransform enhance noisy.wav enhanced.wav --model my_model --device cuda
  dbtransform enhance noisy.wav enhanced.wav --model my_model.onnx
"""


def add_arguments(parser):
    """Add the arguments of ``enhance`` to its parser."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="without --output: the noisy file and the file to write; with "
        "it: files, folders, which are searched to any depth, quoted "
        "patterns (*, ?, [abc], **) and CSV manifests with a column path",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder of the results; folders keep their structure in it",
    )
    parser.add_argument(
        "--suffix",
        default="",
        help="added to the names of the results in --output (default none)",
    )
    again = parser.add_mutually_exclusive_group()
    add_options(again, "--force")
    again.add_argument(
        "--resume",
        action="store_true",
        help="leave out files whose result is there, whole, not older than "
        "they and of the same model and settings",
    )
    add_options(parser, *ENHANCING, "--jobs")
    parser.add_argument(
        "--high-band",
        choices=("keep", "drop"),
        default="keep",
        help="above the band of the model (8 kHz), in files of a higher "
        "sample rate: keep what is there, scaled as the top of that band, or "
        "drop it (default keep)",
    )


def run(args):
    """Enhance all files; 1 if any of them failed, else 0."""
    if args.output is None:
        pairs = _single_pair(args.paths, args.suffix)
    else:
        pairs = _folder_pairs(args.paths, Path(args.output), args.suffix)
    _check_outputs(pairs, args.force or args.resume, set(map(Path, args.paths)))
    check_options(args)
    total = len(pairs)
    if args.output is not None:
        pairs = _claim(pairs, args)
    readable, failures = _split_unreadable(pairs)
    if readable:
        failures += _enhance(readable, args)
    if args.output is not None:
        print(
            f"{len(pairs) - len(failures)} of {total} files enhanced into "
            f"{args.output}"
            + (f", {total - len(pairs)} were there" if args.resume else "")
        )
    for path, reason in failures:
        reason = reason.removeprefix(f"{path}: ")
        print(f"failed: {path}: {reason}", file=sys.stderr)
    return 1 if failures else 0


def _single_pair(paths, suffix):
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
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{target.parent}: there is no such folder; make it first"
        )
    return [(source, target)]


def _folder_pairs(paths, output, suffix):
    """Pair every file with its place in the output folder."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file, expected a folder (--output)")
    if "/" in suffix or "\\" in suffix:
        raise ValueError(f"--suffix is {suffix!r}, expected a part of a name")
    pairs = []
    for file, place in _places(paths, output):
        target = output / place
        pairs.append((file, target.with_stem(target.stem + suffix)))
    return list(dict.fromkeys(pairs))  # a manifest may name a file twice


def _places(paths, output):
    """Yield every file and its place below the output folder."""
    from dbtransform_lobes.inference.corpus import read_corpus

    for path, root in _expand(paths):
        if path.suffix.lower() == ".csv" and not path.is_dir():
            yield from read_corpus(path)
            continue
        files = audio_files(path, output) if path.is_dir() else [path]
        for file in files:
            yield file, file.relative_to(root)


def _is_pattern(path):
    return glob.has_magic(str(path)) and not path.exists()


def _expand(paths):
    """List (path, the folder its results are relative to), patterns too."""
    expanded = []
    for path in map(Path, paths):
        if not _is_pattern(path):
            expanded.append((path, path if path.is_dir() else path.parent))
            continue
        found = _matches(path)
        if not found:
            raise ValueError(
                f"{path}: no folder and no audio file has such a name"
            )
        fixed = [part for part in path.parts if glob.has_magic(part)][0]
        root = Path(*path.parts[: path.parts.index(fixed)])
        expanded += [(each, root) for each in found]
    return expanded


def _matches(pattern):
    """Audio files of a pattern, and folders unless ** goes into them."""
    from dbtransform_lobes.data.audio import (
        AUDIO_SUFFIXES,
        OTHER_SUFFIXES,
        conversion,
    )

    found = []
    for path in map(Path, sorted(glob.glob(str(pattern), recursive=True))):
        suffix = path.suffix.lower()
        if path.is_dir():
            found += [] if "**" in pattern.parts else [path]
        elif suffix in AUDIO_SUFFIXES:
            found.append(path)
        elif suffix in OTHER_SUFFIXES:
            _print_skipped(path, conversion(path))
    return found


def _print_skipped(path, reason):
    print(f"skipped: {path}: {reason}", file=sys.stderr)


def audio_files(folder, output):
    """List audio files below a folder, without those of earlier results."""
    from dbtransform_lobes.data.audio import AUDIO_SUFFIXES, find_audio

    if folder.resolve() == output.resolve():
        raise ValueError(
            f"{folder}: is the input and the --output; give another folder"
        )
    files = find_audio(folder, output=output, skipped=_print_skipped)
    if not files:
        raise ValueError(
            f"{folder}: there is no audio, expected files of the suffixes "
            f"{', '.join(AUDIO_SUFFIXES)}"
        )
    return files


def _is_dangling(path):
    """Whether a file is a link to nothing, a failure of its own."""
    return path.is_symlink() and not path.exists()


def _check_outputs(pairs, force, typed):
    """Refuse missing inputs and outputs that cannot be, all at once.

    A file that is missing but not ``typed``, so in a manifest, is a failure
    of its own.
    """
    from dbtransform_lobes.data.audio import (
        AUDIO_SUFFIXES,
        OTHER_SUFFIXES,
        conversion,
    )
    from dbtransform_lobes.data.files import raise_problems

    problems, taken = [], {}
    for source, target in pairs:
        place = target.resolve()
        missing = not source.is_file() and not _is_dangling(source)
        if missing and source in typed:
            problems.append(f"{source}: there is no such file")
        elif target.suffix.lower() not in AUDIO_SUFFIXES:
            other = source.suffix.lower() in OTHER_SUFFIXES
            problems.append(
                f"{target}: expected one of the suffixes "
                f"{', '.join(AUDIO_SUFFIXES)}"
                + (f"; {conversion(source)}" if other else "")
            )
        elif place == source.resolve():
            problems.append(f"{target}: the output is the input")
        elif place in taken:
            problems.append(f"{target}: for {taken[place]} and {source}")
        elif target.is_dir():
            problems.append(f"{target}: is a folder")
        elif target.exists() and not force:
            problems.append(f"{target}: exists; use --force to replace it")
        taken[place] = source
    inputs = {source.resolve() for source, _ in pairs}
    problems += [
        f"{target}: the output of {source} is another input"
        for source, target in pairs
        if target.resolve() in inputs - {source.resolve()}
    ]
    raise_problems("nothing was enhanced, mend these first", problems)


def _claim(pairs, args):
    """Record the settings in the output folder; returns what is left to do."""
    from dbtransform_lobes.inference.corpus import claim_output, is_finished

    # Results of other suffixes may lie in the same folder.
    record = Path(args.output) / f".dbtransform{args.suffix}.json"
    claim_output(record, model_options(args), sound_options(args), args.resume)
    if not args.resume:
        return pairs
    return [pair for pair in pairs if not is_finished(*pair, record)]


def _split_unreadable(pairs):
    """Return the pairs whose input opens, and the failures of the others."""
    from dbtransform_lobes.data.audio import audio_info

    readable, failures = [], []
    for source, target in pairs:
        try:
            audio_info(source)
            readable.append((source, target))
        except (ValueError, OSError) as error:
            failures.append((source, str(error)))
    return readable, failures


def sound_options(args):
    """What ``Enhancer.enhance_long_file`` gets of the arguments."""
    return {
        "strength": args.strength,
        "attenuation_limit_db": args.attenuation_limit,
        "high_band": args.high_band,
    }


def _enhance(pairs, args):
    """Enhance the files; returns (path, reason) of failures, in order."""
    from tqdm import tqdm

    from dbtransform_lobes.inference.batch import enhance_files

    results = enhance_files(
        pairs,
        model_options(args),
        {**sound_options(args), "progress": args.jobs == 1},
        args.jobs,
        args.threads,
    )
    failures, notes = {}, []
    progress = tqdm(
        results, total=len(pairs), unit="file", disable=len(pairs) == 1
    )
    for path, reason, warned in progress:
        notes += warned
        if reason is not None:
            failures[path] = reason
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return [(path, failures[path]) for path, _ in pairs if path in failures]
