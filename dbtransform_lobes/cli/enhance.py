"""Enhance noisy speech; rate, channels, length and level are kept.

examples:
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

import sys
from pathlib import Path

from dbtransform_lobes.cli import options


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
    options.add_options(again, "--force")
    again.add_argument(
        "--resume",
        action="store_true",
        help="leave out files whose result is there, whole, not older than "
        "they and of the same model and settings",
    )
    options.add_options(parser, *options.ENHANCING, "--jobs")
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
    from dbtransform_lobes.inference import corpus

    if args.output is None:
        pairs = [corpus.single_pair(args.paths, args.suffix)]
    else:
        pairs = corpus.folder_pairs(args.paths, Path(args.output), args.suffix)
    # Results of other suffixes may lie in the same folder.
    record = Path(args.output or "", f".dbtransform{args.suffix}.json")
    resumed = args.resume and args.output is not None and record.exists()
    corpus.check_pairs(pairs, args.force or resumed, args.paths)
    loading = options.check_options(args)
    total = len(pairs)
    settings = {
        "strength": args.strength,
        "attenuation_limit_db": args.attenuation_limit,
        "high_band": args.high_band,
    }
    if args.output is not None:
        corpus.claim_output(record, loading, settings, args.resume)
        if args.resume:
            pairs = [
                pair for pair in pairs if not corpus.is_finished(*pair, record)
            ]
    failures = _enhance(pairs, loading, settings, args)
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


def _enhance(pairs, loading, settings, args):
    """Enhance the files; return (path, reason) of failures, in order."""
    from tqdm import tqdm

    from dbtransform_lobes.inference.batch import enhance_files

    settings = {**settings, "progress": args.jobs == 1}
    results = enhance_files(pairs, loading, settings, args.jobs, args.threads)
    failures, notes = {}, []
    shown = {"unit": "file", "disable": len(pairs) <= 1}
    progress = tqdm(results, total=len(pairs), **shown)
    for path, reason, warned in progress:
        notes += warned
        if reason is not None:
            failures[path] = reason
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return [(path, failures[path]) for path, _ in pairs if path in failures]
