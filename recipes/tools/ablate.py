"""Train or resume the rows of an ablation; write their table and plot.

Runs are OUTPUT/ROW/SEED, the table is OUTPUT/ablation.md, .json, .png and .pdf.
A run that was stopped goes on when the command is given again. The table is
made of all runs of the plan that have been tested, also of earlier ones.

examples:
  ablate.py hparams/ablation.yaml --output results/ablation \\
      --devices cuda:0 cuda:1 --set data_folder=DIR precision=bf16
  ablate.py hparams/ablation.yaml --small --output results/small \\
      --devices cpu cpu --rows full bsrnn --seeds 1 2 --set data_folder=DIR
  ablate.py hparams/ablation.yaml --output results/ablation --report-only
"""

import sys
from pathlib import Path

from ablation.plan import list_runs, parse_settings, read_plan
from ablation.report import ablation_report, plot_ablation, report_text
from ablation.train import train_runs
from command import start
from dbtransform_lobes.data.files import write_json, write_text
from dbtransform_lobes.plotting import save_figure


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    add = parser.add_argument
    add("plan", help="YAML of rows and seeds")
    small = "at the size and length that the plan gives for CPUs"
    add("--small", action="store_true", help=small)
    add("--output", required=True, help="folder of the runs and the table")
    pairs = {"nargs": "+", "metavar": "KEY=VALUE", "default": []}
    add("--set", **pairs, help="what all rows set, as of train.py")
    add("--seeds", type=int, nargs="+", help="only these seeds")
    add("--rows", nargs="+", help="only these rows")
    devices = "one run at a time on each, 'cpu cpu' has two (default cpu)"
    add("--devices", nargs="+", default=["cpu"], help=devices)
    report = "train nothing, write the table of the runs that there are"
    add("--report-only", action="store_true", help=report)


def run(args):
    """Train and compare; 1 if a run failed, else 0."""
    plan, failed = read_plan(args.plan, args.small), {}
    sys.path.insert(0, str(plan.script.parent))  # where own blocks lie
    given = parse_settings(args.set)
    chosen = list_runs(plan, args.output, given, args.seeds, args.rows)
    if not args.report_only:
        failed = train_runs(chosen, args.devices)
    for folder, reason in failed.items():
        print(f"failed: {folder}: {reason}", file=sys.stderr)
    # Of all runs that there are, not only of those just trained.
    seeds = sorted({*plan.seeds, *(args.seeds or ())})
    runs = list_runs(plan, args.output, given, seeds)
    report, folder = ablation_report(runs, plan.reference), Path(args.output)
    write_json(folder / "ablation.json", report)
    write_text(folder / "ablation.md", report_text(report))
    if figure := plot_ablation(report):
        for suffix in ("png", "pdf"):
            save_figure(figure, folder / f"ablation.{suffix}")
    print(report_text(report), end="")
    return 1 if failed else 0


if __name__ == "__main__":
    start(__file__)
