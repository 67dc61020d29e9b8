"""``curves.py``: plot the training of runs."""

from pathlib import Path

from command import start

HELP = "Plot loss terms and validation metrics of runs against epochs."
EXAMPLES = """\
  curves.py results/db_transform/1 --output curves.png
  curves.py results/db_transform results/bsrnn --output curves.pdf

Seeds of one configuration (results/NAME/1, results/NAME/2) are drawn as their
mean in a band from the lowest to the highest.
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="output folder of a training, or a folder of such",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        required=True,
        help="the plot, .png or .pdf (replacing an older one)",
    )


def run(args):
    """Plot the curves; return 0."""
    from runs.curves import plot_curves
    from runs.runs import find_runs

    if not Path(args.output).parent.is_dir():
        raise ValueError(
            f"there is no folder {Path(args.output).parent} for "
            f"{args.output}: make it first"
        )
    plot_curves(find_runs(args.runs), args.output)
    return 0


if __name__ == "__main__":
    start(__file__)
