"""Mean and standard deviation of scores over seeds."""

import json
import math
from pathlib import Path

from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.statistics import standard_deviation
from dbtransform_lobes.evaluation.tables import markdown_table
from runs.runs import group_runs, read_train_log


def read_test_scores(run):
    """Return the mean test scores of a run, from ``test/scores.json``.

    Arguments
    ---------
    run : str or Path
        Folder of a run.

    Returns
    -------
    scores : dict
        Mean over the test files by metric.
    num_files : int
        Number of files that were scored.

    Raises
    ------
    ValueError
        If the run has not been tested or no file was scored.
    """
    path = Path(run, "test", "scores.json")
    if not path.is_file():
        raise ValueError(
            "there is no scores.json, the run has not come to its test; "
            "finish it, or compare validation scores"
        )
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        scores, num_files = report["means"], report["num_scored"]
        if not num_files:
            raise ValueError("no file was scored")
        return {name: float(scores[name]) for name in scores}, num_files
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"scores.json is not that of a tested run ({error})"
        ) from error


def read_validation_scores(run):
    """Return the validation scores of the epoch of the best PESQ.

    Arguments
    ---------
    run : str or Path
        Folder of a run.

    Returns
    -------
    scores : dict
        By metric, as logged (``train_log.txt`` has three digits).
    epoch : int
        Their epoch.

    Raises
    ------
    ValueError
        If no epoch with a PESQ is logged.
    """
    epochs = {
        epoch: numbers
        for epoch, numbers in read_train_log(run).items()
        if math.isfinite(numbers.get("valid pesq", math.nan))
    }
    if not epochs:
        raise ValueError("train_log.txt has no epoch with a valid pesq")
    best = max(epochs, key=lambda epoch: epochs[epoch]["valid pesq"])
    scores = {
        key.removeprefix("valid "): value
        for key, value in epochs[best].items()
        if key.startswith("valid ") and key.removeprefix("valid ") in LABELS
    }
    return scores, best


def compare_seeds(runs, valid=False):
    """Compare configurations over their seeds.

    Arguments
    ---------
    runs : sequence of pathlib.Path
        Folders of runs; ``group_runs`` says which are seeds of one
        configuration.
    valid : bool
        Whether to take validation scores in place of test scores.

    Returns
    -------
    report : dict
        ``source`` ("test" or "valid"); ``groups``: by configuration,
        ``scores`` (by metric ``mean`` and ``std``, the sample standard
        deviation, None for one run) and ``runs``, a list of ``run``,
        ``scores`` and ``num_files`` or ``epoch``; ``failed`` (run to reason).

    Example
    -------
    >>> report = compare_seeds([Path("no_such_run")])
    >>> assert "scores.json" in report["failed"]["no_such_run"]
    """
    groups, failed = {}, {}
    for label, members in group_runs(runs).items():
        entries = []
        for run in members:
            try:
                if valid:
                    scores, number = read_validation_scores(run)
                else:
                    scores, number = read_test_scores(run)
            except (ValueError, OSError) as error:
                failed[str(run)] = str(error)
                continue
            key = "epoch" if valid else "num_files"
            entries.append({"run": str(run), key: number, "scores": scores})
        if entries:
            groups[label] = {"scores": _summary(entries), "runs": entries}
    source = "valid" if valid else "test"
    return {"source": source, "groups": groups, "failed": failed}


def _summary(entries):
    """Mean and deviation of the metrics that all runs have."""
    metrics = [
        metric
        for metric in entries[0]["scores"]
        if all(metric in entry["scores"] for entry in entries)
    ]
    summary = {}
    for metric in metrics:
        values = [entry["scores"][metric] for entry in entries]
        summary[metric] = {
            "mean": math.fsum(values) / len(values),
            "std": standard_deviation(values),
        }
    return summary


def seeds_text(report):
    """Return a comparison over seeds as Markdown.

    Arguments
    ---------
    report : dict
        As ``compare_seeds`` returns it.

    Returns
    -------
    text : str
        A table with a row for each configuration.
    """
    what = {
        "test": "Test scores of the best checkpoint",
        "valid": "Validation scores of the epoch of the best PESQ",
    }[report["source"]]
    groups = report["groups"]
    metrics = dict.fromkeys(
        metric for group in groups.values() for metric in group["scores"]
    )
    header = ["configuration", "runs", *(LABELS.get(m, m) for m in metrics)]
    rows = [
        [
            label,
            len(group["runs"]),
            *(_cell(group["scores"].get(metric)) for metric in metrics),
        ]
        for label, group in groups.items()
    ]
    title = f"{what}, mean ± standard deviation (n - 1) over runs\n"
    return f"{title}\n{markdown_table(header, rows)}"


def _cell(score):
    if score is None:
        return "-"
    if score["std"] is None:
        return f"{score['mean']:.3f}"
    return f"{score['mean']:.3f} ± {score['std']:.3f}"
