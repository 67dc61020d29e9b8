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

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event

from tqdm import tqdm

from ablation.plan import SETTINGS, list_runs, parse_settings, read_plan
from ablation.report import ablation_report, plot_ablation, report_text
from command import start
from dbtransform_lobes.data.files import write_json, write_text
from dbtransform_lobes.plotting import save_figure

LOG, POLL_SECONDS = "ablation_log.txt", 0.2


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


def train_runs(runs, devices=("cpu",)):
    """Train the runs that have not been tested yet, or go on with them.

    Each is a process of its own, one at a time on each device; "cpu" twice
    means two, which share the cores. Returned are the folders of runs that
    failed, with the end of their output.
    """
    _check_settings(runs)
    waiting = [run for run in runs if not run.finished]
    turns, stop, failed = iter(waiting), Event(), {}
    on_cpu, environment = sum(d == "cpu" for d in devices), {}
    if on_cpu > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, os.cpu_count() // on_cpu))
    environment |= os.environ

    def work(device):
        for run in turns:
            if reason := _train(run, device, environment, stop):
                failed[str(run.folder)] = reason
            if stop.is_set():
                return
            bar.update()

    with (
        tqdm(total=len(runs), initial=len(runs) - len(waiting)) as bar,
        ThreadPoolExecutor(len(devices)) as pool,
    ):
        try:
            for task in as_completed([pool.submit(work, d) for d in devices]):
                task.result()
        finally:
            stop.set()
    return failed


def _check_settings(runs):
    """Refuse to mix runs of different settings in one table."""
    for run in runs:
        saved = run.begun_with
        if saved in (None, run.settings) or not run.finished:
            continue  # what is unfinished ``train.py`` checks itself
        changed = [
            f"{name}: {saved.get(name)} before, {run.settings.get(name)} now"
            for name in sorted({*saved, *run.settings})
            if saved.get(name) != run.settings.get(name)
        ]
        raise ValueError(
            f"{run.folder} was begun with other settings "
            f"({'; '.join(changed)}): give another --output"
        )


def _train(run, device, environment, stop):
    """Train one run; return why it failed, None if it did not."""
    write_json(run.folder / SETTINGS, run.settings)
    with open(run.folder / LOG, "ab") as log:
        output = {"stdout": log, "stderr": subprocess.STDOUT}
        command = run.command(device)
        process = subprocess.Popen(command, env=environment, **output)
        while process.poll() is None:
            if stop.wait(POLL_SECONDS):
                process.terminate()
                process.wait()
    if process.returncode == 0 and run.finished:
        return None
    lines = (run.folder / LOG).read_text("utf-8", "replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"exit code {process.returncode}, {last[-300:]}"


if __name__ == "__main__":
    start(__file__)
