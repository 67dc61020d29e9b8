"""Scores and costs of systems as one table and one plot."""

from dbtransform_lobes.evaluation.metrics import LABELS
from dbtransform_lobes.evaluation.tables import comparison_text, markdown_table
from dbtransform_lobes.plotting import save_figure, style, tidy

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
# Where a label may stand, in points from its point, the best first.
PLACES = [
    (x, y, align)
    for y in (0, 9, -9, 18, -18, 27, -27)
    for x, align in ((7, "left"), (-7, "right"))
]


def system_rows(comparison, timings):
    """Return a dict of COLUMNS for each system."""
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
    """Return what ``peers.json`` holds as Markdown.

    It is one table, what is missing, and the differences.
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


def plot_peers(found, path):
    """Plot PESQ against the real-time factor, that of CPU time.

    It is the one of an idle core, and does not depend on what else runs.
    The arguments are what ``compare_peers`` found, and a PNG or PDF; nothing
    is written if no system has a score.
    """
    from matplotlib.figure import Figure

    rows = [row for row in found["systems"] if row["pesq"] is not None]
    if not rows:
        return
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    tidy(axes)
    axes.set_xscale("log")
    axes.set_xlabel(
        "CPU seconds for a second of audio, one thread (left: faster)"
    )
    axes.set_ylabel(f"{LABELS['pesq']} (up: better)")
    points = []
    for row in rows:
        if row["system"] == "noisy":
            axes.axhline(row["pesq"], color="0.5", linestyle="--", zorder=1)
            label = {"xy": (1, row["pesq"]), "xytext": (-2, 2)}
            axes.annotate(
                "noisy",
                **label,
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                fontsize="small",
            )
            continue
        point = (row["cpu_factor"], row["pesq"])
        axes.plot(*point, **style(len(points)), markersize=7, linestyle="none")
        points.append((row["system"], point))
    axes.margins(x=0.25, y=0.12)
    _label(axes, points)
    save_figure(figure, path)


def _label(axes, points):
    """Write each name beside its point, where no other text or point is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places the axes
    renderer = canvas.get_renderer()
    drawn = (*axes.lines, *axes.texts)
    taken = [artist.get_window_extent(renderer) for artist in drawn]
    for name, point in points:
        text = axes.annotate(
            name,
            point,
            PLACES[0][:2],
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
        for x, y, align in PLACES:
            text.set_position((x, y))
            text.set_ha(align)
            box = text.get_window_extent(renderer)
            if not box.count_overlaps(taken):
                break
        taken.append(box)
