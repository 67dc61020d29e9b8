"""Train the runs of an ablation, one on each device at a time."""

import json
import os
import queue
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
    free, stop, failed = queue.SimpleQueue(), Event(), {}
    for device in devices:
        free.put(device)
    threads = _threads(devices)
    open_runs = [run for run in runs if not run.finished]
    with (
        ThreadPoolExecutor(len(devices)) as pool,
        tqdm(total=len(runs), unit="run") as bar,
    ):
        bar.update(len(runs) - len(open_runs))
        tasks = {
            pool.submit(_train, run, free, threads, stop): run
            for run in open_runs
        }
        try:
            for task in as_completed(tasks):
                reason = task.result()
                if reason is not None:
                    failed[str(tasks[task].folder)] = reason
                bar.update()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _threads(devices):
    """Return the threads of a run on the CPU, if several share it."""
    on_cpu = sum(device == "cpu" for device in devices)
    if on_cpu < 2 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // on_cpu))}


def read_settings(run):
    """Return the settings that a run was begun with."""
    return json.loads((run.folder / SETTINGS).read_text(encoding="utf-8"))


def _check_settings(runs):
    """Refuse to mix runs of different settings in one table."""
    for run in runs:
        if not (run.folder / SETTINGS).is_file():
            continue
        saved = read_settings(run)
        changed = [
            f"{name}: {saved.get(name)} before, {run.settings.get(name)} now"
            for name in sorted({*saved, *run.settings})
            if saved.get(name) != run.settings.get(name)
        ]
        if changed:
            raise ValueError(
                f"{run.folder} was begun with other settings "
                f"({'; '.join(changed)}): give another --output"
            )


def _train(run, free, threads, stop):
    """Train one run; returns why it failed, if it did."""
    device = free.get()
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / SETTINGS, run.settings)
        with open(run.folder / LOG, "ab") as log:
            process = subprocess.Popen(
                run.command(device),
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads},
            )
            while process.poll() is None:
                if stop.wait(POLL_SECONDS):
                    process.terminate()
                    process.wait()
    finally:
        free.put(device)
    if process.returncode == 0 and run.finished:
        return None
    lines = (run.folder / LOG).read_text("utf-8", "replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"exit code {process.returncode}, {last[-300:]}"
