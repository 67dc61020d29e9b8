"""Scores and costs of systems as one table and one plot."""

import csv
import io
import json
from pathlib import Path

from benchmark.measure import machine
from dbtransform_lobes.data.files import write_text
from dbtransform_lobes.evaluation.compare import compare_systems
from dbtransform_lobes.evaluation.dnsmos import check_installed
from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.tables import comparison_text, markdown_table
from dbtransform_lobes.plotting import check_plot
from peers.plot import plot_peers
from peers.run import run_systems

# Column to title and format.
COLUMNS = {
    **{name: (LABELS[name], ".3f") for name in ("pesq", "stoi", "estoi")},
    "si_sdr": (LABELS["si_sdr"], ".2f"),
    "dnsmos_sig": ("SIG", ".3f"),
    "dnsmos_bak": ("BAK", ".3f"),
    "dnsmos_ovrl": ("OVRL", ".3f"),
    "latency_ms": ("latency (ms)", ".0f"),
    "real_time_factor": ("real-time factor", ".4f"),
    "cpu_factor": ("CPU factor", ".4f"),
    "peak_mb": ("peak memory (MB)", ".0f"),
}
NOTES = """\
Delays are compensated. Latency is algorithmic (block and delay); "-" needs
the whole signal or is not known. Real-time factor: seconds of computing a
second of audio on one thread, with resampling where a system works at
48 kHz, without loading; CPU factor: the same in CPU time, which hardly depends
on what else the machine does. Peak memory is that of the whole process with
Python and all packages; that of "noisy" is what all share. SIG, BAK, OVRL:
DNSMOS P.835.
"""


def compare_peers(
    clean, noisy, systems, missing, output_folder, jobs=1, report=print
):
    """Enhance, time and score; write the table and the plot.

    Arguments
    ---------
    clean, noisy : str or Path
        Folders of files of the same names, 16 kHz.
    systems, missing : dict
        Of ``choose_systems``. The first model is the reference of the
        differences; without models, the first system.
    output_folder : str or Path
        Where to write ``peers.csv``, ``peers.md``, ``peers.json``,
        ``peers.png`` and ``peers.pdf``, the files of ``compare_systems`` and
        those of ``run_systems``; older ones are replaced.
    jobs : int
        Number of processes that score; systems run one by one.
    report : callable
        Called with a line of text for every stage.

    Returns
    -------
    dict
        What ``peers.json`` holds.

    Raises
    ------
    ValueError
        If the folders do not fit or no system could run.
    """
    check_plot("peers.png")
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected at least 1")
    folder = Path(output_folder)
    timings, failed = run_systems(systems, clean, noisy, folder, report)
    if not timings:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise ValueError(f"no system could run: {reasons or missing}")
    folders = {name: folder / name for name in timings}
    ours = [name for name in timings if systems[name]["model"] is not None]
    note = _missing_dnsmos()
    report("scoring")
    comparison = compare_systems(
        clean,
        folders,
        folder,
        ours[0] if ours else None,
        jobs=jobs,
        with_dnsmos=not note,
    )
    del comparison["rows"]
    found = {
        "systems": _rows(comparison, timings),
        "missing": missing,
        "failed": failed,
        "note": note,
        "machine": machine(),
        "timings": timings,
        "comparison": comparison,
    }
    _write(found, folder)
    return found


def _missing_dnsmos():
    """Why there is no DNSMOS; "" if there is."""
    try:
        check_installed()
    except ValueError as error:
        return str(error)
    return ""


def _rows(comparison, timings):
    """One dict of COLUMNS for each system."""
    rows = []
    for name, timing in timings.items():
        means = comparison["means"][name]
        values = {
            **{metric: mean["mean"] for metric, mean in means.items()},
            **timing,
            "peak_mb": timing["peak_bytes"] / 1e6,
        }
        row = {column: values.get(column) for column in COLUMNS}
        versions = timing["system"]["versions"].items()
        packages = " ".join(f"{key} {value}" for key, value in versions)
        rows.append({"system": name, **row, "packages": packages})
    return rows


def peers_text(found):
    """The comparison as Markdown: one table, what is missing, differences.

    Arguments
    ---------
    found : dict
        Of ``compare_peers``, or read from its JSON.

    Returns
    -------
    str
    """
    titles = [title for title, _ in COLUMNS.values()]
    rows = [
        [
            row["system"],
            *(
                "-" if row[key] is None else format(row[key], form)
                for key, (_, form) in COLUMNS.items()
            ),
            row["packages"],
        ]
        for row in found["systems"]
    ]
    computer = found["machine"]
    lines = [
        markdown_table(["system", *titles, "packages"], rows),
        NOTES + f"Measured on {computer['cpu']}, {computer['system']}.\n",
    ]
    for key, title in (("missing", "Left out"), ("failed", "Failed")):
        listed = [f"- {name}: {why}\n" for name, why in found[key].items()]
        if listed:
            lines.append(f"{title}:\n\n{''.join(listed)}")
    if found["note"]:
        lines.append(f"{found['note']}\n")
    lines.append(comparison_text(found["comparison"]))
    return "\n".join(lines)


def _write(found, folder):
    stream = io.StringIO()
    columns = ["system", *COLUMNS, "packages"]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found["systems"])
    text = json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(folder / "peers.csv", stream.getvalue())
    write_text(folder / "peers.md", peers_text(found))
    write_text(folder / "peers.json", text + "\n")
    for suffix in ("png", "pdf"):
        plot_peers(found, folder / f"peers.{suffix}")
