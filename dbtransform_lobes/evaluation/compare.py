"""Score systems, one or several, on the same files and compare them.

All means and differences are taken over the files that every system has
scored; files that one of them lacks or fails on are named and left out.

A report has the keys of ``scores.json``: ``num_files``; ``reference``;
``interval`` (its kind); ``num_compared``, ``means`` and ``differences``
(system minus reference, file by file) by system and metric, as of
``intervals``; ``by_snr`` and ``by_noise``, groups with these three; whether
SNRs are the centres of ``snr_ranges``; names that are ``silent``, ``left_out``
(with the reason by system) and ``without_clean`` (by system); ``versions`` and
``configuration``.

Example
-------
>>> import tempfile
>>> from dbtransform_lobes.data.audio import write_audio
>>> with tempfile.TemporaryDirectory() as folder:
...     write_audio(f"{folder}/a.wav", [0.0] * 16000)
...     report = compare_systems(folder, {"same": folder})
>>> report["silent"], report["left_out"]
(['a'], {})
"""

from functools import partial
from itertools import product
from pathlib import Path

from dbtransform_lobes.data.files import (
    raise_problems,
    read_record,
    write_json,
    write_text,
)
from dbtransform_lobes.evaluation import scoring
from dbtransform_lobes.evaluation.conditions import read_conditions
from dbtransform_lobes.evaluation.plots import plot_comparison
from dbtransform_lobes.evaluation.statistics import INTERVAL, intervals
from dbtransform_lobes.evaluation.tables import SNR_STEP, comparison_text
from dbtransform_lobes.plotting import check_plot
from dbtransform_lobes.versions import package_versions

CONDITIONS = ("snr_db", "noise")  # by which files are grouped
MAX_SNRS = 12  # above this many, SNRs are grouped in ranges


def compare_systems(
    clean,
    systems,
    output_folder=None,
    reference=None,
    conditions=None,
    plots=(),
    jobs=1,
    with_dnsmos=False,
):
    """Score folders of enhanced files and compare them with one of them.

    Returned is the report, with the ``rows`` of all files. ValueError if a
    folder is missing, empty or holds none of the files, the conditions lack a
    file, or an argument is wrong, but not for a file that cannot be scored.

    Arguments
    ---------
    clean : str or Path or None
        Folder of clean speech, searched to any depth; or a manifest, see
        ``read_conditions``, whose paths of clean files are relative to it.
        Enhanced files may have the names of its noisy ones. Without clean
        speech files are scored by DNSMOS alone.
    systems : dict
        Folder of enhanced (or noisy) files by the name of the system.
    output_folder : str or Path, optional
        Where to write ``scores.csv`` (every file), ``scores.json``, tables
        (``scores.md``) and plots, each whole or not at all, over older ones.
    reference : str, optional
        The system that the others are compared with; the first by default.
    conditions : str or Path, optional
        SNR and noise of every file, see ``read_conditions``.
    plots : sequence of str
        Formats of the plots, of "png" and "pdf".
    jobs, with_dnsmos
        As of ``scoring.score_files``.
    """
    for suffix in plots:
        check_plot(f"plot.{suffix}")
    reference = _check_reference(systems, reference)
    clean_files, known, aliases = _read_clean(clean, conditions, systems)
    estimates = _read_estimates(systems, clean_files, aliases)
    with_dnsmos |= clean is None
    rows = _score_systems(clean_files, estimates, known, jobs, with_dnsmos)
    report = _summarise_systems(rows, reference) | {
        "without_clean": {
            system: [name for name in files if name not in clean_files]
            for system, files in estimates.items()
        },
        "versions": package_versions(),
        "configuration": {
            "clean": clean and str(clean),
            "systems": {name: str(path) for name, path in systems.items()},
            "reference": reference,
            "conditions": conditions and str(conditions),
        },
    }
    if output_folder is not None:
        _write(report, rows, Path(output_folder), plots)
    return {**report, "rows": rows}


def _write(report, rows, folder, plots):
    write_text(folder / "scores.csv", scoring.scores_text(rows))
    write_json(folder / "scores.json", report)
    write_text(folder / "scores.md", comparison_text(report))
    for suffix in plots:
        plot_comparison(report, folder, suffix)


def read_means(path):
    """Return the files scored and the means by metric of a ``scores.json``.

    They are those of its reference; none of a file that is not there.
    """
    report = read_record(path)
    means = report.get("means", {}).get(report.get("reference"), {})
    means = {metric: each["mean"] for metric, each in means.items()}
    return report.get("num_compared", 0), means


