"""``ablate.py``: train rows that differ in one part, compare them."""

import sys

from ablation.plan import list_runs, parse_settings, read_plan
from ablation.report import ablation_report, report_text, write_report
from ablation.train import train_runs
from command import start

HELP = "Train or resume the rows of an ablation; write their table and plot."
EXAMPLES = """\
  ablate.py hparams/ablation.yaml --output results/ablation \\
      --devices cuda:0 cuda:1 --set data_folder=DIR precision=bf16
  ablate.py hparams/ablation.yaml --small --output results/small \\
      --devices cpu cpu --rows full bsrnn --seeds 1 2 --set data_folder=DIR
  ablate.py hparams/ablation.yaml --output results/ablation \\
      --report-only

A run that was stopped goes on when the command is given again. The table is
written from all runs of the plan that have been tested, also from earlier ones.
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument("plan", help="YAML of rows and seeds")
    parser.add_argument(
        "--small",
        action="store_true",
        help="at the size and length that the plan gives for CPUs",
    )
    parser.add_argument(
        "--output",
        required=True,
        help="folder: runs are OUTPUT/ROW/SEED; the table is "
        "OUTPUT/ablation.md, .json, .png and .pdf",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        nargs="+",
        default=[],
        help="what all rows set besides, as --KEY=VALUE of train.py",
    )
    parser.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
    parser.add_argument("--rows", nargs="+", help="only these rows")
    parser.add_argument(
        "--devices",
        nargs="+",
        default=["cpu"],
        help="one run at a time on each; 'cpu cpu' means two at a time "
        "(default cpu)",
    )
    parser.add_argument(
        "--report-only",
        action="store_true",
        help="train nothing, write the table of the runs that there are",
    )


def run(args):
    """Train and compare; 1 if a run failed, else 0."""
    plan, failed = read_plan(args.plan, args.small), {}
    given = parse_settings(args.set)
    chosen = list_runs(plan, args.output, given, args.seeds, args.rows)
    if not args.report_only:
        failed = train_runs(chosen, args.devices)
    for folder, reason in failed.items():
        print(f"failed: {folder}: {reason}", file=sys.stderr)
    # Of all runs that there are, not only of those just trained.
    seeds = sorted({*plan.seeds, *(args.seeds or ())})
    runs = list_runs(plan, args.output, given, seeds)
    report = ablation_report(runs, plan.reference)
    write_report(report, args.output)
    print(report_text(report), end="")
    return 1 if failed else 0


if __name__ == "__main__":
    start(__file__)
