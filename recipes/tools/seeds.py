"""``seeds.py``: mean and deviation of scores over seeds."""

import sys
from statistics import fmean, stdev

import pandas as pd

from command import start
from dbtransform_lobes.data.files import read_record
from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.tables import markdown_table
from runs import find_runs, group_runs, read_train_log

HELP = "Mean and standard deviation of scores over the seeds of runs."
EXAMPLES = """\
  seeds.py results/db_transform results/bsrnn
  seeds.py results/db_transform/1 results/db_transform/2 --valid
"""
TEST = "Test scores of the best checkpoint"
VALID = "Validation scores of the epoch of the best PESQ"
MEAN = "mean ± standard deviation (n - 1) over runs"


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "runs",
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
    read = _validation_scores if args.valid else _test_scores
    rows, failed = [], []
    for label, members in group_runs(find_runs(args.runs)).items():
        for folder in members:
            try:
                rows.append({"configuration": label, **read(folder)})
            except (ValueError, OSError) as error:
                failed.append(f"failed: {folder}: {error}")
    if rows:
        title = VALID if args.valid else TEST
        print(f"{title}, {MEAN}\n\n{seeds_table(rows)}", end="")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def _test_scores(folder):
    """Return the mean test scores of a run, from ``test/scores.json``."""
    report = read_record(folder / "test" / "scores.json")
    if not report.get("num_scored"):
        raise ValueError(
            "there is no test/scores.json with scored files, the run has not "
            "come to its test; finish it, or compare validation scores"
        )
    return report["means"]


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
    """
    table = pd.DataFrame(rows).set_index("configuration")
    texts = [
        [
            label,
            len(scores),
            *(
                "-" if scores[m].hasnans else mean_text(scores[m])
                for m in table
            ),
        ]
        for label, scores in table.groupby(level=0, sort=False)
    ]
    header = ["configuration", "runs", *(LABELS.get(m, m) for m in table)]
    return markdown_table(header, texts)


def mean_text(values):
    """Return the mean and, of several values, the deviation as text."""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


if __name__ == "__main__":
    start(__file__)
