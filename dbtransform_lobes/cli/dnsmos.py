"""``dbtransform dnsmos``: predicted opinion scores, without clean speech."""

import sys

HELP = "Score recordings that have no clean speech by DNSMOS P.835."
EXAMPLES = """\
  dbtransform dnsmos enhanced
  dbtransform dnsmos noisy enhanced --output scores --jobs 2
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        nargs="+",
        help="folders of .wav or .flac files, 16 kHz, one channel",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write all scores there, below the name of each folder",
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
    from pathlib import Path

    from dbtransform_lobes.evaluation.blind import evaluate_blind

    names = [Path(folder).resolve().name for folder in args.folders]
    if args.jobs < 1:
        raise ValueError(f"--jobs is {args.jobs}, expected at least 1")
    if len(set(names)) < len(names):
        raise ValueError(
            f"--folders have the names {', '.join(names)}, expected each once"
        )
    failed = False
    for name, folder in zip(names, args.folders, strict=True):
        output = args.output and Path(args.output, name)
        report = evaluate_blind(folder, output, args.jobs)
        means = report["means"].items()
        texts = [f"{key} {mean:.3f}" for key, mean in means]
        scored = f"{report['num_scored']} of {report['num_files']} files"
        print(", ".join([f"{name}: {scored}", *texts]))
        for file, reason in report["failed"].items():
            print(f"failed: {name}/{file}: {reason}", file=sys.stderr)
            failed = True
    return 1 if failed else 0
