"""Results as Markdown tables."""

from tabulate import tabulate

from dbtransform_lobes.evaluation.metrics import LABELS


def markdown_table(header, rows):
    """Return a Markdown table.

    Arguments
    ---------
    header : sequence of str
        Titles of the columns; the first is aligned left, the others right.
    rows : list of sequence of str
        Cells.

    Returns
    -------
    text : str
        The lines of the table, with a line end after each.

    Example
    -------
    >>> print(markdown_table(["system", "PESQ"], [["noisy", "1.402"]]))
    | system   |   PESQ |
    |:---------|-------:|
    | noisy    |  1.402 |
    <BLANKLINE>
    """
    table = [
        [str(cell).replace("|", "\\|") for cell in row]
        for row in (header, *rows)
    ]
    return (
        tabulate(
            table,
            headers="firstrow",
            tablefmt="pipe",
            disable_numparse=True,
            colalign=("left", *["right"] * (len(header) - 1)),
        )
        + "\n"
    )


def comparison_text(report):
    """Return a comparison of systems as Markdown.

    Arguments
    ---------
    report : dict
        As ``compare_systems`` returns it.

    Returns
    -------
    text : str
        Tables of means, of differences with their confidence intervals, by
        SNR and by noise, as far as there are any.
    """
    reference = report["reference"]
    parts = [
        f"{report['num_compared']} of {report['num_files']} files were scored "
        "with every system; all tables are over these.\n",
        "## Means\n",
        _means_table([("", report)], ""),
    ]
    if report["differences"] and report["num_compared"]:
        parts += [
            f"## Differences to {reference}, with the {report['interval']}\n",
            _difference_table(report),
        ]
    if report["by_snr"]:
        parts += ["## Means by SNR\n", _means_table(_snr_groups(report), "SNR")]
    if report["by_noise"]:
        groups = [(group["noise"], group) for group in report["by_noise"]]
        parts += ["## Means by noise\n", _means_table(groups, "noise")]
    return "\n".join(parts)


def _snr_groups(report):
    return [
        (snr_label(group["snr_db"], report["snr_ranges"]) + " dB", group)
        for group in report["by_snr"]
    ]


def snr_label(snr, ranges):
    """Return an SNR, or the range of 5 dB of which it is the centre.

    Example
    -------
    >>> snr_label(2.5, False), snr_label(2.5, True)
    ('2.5', '0 to 5')
    """
    return f"{snr - 2.5:g} to {snr + 2.5:g}" if ranges else f"{snr:g}"


def _means_table(groups, title):
    """Rows of systems, group by group."""
    means = groups[0][1]["means"]
    metrics = next(iter(means.values()))
    header = ["system", "files", *(LABELS.get(m, m) for m in metrics)]
    rows = []
    for label, group in groups:
        for system, scores in group["means"].items():
            cells = [_number(scores[metric]["mean"]) for metric in metrics]
            row = [system, group["num_compared"], *cells]
            rows.append([label, *row] if title else row)
    return markdown_table([title, *header] if title else header, rows)


def _number(value, sign=""):
    return "-" if value is None else f"{value:{sign}.3f}"


def _difference_table(report):
    """Rows of metrics, columns of systems."""
    differences = report["differences"]
    rows = [
        [
            LABELS.get(metric, metric),
            *(_interval(scores[metric]) for scores in differences.values()),
        ]
        for metric in next(iter(differences.values()))
    ]
    return markdown_table(["", *differences], rows)


def _interval(estimate):
    low, high = (_number(estimate[key], "+") for key in ("low", "high"))
    return f"{_number(estimate['mean'], '+')} [{low}, {high}]"
