"""Train the runs of an ablation, one on each device at a time."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event

from tqdm import tqdm

from dbtransform_lobes.data.files import write_json

SETTINGS, LOG = "ablation_settings.json", "ablation_log.txt"
POLL_SECONDS = 0.2


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


def read_settings(run):
    """Return the settings that a run was begun with, None of a new one."""
    path = run.folder / SETTINGS
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _check_settings(runs):
    """Refuse to mix runs of different settings in one table."""
    for run in runs:
        saved = read_settings(run)
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
