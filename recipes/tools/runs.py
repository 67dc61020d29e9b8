"""Folders of training runs: which there are, which differ only by the seed."""

import re
from pathlib import Path

import pandas as pd

# What a run writes, from its start to its test.
RUN_FILES = ("hyperparams.yaml", "train_log.txt", "test/scores.json")
SEED_FOLDER = re.compile(r"(seed[_-]?)?\d+")
NUMBER = re.compile(r"(\w[\w ]*): (-?(?:\d[\d.e+-]*|nan|inf))")


def find_runs(folders):
    """Return the runs among folders and right below them, each once."""
    runs = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; give that of a run")
        below = [path for path in folder.iterdir() if _is_run(path)]
        found = [folder] if _is_run(folder) else below
        if not found:
            raise ValueError(
                f"{folder} is no run and has none right below it, expected "
                f"one of the files {', '.join(RUN_FILES)}"
            )
        runs += sorted(found, key=lambda run: (len(run.name), run.name))
    return list(dict.fromkeys(runs))


def _is_run(folder):
    return any((folder / name).is_file() for name in RUN_FILES)


def group_runs(runs):
    """Return lists of the runs that differ only by their seed, by name.

    A run whose folder is called ``1``, ``seed2`` or the like is a seed of the
    folder above it. Where names are the same, the path is the name.
    """
    groups = {}
    for run in runs:
        place = run.resolve()
        is_seed = SEED_FOLDER.fullmatch(place.name)
        groups.setdefault(place.parent if is_seed else place, []).append(run)
    names = [place.name for place in groups]
    return {
        place.name if names.count(place.name) == 1 else str(place): members
        for place, members in groups.items()
    }


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
