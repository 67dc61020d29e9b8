"""``seeds.py``: mean and deviation of scores over seeds."""

import json
import sys

import pandas as pd

from command import start
from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.statistics import without_nan
from dbtransform_lobes.evaluation.tables import markdown_table, number
from runs import find_runs, group_runs, read_train_log

HELP = "Mean and standard deviation of scores over the seeds of runs."
EXAMPLES = """\
  seeds.py results/db_transform results/bsrnn
  seeds.py results/db_transform/1 results/db_transform/2 --valid
"""
TITLES = {
    "test": "Test scores of the best checkpoint",
    "valid": "Validation scores of the epoch of the best PESQ",
}
MEAN = "mean ± standard deviation (n - 1) over runs"


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


def run(args):
    """Print the table; 1 if a run has no scores, else 0."""
    source = "valid" if args.valid else "test"
    read = _validation_scores if args.valid else _test_scores
    rows, failed = [], []
    for label, members in group_runs(find_runs(args.runs)).items():
        for folder in members:
            try:
                rows.append({"configuration": label, **read(folder)})
            except (ValueError, OSError) as error:
                failed.append(f"failed: {folder}: {error}")
    if rows:
        print(f"{TITLES[source]}, {MEAN}\n\n{seeds_table(rows)}", end="")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _test_scores(folder):
    """Return the mean test scores of a run, from ``test/scores.json``."""
    path = folder / "test" / "scores.json"
    if not path.is_file():
        raise ValueError(
            "there is no scores.json, the run has not come to its test; "
            "finish it, or compare validation scores"
        )
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not report["num_scored"]:
            raise ValueError("no file was scored")
        return {name: float(each) for name, each in report["means"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"scores.json is not that of a tested run ({error})"
        ) from error


def _validation_scores(folder):
    """Return the validation scores, as logged, of the epoch of best PESQ."""
    log = read_train_log(folder)
    if "valid pesq" not in log or log["valid pesq"].isna().all():
        raise ValueError("train_log.txt has no epoch with a valid pesq")
    scores = log.loc[log["valid pesq"].idxmax()].dropna()
    names = [name for name in LABELS if f"valid {name}" in scores]
    return {name: scores[f"valid {name}"] for name in names}


def seeds_table(rows):
    """Return scores of runs as Markdown, a row for each configuration.

    A score that not all runs of a configuration have is left out there.

    Example
    -------
    >>> rows = [{"configuration": "a", "pesq": x} for x in (1.0, 2.0)]
    >>> print(seeds_table(rows), end="")
    | configuration   |   runs |       PESQ-WB |
    |:----------------|-------:|--------------:|
    | a               |      2 | 1.500 ± 0.707 |
    """
    groups = pd.DataFrame(rows).groupby("configuration", sort=False)
    means, spreads = (without_nan(t) for t in (groups.mean(), groups.std()))
    whole = groups.count().eq(groups.size(), axis=0)
    texts = [
        [
            label,
            len(members),
            *(
                mean_text({"mean": means[m][label], "std": spreads[m][label]})
                if whole[m][label]
                else "-"
                for m in means
            ),
        ]
        for label, members in groups
    ]
    header = ["configuration", "runs", *(LABELS.get(m, m) for m in means)]
    return markdown_table(header, texts)


def mean_text(score):
    """Return a mean and its deviation, if there is any, as text.

    Example
    -------
    >>> mean_text({"mean": 1.0, "std": 0.5}), mean_text(None)
    ('1.000 ± 0.500', '-')
    """
    if score is None:
        return "-"
    spread = "" if score["std"] is None else f" ± {score['std']:.3f}"
    return number(score["mean"]) + spread


if __name__ == "__main__":
    start(__file__)