def _check_reference(systems, reference):
    """Return the name of the reference, the first system by default."""
    if not systems:
        raise ValueError("no system is given, expected at least one")
    reference = next(iter(systems)) if reference is None else reference
    if reference not in systems:
        raise ValueError(
            f"the reference is {reference}, expected one of the systems "
            f"{', '.join(systems)}"
        )
    return reference


def _read_clean(clean, conditions, systems):
    """Return clean files by name, what is known of each, and other names."""
    if clean is None:
        found = map(scoring.list_audio, systems.values())
        files = dict.fromkeys(name for names in found for name in names)
        known = {name: {} for name in files}
    elif Path(clean).is_file():
        known = read_conditions(clean)
        problems = [
            f"{name}: {entry.get('clean', 'nothing')}"
            for name, entry in known.items()
            if "{" in entry.get("clean", "{")
        ]
        raise_problems(
            f"{clean}: no paths of clean files; give their folder instead",
            problems,
        )
        folder = Path(clean).parent
        files = {name: folder / known[name]["clean"] for name in known}
    else:
        files = scoring.list_audio(clean)
        known = {name: {} for name in files}
    aliases = {
        Path(entry["noisy"]).stem: name
        for name, entry in known.items()
        if "noisy" in entry
    }
    if conditions is not None:
        given = read_conditions(conditions, Path(clean or "").name)
        unknown = [name for name in files if name not in given]
        raise_problems(f"{conditions}: clean files without a line", unknown)
        known = {name: {**known[name], **given[name]} for name in files}
    return files, known, aliases


def _read_estimates(systems, clean_files, aliases):
    """Return the files of each system by the name of the clean file."""
    estimates = {}
    for system, folder in systems.items():
        files = {
            aliases.get(name, name): path
            for name, path in scoring.list_audio(folder).items()
        }
        if not files.keys() & clean_files.keys():
            raise ValueError(
                f"{folder} ({system}) holds no file of the name of a clean "
                f"file: it has {next(iter(files))}, expected "
                f"{next(iter(clean_files))}; give another folder"
            )
        estimates[system] = files
    return estimates


def _score_systems(clean_files, estimates, known, jobs, with_dnsmos):
    """Return a row for every clean file and system, in this order."""
    keys = list(product(estimates, clean_files))
    files = [(n, clean_files[n], estimates[s].get(n)) for s, n in keys]
    scored, rows = scoring.score_files(files, jobs, with_dnsmos), []
    for (system, name), row in zip(keys, scored, strict=True):
        about = {k: v for k, v in known[name].items() if k in CONDITIONS}
        rows.append({"system": system, "file": name, **about, **row})
    return rows


def _summarise_systems(rows, reference):
    """Compare systems over the files that all of them have scored."""
    import pandas as pd

    metrics = list(scoring.metric_names(rows))
    table = pd.DataFrame(rows)
    columns = dict.fromkeys([*table, *CONDITIONS, *metrics])
    table = table.reindex(columns=list(columns))
    bad = table[table["status"] != scoring.SCORED]
    compared = table[~table["file"].isin(bad["file"])]
    snrs = compared["snr_db"].astype(float)
    snr_ranges = snrs.nunique() > MAX_SNRS
    if snr_ranges:
        snrs = (snrs // SNR_STEP + 0.5) * SNR_STEP
    systems = list(table["system"].unique())
    summary = partial(_summary, systems, reference, metrics)
    left_out = {}
    for _, row in bad[bad["status"] != scoring.SILENT].iterrows():
        left_out.setdefault(row["file"], {})[row["system"]] = row["reason"]
    by_snr, by_noise = compared.groupby(snrs), compared.groupby("noise")
    return {
        "num_files": table["file"].nunique(),
        "reference": reference,
        "interval": INTERVAL,
        **summary(compared),
        "snr_ranges": snr_ranges,
        "by_snr": [{"snr_db": snr, **summary(part)} for snr, part in by_snr],
        "by_noise": [{"noise": name, **summary(p)} for name, p in by_noise],
        "silent": list(bad[bad["status"] == scoring.SILENT]["file"].unique()),
        "left_out": left_out,
    }


def _summary(systems, reference, metrics, table):
    scores = {
        system: table[table["system"] == system].set_index("file")[metrics]
        for system in systems
    }
    base = scores[reference]
    return {
        "num_compared": len(base),
        "means": {name: intervals(each) for name, each in scores.items()},
        "differences": {
            name: intervals(each - base)
            for name, each in scores.items()
            if name != reference
        },
    }
