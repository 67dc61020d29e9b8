"""``dbtransform enhance``: enhance files and folders of noisy speech."""

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
    from dbtransform_lobes.inference.corpus import (
        check_pairs,
        claim_output,
        folder_pairs,
        is_finished,
        single_pair,
    )

    if args.output is None:
        pairs = [single_pair(args.paths, args.suffix)]
    else:
        pairs = folder_pairs(args.paths, Path(args.output), args.suffix)
    check_pairs(pairs, args.force or args.resume, args.paths)
    check_options(args)
    total = len(pairs)
    options = {
        "strength": args.strength,
        "attenuation_limit_db": args.attenuation_limit,
        "high_band": args.high_band,
    }
    if args.output is not None:
        # Results of other suffixes may lie in the same folder.
        record = Path(args.output) / f".dbtransform{args.suffix}.json"
        claim_output(record, model_options(args), options, args.resume)
        if args.resume:
            pairs = [pair for pair in pairs if not is_finished(*pair, record)]
    failures = _enhance(pairs, options, args)
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


def _enhance(pairs, options, args):
    """Enhance the files; return (path, reason) of failures, in order."""
    from tqdm import tqdm

    from dbtransform_lobes.inference.batch import enhance_files

    options = {**options, "progress": args.jobs == 1}
    results = enhance_files(
        pairs, model_options(args), options, args.jobs, args.threads
    )
    failures, notes = {}, []
    progress = tqdm(
        results, total=len(pairs), unit="file", disable=len(pairs) <= 1
    )
    for path, reason, warned in progress:
        notes += warned
        if reason is not None:
            failures[path] = reason
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return [(path, failures[path]) for path, _ in pairs if path in failures]
