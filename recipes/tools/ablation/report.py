"""The table of an ablation: scores, paired differences, cost."""

import csv
import json
import math
from io import StringIO
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml

from ablation.train import read_settings
from benchmark.candidates import Candidate
from benchmark.counts import count_parameters
from benchmark.measure import operations
from dbtransform_lobes.data.files import write_text
from dbtransform_lobes.evaluation.evaluate import SCORED
from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.statistics import (
    mean_interval,
    standard_deviation,
)
from dbtransform_lobes.evaluation.tables import markdown_table
from dbtransform_lobes.inference.export import minimal_hyperparams
from dbtransform_lobes.versions import package_versions
from runs.runs import read_train_log

METRICS = ("pesq", "estoi", "si_sdr")  # of the Markdown table
MACS_SECONDS = 4.0
NOTE = """\
{num_files} test files. Means ± standard deviation over seeds. Differences are
to `{reference}` with the same seeds; the first interval is over files (of the
mean over seeds: these trainings on other files), the second over seeds (other
trainings). Both are 95 % Student t intervals; one seed has no second.
"""


def ablation_report(runs, reference):
    """Compare the runs that have been tested.

    Arguments
    ---------
    runs : list of Run
        Of all rows and seeds; those not yet tested are left out.
    reference : str
        The row to compare with.

    Returns
    -------
    dict
        ``reference``, ``num_files``, ``missing`` (folders of runs that have
        not been tested), ``versions`` and ``rows``: by name ``seeds``,
        ``settings``, ``parameters``, ``mmacs_per_second``,
        ``training_hours`` (mean over seeds, None if unknown) and
        ``scores``: by metric ``mean``, ``std``, ``by_seed`` and
        ``difference``, None without a common seed, else ``over_files``
        and ``over_seeds``, see ``mean_interval``, and ``by_seed``.

    Raises
    ------
    ValueError
        If no run, or no test file, has been scored.
    """
    finished = [run for run in runs if run.finished]
    scores = {run: _read_scores(run) for run in finished}
    files = set.intersection(*map(set, scores.values())) if scores else set()
    if not files:
        raise ValueError(
            "no test file has been scored by all runs: train some of them "
            "first, and look for failed files in their scores.csv"
        )
    rows = {}
    for run in finished:
        rows.setdefault(run.row, {})[run.seed] = run
    table = {
        row: _row(row, rows, reference, scores, sorted(files)) for row in rows
    }
    return {
        "reference": reference,
        "num_files": len(files),
        "missing": [str(run.folder) for run in runs if not run.finished],
        "versions": package_versions(),
        "rows": table,
    }


def _read_scores(run):
    """Scores of the files of a run: by name, then by metric."""
    with open(
        run.folder / "test" / "scores.csv", encoding="utf-8", newline=""
    ) as file:
        return {
            line["file"]: {name: float(line[name]) for name in _metrics(line)}
            for line in csv.DictReader(file)
            if line["status"] == SCORED
        }


def _metrics(line):
    return [name for name in line if name in LABELS]


def _row(row, rows, reference, scores, files):
    runs, others = rows[row], rows.get(reference, {})
    common = [seed for seed in runs if seed in others and row != reference]
    hours = [training_hours(run.folder) for run in runs.values()]
    first = next(iter(runs.values()))
    metrics = list(scores[first][files[0]])
    seeds = [scores[run] for run in runs.values()]
    pairs = [(scores[runs[seed]], scores[others[seed]]) for seed in common]
    return {
        "seeds": list(runs),
        "settings": read_settings(first),
        **_cost(first),
        "training_hours": (
            None if None in hours else math.fsum(hours) / len(hours)
        ),
        "scores": {
            metric: {
                **_summary(seeds, metric, files),
                "difference": _difference(pairs, metric, files),
            }
            for metric in metrics
        },
    }


def _mean(values):
    return math.fsum(values) / len(values)


def _summary(seeds, metric, files):
    means = [_mean([seed[name][metric] for name in files]) for seed in seeds]
    return {
        "mean": _mean(means),
        "std": standard_deviation(means),
        "by_seed": means,
    }


def _difference(pairs, metric, files):
    """Paired by seed and file; None without a common seed."""
    if not pairs:
        return None
    differences = [
        [ours[name][metric] - theirs[name][metric] for name in files]
        for ours, theirs in pairs
    ]
    by_seed = [_mean(seed) for seed in differences]
    return {
        "over_files": mean_interval(
            [_mean(each) for each in zip(*differences, strict=True)]
        ),
        "over_seeds": mean_interval(by_seed),
        "by_seed": by_seed,
    }


