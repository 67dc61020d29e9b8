"""``seeds.py``: mean and deviation of scores over seeds."""

import json
import sys
from pathlib import Path

from command import start

HELP = "Mean and standard deviation of scores over the seeds of runs."
EXAMPLES = """\
  seeds.py results/db_transform results/bsrnn
  seeds.py results/db_transform/1 results/db_transform/2 --valid
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="output folder of a training, or a folder of such: runs in "
        "NAME/1, NAME/2 are seeds of NAME",
    )
    parser.add_argument(
        "--valid",
        action="store_true",
        help="validation scores of the best epoch (train_log.txt) in place "
        "of the test scores (test/scores.json)",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write all scores there (replacing older ones)",
    )


def run(args):
    """Print the table; 1 if a run has no scores, else 0."""
    from dbtransform_lobes.data.files import write_text
    from runs.runs import find_runs
    from runs.seeds import compare_seeds, seeds_text

    if args.json and not Path(args.json).parent.is_dir():
        raise ValueError(
            f"there is no folder {Path(args.json).parent} for {args.json}: "
            "make it first"
        )
    report = compare_seeds(find_runs(args.runs), args.valid)
    if args.json:
        write_text(args.json, json.dumps(report, indent=2) + "\n")
    if report["groups"]:
        print(seeds_text(report), end="")
    for name, reason in report["failed"].items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    start(__file__)
