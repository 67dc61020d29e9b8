"""Table and plot of an ablation: scores, paired differences, cost."""

import math
from statistics import fmean

import pandas as pd
import ruamel.yaml
from hyperpyyaml import load_hyperpyyaml

from benchmark.candidates import KEYS, Candidate
from benchmark.counts import count_parameters, macs_per_second
from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.scoring import SCORED
from dbtransform_lobes.evaluation.statistics import intervals, without_nan
from dbtransform_lobes.evaluation.tables import limits, markdown_table
from dbtransform_lobes.export.model_folder import minimal_hyperparams
from dbtransform_lobes.plotting import COLOURS, panel_grid
from dbtransform_lobes.versions import package_versions
from runs import read_train_log
from seeds import mean_text

METRICS = ("pesq", "estoi", "si_sdr")  # of the Markdown table and the plot
MACS_SECONDS = 4.0
NOTE = """\
{num_files} test files. Means ± standard deviation over seeds. Differences are
to `{reference}` with the same seeds; the first interval is over files (of the
mean over seeds: these trainings on other files), the second over seeds (other
trainings). Both are 95 % Student t intervals; one seed has no second.
"""


def ablation_report(runs, reference):
    """Compare the runs that have been tested with those of a row.

    Returned is what ``ablation.json`` holds. Rows have by metric ``mean``,
    ``std``, ``by_seed`` and ``difference``: None without a common seed, else
    ``over_files`` and ``over_seeds``, see ``intervals``, and ``by_seed``.
    """
    finished = [run for run in runs if run.finished]
    scores = {(run.row, run.seed): _read_scores(run) for run in finished}
    if scores:
        scores = pd.concat(scores, names=["row", "seed", "file"])
        counts = scores.groupby("file").size()
        files = counts.index[counts == len(finished)]
        scores = scores[scores.index.isin(files, level="file")].dropna(axis=1)
    if not len(scores):
        raise ValueError(
            "no test file has been scored by all runs: train some of them "
            "first, and look for failed files in their scores.csv"
        )
    rows = {}
    for name in dict.fromkeys(run.row for run in finished):
        members = [run for run in finished if run.row == name]
        rows[name] = {
            "seeds": [run.seed for run in members],
            "settings": members[0].begun_with,
            **_cost(members[0]),
            "training_hours": _training_hours(members),
            "scores": _row_scores(scores, name, reference),
        }
    return {
        "reference": reference,
        "num_files": len(files),
        "missing": [str(run.folder) for run in runs if not run.finished],
        "versions": package_versions(),
        "rows": rows,
    }


def _read_scores(run):
    """Return the scores of the files of a run, a column for each metric."""
    tables = []
    for path in sorted(run.folder.glob("test*/scores.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        tables.append(table.assign(file=f"{path.parent.name}/" + table["file"]))
    table = pd.concat(tables)
    table = table[table["status"] == SCORED].set_index("file")
    return table[[name for name in table if name in LABELS]].astype(float)


def _row_scores(scores, name, reference):
    """Return means of a row and its differences, paired by seed and file."""
    means = scores.loc[name].groupby("seed").mean()
    table = pd.DataFrame({"mean": means.mean(), "std": means.std()})
    found = without_nan(table).to_dict("index")
    pairs = scores.loc[name].iloc[:0]
    if name != reference and reference in scores.index.unique("row"):
        pairs = (scores.loc[name] - scores.loc[reference]).dropna()
    by_seed = pairs.groupby("seed").mean()
    over_files = intervals(pairs.groupby("file").mean())
    over_seeds = intervals(by_seed)
    for metric, score in found.items():
        score["by_seed"] = means[metric].tolist()
        difference = {
            "over_files": over_files[metric],
            "over_seeds": over_seeds[metric],
            "by_seed": by_seed[metric].tolist(),
        }
        score["difference"] = difference if len(pairs) else None
    return found


def _training_hours(runs):
    """Return the mean hours of training alone, None if one was not timed."""
    hours = []
    for run in runs:
        settings = ruamel.yaml.YAML().load(run.folder / "hyperparams.yaml")
        keys = ("steps_per_epoch", "batch_size", "crop_seconds")
        heard = math.prod(settings[key] for key in keys)
        speeds = read_train_log(run.folder).get("train audio_s_per_s")
        if speeds is None or not (speeds > 0).all():
            return None
        hours.append(float((heard / speeds).sum() / 3600))
    return fmean(hours)


def _cost(run):
    """Return parameters and operations of the model of a run."""
    parts = load_hyperpyyaml(minimal_hyperparams(run.folder))
    candidate = Candidate(run.row, **{key: parts[key] for key in KEYS})
    candidate.model.eval()
    macs = macs_per_second(candidate, MACS_SECONDS)["total"]
    return {
        "parameters": count_parameters(candidate.model)["total"],
        "mmacs_per_second": macs / 1e6,
    }


def report_text(report):
    """Return the table of ``ablation_report`` as Markdown."""
    rows = []
    for name, row in report["rows"].items():
        scores = {LABELS[metric]: row["scores"][metric] for metric in METRICS}
        cells = {"row": name, "seeds": len(row["seeds"])}
        cells |= {n: mean_text(score["by_seed"]) for n, score in scores.items()}
        for label, score in scores.items():
            found, text = score["difference"], "-"
            if found is not None:
                files, seeds = found["over_files"], found["over_seeds"]
                text = f"{files['mean']:+.3f} {limits(files)} {limits(seeds)}"
            cells[f"{label} difference"] = text.strip()
        hours = row["training_hours"]
        cells["parameters"] = f"{row['parameters']:,}"
        cells["MMAC/s"] = f"{row['mmacs_per_second']:.0f}"
        cells["training h"] = "-" if hours is None else f"{hours:.2f}"
        rows.append(cells)
    table = markdown_table(list(rows[0]), [cells.values() for cells in rows])
    return f"{NOTE.format(**report)}\n{table}"


def plot_ablation(report):
    """Draw a bar for the difference of each row; return None without any."""
    rows = {
        name: row["scores"]
        for name, row in report["rows"].items()
        if row["scores"]["pesq"]["difference"] is not None
    }
    if not rows:
        return None
    figure, panels = panel_grid(len(METRICS), 0.8 + 0.24 * len(rows))
    for number, (metric, panel) in enumerate(zip(METRICS, panels, strict=True)):
        panel.set_title(LABELS[metric], fontsize="medium")
        panel.axvline(0, color="0.3", linewidth=0.8)
        for place, scores in enumerate(rows.values()):
            _draw(panel, place, **scores[metric]["difference"])
        names = list(rows) if number == 0 else [""] * len(rows)
        panel.set_yticks(range(len(rows)), names)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.locator_params(axis="x", nbins=4)
    figure.suptitle(
        f"Difference to {report['reference']}: thick lines 95 % interval over "
        f"{report['num_files']} files, thin lines over seeds, circles seeds",
        fontsize="small",
    )
    return figure


def _draw(panel, place, over_files, over_seeds, by_seed):
    look = {"color": "0.8", "edgecolor": "0.4", "height": 0.6, "zorder": 1}
    panel.barh(place, over_files["mean"], **look)
    for estimate, width in ((over_seeds, 0.8), (over_files, 2.6)):
        if estimate["low"] is not None:
            ends = [estimate["low"], estimate["high"]]
            panel.plot(ends, [place, place], COLOURS[0], linewidth=width)
    look = {"marker": "o", "s": 10, "zorder": 3}
    look |= {"facecolor": "white", "edgecolor": COLOURS[1]}
    panel.scatter(by_seed, [place] * len(by_seed), **look)
