"""``dbtransform evaluate``: score a folder against its clean speech."""

import sys

HELP = "Score enhanced (or noisy) files against their clean speech."
EXAMPLES = """\
  dbtransform evaluate clean enhanced
  dbtransform evaluate clean enhanced --output scores --jobs 4
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "clean_folder",
        metavar="CLEAN_FOLDER",
        help="clean speech: .wav or .flac, 16 kHz, one channel",
    )
    parser.add_argument(
        "estimate_folder",
        metavar="ESTIMATE_FOLDER",
        help="files of the same names (the suffix may differ)",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write scores.csv and scores.json there (replacing older ones)",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=1,
        help="number of processes (default: 1)",
    )


def run(args):
    """Score the folders, print the means; 1 if a file failed, else 0."""
    from dbtransform_lobes.evaluation.evaluate import evaluate_folders

    report = evaluate_folders(
        args.clean_folder,
        args.estimate_folder,
        output_folder=args.output,
        jobs=args.jobs,
    )
    print(_table(report))
    if report["silent"]:
        names = ", ".join(report["silent"])
        print(f"silent, not scored ({len(report['silent'])}): {names}")
    for name, reason in report["failed"].items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if report["failed"] else 0


def _table(report):
    """Return the means as two aligned lines under the number of files."""
    title = f"{report['num_scored']} of {report['num_files']} files scored"
    names, values = [], []
    for name, mean in report["means"].items():
        names.append(f"{name:>8}")
        values.append(f"{'-':>8}" if mean is None else f"{mean:8.3f}")
    return "\n".join([title, "".join(names), "".join(values)])
