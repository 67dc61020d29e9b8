"""Results as Markdown tables."""

from tabulate import tabulate

from dbtransform_lobes.evaluation.metrics import LABELS

SNR_STEP = 5.0  # dB, of the ranges in which many SNRs are grouped


def markdown_table(header, rows):
    """Return a Markdown table; its first column is aligned left."""
    table = tabulate(
        [[str(cell).replace("|", "\\|") for cell in row] for row in rows],
        [title.replace("|", "\\|") for title in header],
        tablefmt="pipe",
        disable_numparse=True,
        colalign=("left", *["right"] * (len(header) - 1)),
    )
    return f"{table}\n"


def comparison_text(report):
    """Return a report of ``compare_systems`` as Markdown."""
    parts = [
        f"{report['num_compared']} of {report['num_files']} files were scored "
        "with every system; all tables are over these.\n",
        "## Means\n",
        _means_table([report]),
    ]
    if report["differences"] and report["num_compared"]:
        parts += [
            f"## Differences to {report['reference']}, with the "
            f"{report['interval']}\n",
            _difference_table(report["differences"]),
        ]
    for key, title in (("by_snr", "SNR"), ("by_noise", "noise")):
        if report[key]:
            labels = [[label] for label in group_labels(report, key)]
            parts += [f"## Means by {title}\n"]
            parts += [_means_table(report[key], [title], labels)]
    return "\n".join(parts)


def group_labels(report, key):
    """Return the labels of ``by_noise``, or of ``by_snr``, perhaps ranges."""
    if key == "by_noise":
        return [group["noise"] for group in report[key]]
    snrs = [group["snr_db"] for group in report[key]]
    if report["snr_ranges"]:
        half = SNR_STEP / 2
        return [f"{snr - half:g} to {snr + half:g} dB" for snr in snrs]
    return [f"{snr:g} dB" for snr in snrs]


def _means_table(groups, title=(), labels=((),)):
    metrics = next(iter(groups[0]["means"].values()))
    header = [*title, "system", "files", *(LABELS.get(m, m) for m in metrics)]
    rows = [
        [*label, system, group["num_compared"]]
        + [number(score["mean"]) for score in scores.values()]
        for label, group in zip(labels, groups, strict=True)
        for system, scores in group["means"].items()
    ]
    return markdown_table(header, rows)


def _difference_table(differences):
    metrics = next(iter(differences.values()))
    rows = []
    for metric in metrics:
        estimates = [scores[metric] for scores in differences.values()]
        cells = (
            f"{number(each['mean'], '+')} {limits(each) or '[-, -]'}"
            for each in estimates
        )
        rows.append([LABELS.get(metric, metric), *cells])
    return markdown_table(["", *differences], rows)


def number(value, sign=""):
    """Return a number with three decimals, "-" for None."""
    return "-" if value is None else f"{value:{sign}.3f}"


def limits(estimate):
    """Return the limits of an interval as text, "" where there is none."""
    low, high = estimate["low"], estimate["high"]
    return "" if low is None else f"[{low:+.3f}, {high:+.3f}]"
