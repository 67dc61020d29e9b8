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
    report = compare_seeds(find_runs(args.runs), args.valid)
    if report["groups"]:
        print(seeds_text(report), end="")
    for name, reason in report["failed"].items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if report["failed"] else 0


def compare_seeds(runs, valid=False):
    """Compare configurations over their seeds, see ``group_runs``.

    The report has ``source`` ("test" or "valid"); ``groups``: by
    configuration ``scores`` (by metric ``mean`` and ``std``, the sample
    standard deviation, None for one run) and ``runs``, a list of ``run``,
    ``scores`` and ``num_files`` or ``epoch``; ``failed`` (run to reason).
    """
    groups, failed = {}, {}
    read = _validation_scores if valid else _test_scores
    for label, members in group_runs(runs).items():
        entries = []
        for run in members:
            try:
                entries.append({"run": str(run), **read(run)})
            except (ValueError, OSError) as error:
                failed[str(run)] = str(error)
        if entries:
            scores = pd.DataFrame([e["scores"] for e in entries]).dropna(axis=1)
            table = pd.DataFrame({"mean": scores.mean(), "std": scores.std()})
            summary = without_nan(table).to_dict("index")
            groups[label] = {"scores": summary, "runs": entries}
    source = "valid" if valid else "test"
    return {"source": source, "groups": groups, "failed": failed}


def _test_scores(run):
    """Return the mean test scores of a run, from ``test/scores.json``."""
    path = run / "test" / "scores.json"
    if not path.is_file():
        raise ValueError(
            "there is no scores.json, the run has not come to its test; "
            "finish it, or compare validation scores"
        )
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not report["num_scored"]:
            raise ValueError("no file was scored")
        scores = {name: float(each) for name, each in report["means"].items()}
        return {"num_files": report["num_scored"], "scores": scores}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"scores.json is not that of a tested run ({error})"
        ) from error


def _validation_scores(run):
    """Return the validation scores, as logged, of the epoch of best PESQ."""
    log = read_train_log(run)
    if "valid pesq" not in log or log["valid pesq"].isna().all():
        raise ValueError("train_log.txt has no epoch with a valid pesq")
    best = log["valid pesq"].idxmax()
    scores = log.loc[best].filter(like="valid ").dropna()
    scores = scores.rename(lambda key: key.removeprefix("valid "))
    kept = {name: scores[name] for name in scores.index if name in LABELS}
    return {"epoch": int(best), "scores": kept}


def seeds_text(report):
    """Return a comparison over seeds as Markdown, a row a configuration."""
    groups = report["groups"]
    metrics = dict.fromkeys(
        metric for group in groups.values() for metric in group["scores"]
    )
    header = ["configuration", "runs", *(LABELS.get(m, m) for m in metrics)]
    rows = [
        [
            label,
            len(group["runs"]),
            *(mean_text(group["scores"].get(metric)) for metric in metrics),
        ]
        for label, group in groups.items()
    ]
    title = TITLES[report["source"]]
    title += ", mean ± standard deviation (n - 1) over runs\n"
    return f"{title}\n{markdown_table(header, rows)}"


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
