"""Mean and standard deviation of test scores over the seeds of runs.

A recipe with several test sets, as that of DNS, has a row for each.

examples:
  seeds.py results/db_transform results/bsrnn
"""

import sys
from statistics import fmean, stdev

import pandas as pd

from command import start
from dbtransform_lobes.evaluation.compare import read_means
from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.tables import markdown_table
from runs import RUNS, find_runs

TITLE = "Test scores of the best checkpoint, mean ± standard deviation (n - 1)"


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument("runs", nargs="+", help=RUNS)


def run(args):
    """Print the table; 1 if a run has no scores, else 0."""
    rows, failed = [], []
    for label, members in find_runs(args.runs).items():
        for folder in members:
            scored = 0
            for path in sorted(folder.glob("test*/scores.json")):
                name = path.parent.name
                name = label if name == "test" else f"{label}: {name}"
                count, means = read_means(path)
                if count:
                    rows.append({"configuration": name, **means})
                    scored += 1
            if not scored:
                failed.append(folder)
    if rows:
        print(f"{TITLE} over runs\n\n{seeds_table(rows)}", end="")
    for folder in failed:
        print(
            f"failed: {folder}: there is no scores.json with scored files in "
            "test/ or test_*/, the run has not come to its test; finish it",
            file=sys.stderr,
        )
    return 1 if failed else 0


def seeds_table(rows):
    """Return scores of runs as Markdown, a row for each configuration.

    A score that not all runs of a configuration have is left out there.
    """
    groups = pd.DataFrame(rows).groupby("configuration", sort=False)
    table = groups.agg(lambda each: "-" if each.hasnans else mean_text(each))
    header = ["configuration", "runs", *(LABELS.get(m, m) for m in table)]
    table.insert(0, "runs", groups.size())
    return markdown_table(header, table.reset_index().to_numpy())


def mean_text(values):
    """Return the mean and, of several values, the deviation as text."""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


if __name__ == "__main__":
    start(__file__)
