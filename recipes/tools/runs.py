"""Folders of training runs, and what stands in their logs."""

import re
from pathlib import Path

import pandas as pd

# What a run writes, from its start to its test.
RUN_FILES = ("hyperparams.yaml", "train_log.txt", "test/scores.json")
RUNS = "output folder of a training, or a folder of its seeds"
NUMBER = re.compile(r"(\w[\w ]*): (-?(?:\d[\d.e+-]*|nan|inf))")


def find_runs(folders):
    """Map folders, as given, to the runs that they are or have below them."""
    groups = {}
    for folder in dict.fromkeys(map(Path, folders)):
        runs = (
            [folder] if _is_run(folder) else filter(_is_run, folder.glob("*"))
        )
        groups[str(folder)] = sorted(runs, key=lambda r: (len(r.name), r.name))
        if not groups[str(folder)]:
            raise ValueError(
                f"{folder} is no run and has none right below it, expected "
                f"one of the files {', '.join(RUN_FILES)}"
            )
    return groups


def _is_run(folder):
    return any((folder / name).is_file() for name in RUN_FILES)


def read_train_log(run):
    """Read the ``train_log.txt`` that SpeechBrain's FileTrainLogger writes.

    The table has a row for each epoch, a column for each number, such as
    ``"valid pesq"``. Of an epoch that was logged twice, after a resume, the
    last is taken; a line that was not written to its end is left out.
    """
    path = Path(run, "train_log.txt")
    if not path.is_file():
        raise ValueError(
            f"{run} has no train_log.txt; its first epoch has not ended"
        )
    epochs = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        numbers = {key: float(text) for key, text in NUMBER.findall(line)}
        if "epoch" in numbers and line.endswith("\n"):
            epochs[int(numbers.pop("epoch"))] = numbers
    if not epochs:
        raise ValueError(f"{path} has no line of an epoch (epoch: 1, ...)")
    return pd.DataFrame.from_dict(epochs, orient="index").sort_index()
