"""Scores and costs of systems as one table and one plot."""

from tabulate import tabulate

from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.tables import comparison_text
from dbtransform_lobes.plotting import new_figure, save_costs, style

# Column to title and format.
COLUMNS = {
    **{name: (LABELS[name], ".3f") for name in ("pesq", "stoi", "estoi")},
    "si_sdr": (LABELS["si_sdr"], ".2f"),
    **{f"dnsmos_{n.lower()}": (n, ".3f") for n in ("SIG", "BAK", "OVRL")},
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


def system_rows(comparison, timings):
    """Return a dict of COLUMNS for each system."""
    rows = []
    for name, timing in timings.items():
        means = comparison["means"][name].items()
        values = {metric: mean["mean"] for metric, mean in means} | timing
        row = {column: values.get(column) for column in COLUMNS}
        packages = " ".join(f"{k} {v}" for k, v in timing["versions"].items())
        rows.append({"system": name, **row, "packages": packages})
    return rows


def peers_text(found):
    """Return the table, what is missing and the differences as Markdown."""
    titles, formats = zip(*COLUMNS.values(), strict=True)
    table = tabulate(
        [row.values() for row in found["systems"]],
        ["system", *titles, "packages"],
        "pipe",
        ("", *formats, ""),
        missingval="-",
    )
    computer = found["machine"]
    note = f"{NOTES}Measured on {computer['cpu']}, {computer['system']}.\n"
    lines = [f"{table}\n", note]
    for key, title in (("missing", "Left out"), ("failed", "Failed")):
        listed = [f"- {name}: {why}\n" for name, why in found[key].items()]
        if listed:
            lines.append(f"{title}:\n\n{''.join(listed)}")
    lines.append(comparison_text(found["comparison"]))
    return "\n".join(lines)


def plot_peers(rows, path):
    """Plot PESQ against the CPU factor, which does not depend on other load."""
    rows = [row for row in rows if row["pesq"] is not None]
    if not rows:
        return
    figure, [[axes]] = new_figure((7.4, 4.2))
    axes.set(
        xscale="log",
        xlabel="CPU seconds for a second of audio, one thread (left: faster)",
        ylabel=f"{LABELS['pesq']} (up: better)",
    )
    for number, row in enumerate(rows):
        name, height = row["system"], row["pesq"]
        if name == "noisy":
            axes.axhline(height, color="0.5", linestyle="--", label=name)
        else:
            look = {**style(number), "linestyle": "none", "markersize": 7}
            axes.plot(row["cpu_factor"], height, label=name, **look)
    save_costs(figure, axes.xaxis, path)
