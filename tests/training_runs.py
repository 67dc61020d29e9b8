"""The recipe's train.py on tiny settings, in this process or under torchrun.

Run by torchrun as a program, it keeps what every rank ends with.
"""

import logging
import os
import re
import runpy
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from speechbrain.utils import logger

from dbtransform_lobes.evaluation import scoring
from tests.composition import flow, recipe_overrides

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "recipes" / "Voicebank" / "train.py"
TINY_MODEL = {
    "num_channels": 8,
    "num_layers": 1,
    "num_heads": 1,
    "feed_forward": 0,
}
TINY = {
    **TINY_MODEL,
    "device": "cpu",
    "number_of_epochs": 2,
    "steps_per_epoch": 3,
    "batch_size": 4,
    "warmup_steps": 1,
    "crop_seconds": 0.5,
    "num_workers": 0,
    "valid_files": 3,
}


def arguments(data, output, **changes):
    """Command line of train.py."""
    given = {"data_folder": data, "output_folder": output, **TINY, **changes}
    given = recipe_overrides(**given)
    if "architecture" in given:
        given["architecture"] = flow(given["architecture"])
    flags = [f"--{name}={value}" for name, value in given.items()]
    flags = [flag.removesuffix("=None") for flag in flags]
    hparams = ROOT / "hparams" / "db_transform.yaml"
    return [str(hparams), "--noprogressbar", *flags]


def scored_here(most_jobs=10**9):
    """Score in this process, within ``with``: others take seconds to start.

    Scores of more jobs are left to other processes.
    """
    isolated = scoring.run_isolated

    def calls(function, tasks, jobs):
        if jobs > most_jobs:
            return isolated(function, tasks, jobs)
        return ((task, function(*task), "") for task in tasks)

    return mock.patch.object(scoring, "run_isolated", calls)


def train(data, output, **changes):
    """Run train.py to its end in this process; return its variables."""
    with scored_here():
        return run_script(arguments(data, output, **changes))


@contextmanager
def process_as_before():
    """Undo what a script changes of logging, errors and threads."""
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:], sys.excepthook = handlers, hook
        root.setLevel(level)
        torch.set_num_threads(threads)


def run_script(argv, script=TRAIN):
    """Run a script with these arguments in this process."""
    with (
        process_as_before(),
        mock.patch.object(sys, "argv", [str(script), *argv]),
        mock.patch.object(sys, "path", [str(TRAIN.parent), *sys.path]),
        # It asks pip for all packages.
        mock.patch.object(logger, "get_environment_description", str),
    ):
        return runpy.run_path(str(script), run_name="__main__")


def checkpoint(output, name="model"):
    """A file of the newest checkpoint."""
    folder = sorted(Path(output, "save").glob("CKPT*"))[-1]
    return torch.load(folder / f"{name}.ckpt", weights_only=True)


def logged(output, stage, name):
    """A number of every epoch, as train_log.txt has it."""
    text = Path(output, "train_log.txt").read_text()
    return [float(x) for x in re.findall(rf"{stage} {name}: ([^,\s]+)", text)]


if __name__ == "__main__":
    keep, *given = sys.argv[1:]
    left = run_script(given)["brain"]
    name = Path(keep) / f"rank{os.environ['RANK']}.pt"
    torch.save({"ema": left.ema.state_dict(), "step": left.step}, name)