def training_hours(folder):
    """Hours of training of a run, without validation and test.

    Arguments
    ---------
    folder : str or Path
        Its output folder.

    Returns
    -------
    float or None
        None if an epoch was not timed.
    """
    settings = ruamel.yaml.YAML().load(Path(folder, "hyperparams.yaml"))
    heard = math.prod(
        settings[key]
        for key in ("steps_per_epoch", "batch_size", "crop_seconds")
    )
    epochs = read_train_log(folder).values()
    speeds = [epoch.get("train audio_s_per_s", 0.0) for epoch in epochs]
    if 0.0 in speeds:
        return None
    return math.fsum(heard / speed for speed in speeds) / 3600


def _cost(run):
    """Parameters and operations of the model of a run."""
    parts = load_hyperpyyaml(minimal_hyperparams(run.folder))
    model = parts["model"].eval()
    candidate = Candidate(
        run.row,
        model,
        parts["compute_stft"],
        parts["compute_istft"],
        parts["sample_rate"],
        "",
    )
    [case] = operations([candidate], MACS_SECONDS)
    return {
        "parameters": count_parameters(model)["total"],
        "mmacs_per_second": case["macs_per_second"]["total"] / 1e6,
    }


def write_report(report, folder):
    """Write ``ablation.json``, ``ablation.csv`` and ``ablation.md``.

    Arguments
    ---------
    report : dict
        Of ``ablation_report``.
    folder : str or Path
        An existing folder; older files are replaced.
    """
    folder = Path(folder)
    write_text(folder / "ablation.json", json.dumps(report, indent=2) + "\n")
    write_text(folder / "ablation.csv", _csv_text(report))
    write_text(folder / "ablation.md", report_text(report))


def _csv_text(report):
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    ends = ("mean", "low", "high")
    titles = ["row", "seeds", "parameters", "mmacs_per_second"]
    titles.append("training_hours")
    metrics = next(iter(report["rows"].values()))["scores"]
    for metric in metrics:
        titles += [f"{metric}_mean", f"{metric}_std"]
        titles += [f"{metric}_difference_files_{end}" for end in ends]
        titles += [f"{metric}_difference_seeds_{end}" for end in ends]
    writer.writerow(titles)
    for name, row in report["rows"].items():
        cells = [name, len(row["seeds"]), row["parameters"]]
        cells += [row["mmacs_per_second"], row["training_hours"]]
        for scores in row["scores"].values():
            cells += [scores["mean"], scores["std"]]
            difference = scores["difference"] or {}
            for kind in ("over_files", "over_seeds"):
                estimate = difference.get(kind, {})
                cells += [estimate.get(end) for end in ends]
        writer.writerow(cells)
    return stream.getvalue()


def report_text(report):
    """Return the table as Markdown.

    Arguments
    ---------
    report : dict
        Of ``ablation_report``.

    Returns
    -------
    str
    """
    header = ["row", "seeds", *(LABELS[metric] for metric in METRICS)]
    header += [f"{LABELS[metric]} difference" for metric in METRICS]
    header += ["parameters", "MMAC/s", "training h"]
    rows = []
    for name, row in report["rows"].items():
        scores = [row["scores"][metric] for metric in METRICS]
        hours = row["training_hours"]
        rows.append(
            [
                name,
                len(row["seeds"]),
                *map(_score, scores),
                *(_paired(score["difference"]) for score in scores),
                f"{row['parameters']:,}",
                f"{row['mmacs_per_second']:.0f}",
                "-" if hours is None else f"{hours:.2f}",
            ]
        )
    return f"{NOTE.format(**report)}\n{markdown_table(header, rows)}"


def _score(score):
    spread = "" if score["std"] is None else f" ± {score['std']:.3f}"
    return f"{score['mean']:.3f}{spread}"


def _paired(difference):
    if difference is None:
        return "-"
    files, seeds = difference["over_files"], difference["over_seeds"]
    return f"{files['mean']:+.3f} {_limits(files)} {_limits(seeds)}".strip()


def _limits(estimate):
    if estimate["low"] is None:
        return ""
    return f"[{estimate['low']:+.3f}, {estimate['high']:+.3f}]"
