"""``dbtransform enhance``: enhance files and folders of noisy speech."""

import sys
from pathlib import Path

HELP = "Enhance noisy speech; rate, channels, length and level are kept."
EXAMPLES = """\
  dbtransform enhance noisy.wav enhanced.wav
  dbtransform enhance noisy_folder --output enhanced_folder
  dbtransform enhance a.wav b.flac --output . --suffix _enhanced
  dbtransform enhance noisy.wav enhanced.wav --model my_model --device cuda
"""


def add_arguments(parser):
    """Add the arguments of ``enhance`` to its parser."""
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="without --output: the noisy file and the file to write; with "
        "it: files and folders, which are searched to any depth",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder of the results; folders keep their structure in it",
    )
    parser.add_argument(
        "--model",
        metavar="FOLDER",
        help="model folder written by `dbtransform export` (default: the "
        "weights that come with the package)",
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="CPU threads (default: all)"
    )
    parser.add_argument(
        "--force", action="store_true", help="replace files that exist"
    )
    parser.add_argument(
        "--suffix",
        default="",
        help="added to the names of the results in --output (default none)",
    )


def run(args):
    """Enhance all files; 1 if any of them failed, else 0."""
    if args.output is None:
        pairs = _single_pair(args.paths, args.suffix)
    else:
        pairs = _folder_pairs(args.paths, Path(args.output), args.suffix)
    _check_outputs(pairs, args.force)
    _check_options(args)
    readable, failures = _split_unreadable(pairs)
    if readable:
        failures += _enhance(readable, args)
    if args.output is not None:
        done = len(pairs) - len(failures)
        print(f"{done} of {len(pairs)} files enhanced into {args.output}")
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
    for path in map(Path, paths):
        files = _audio_files(path, output) if path.is_dir() else [path]
        root = path if path.is_dir() else path.parent
        for file in files:
            target = output / file.relative_to(root)
            pairs.append((file, target.with_stem(target.stem + suffix)))
    return pairs


def _audio_files(folder, output):
    """Audio files below a folder, without those of earlier results."""
    from dbtransform_lobes.data.recordings import AUDIO_SUFFIXES

    folder_path, output_path = folder.resolve(), output.resolve()
    if folder_path == output_path:
        raise ValueError(
            f"{folder}: is the input and the --output; give another folder"
        )
    inside = folder_path in output_path.parents
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
        and not (inside and output_path in path.resolve().parents)
    ]
    if not files:
        raise ValueError(
            f"{folder}: there is no audio, expected files of the suffixes "
            f"{', '.join(AUDIO_SUFFIXES)}"
        )
    return files


def _check_outputs(pairs, force):
    """Refuse missing inputs and outputs that cannot be, all at once."""
    from dbtransform_lobes.data.recordings import (
        AUDIO_SUFFIXES,
        raise_problems,
    )

    problems, taken = [], {}
    for source, target in pairs:
        place = target.resolve()
        if not source.is_file():
            problems.append(f"{source}: there is no such file")
        elif target.suffix.lower() not in AUDIO_SUFFIXES:
            problems.append(
                f"{target}: expected one of the suffixes "
                f"{', '.join(AUDIO_SUFFIXES)}"
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


def _check_options(args):
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads is {args.threads}, expected at least 1")
    if args.model is not None and not Path(args.model).is_dir():
        raise FileNotFoundError(
            f"{args.model}: there is no such folder (--model), expected a "
            "model folder written by `dbtransform export`"
        )


def _split_unreadable(pairs):
    """Return the pairs whose input opens, and the failures of the others."""
    from dbtransform_lobes.data.recordings import audio_info

    readable, failures = [], []
    for source, target in pairs:
        try:
            audio_info(source)
            readable.append((source, target))
        except (ValueError, OSError) as error:
            failures.append((source, str(error)))
    return readable, failures


def _enhance(pairs, args):
    """Enhance the files one by one; returns (path, reason) of failures."""
    from tqdm import tqdm

    model = _load(args)
    failures = []
    for source, target in tqdm(pairs, unit="file", disable=len(pairs) == 1):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            model.enhance_file(source, target)
        except (ValueError, OSError, RuntimeError) as error:
            # torch's errors, such as a lack of memory, are RuntimeErrors
            failures.append((source, str(error)))
    return failures


def _load(args):
    """Load the model onto the device."""
    import torch

    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise ValueError(
            f"--device is {args.device!r}, expected cpu, cuda or cuda:N"
        ) from error
    if device.type == "cuda":
        number = torch.cuda.device_count()
        if (device.index or 0) >= number:
            raise ValueError(
                f"--device is {args.device}, but torch sees {number} GPUs; "
                "use --device cpu"
            )
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    from dbtransform_lobes.inference import EnhanceModel

    return EnhanceModel.from_hparams(
        args.model, run_opts={"device": args.device}
    )
