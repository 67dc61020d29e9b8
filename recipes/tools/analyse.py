"""``analyse.py``: figures of a model, and of what it does."""

from pathlib import Path

from command import start
from dbtransform_lobes.cli.enhance import add_loading_arguments, model_options
from dbtransform_lobes.cli.evaluate import named_paths
from dbtransform_lobes.inference.device import check_device
from figures.analyse import FIGURES, analyse

HELP = (
    "Draw what a model is, has learned and does with a recording: figures "
    "(PNG and PDF) and a page of them with players (report.html)."
)
EXAMPLES = """\
  analyse.py my_model noisy.wav --output analysis
  analyse.py db_transform_small noisy.wav --output analysis --force
  analyse.py my_model noisy.wav --output analysis --clean clean.wav \\
      --systems BSRNN=bsrnn_model CMGAN=cmgan_enhanced.wav
  analyse.py my_model noisy.wav --output graph --figures graph
  analyse.py my_model talk.mp3 --output attention \\
      --figures attention --band 8 --seconds 61.5 65.5
"""


def add_arguments(parser):
    """Add the arguments of ``analyse`` to its parser."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="model folder, name of a model of the package "
        "(db_transform_small) or of the Hugging Face hub (owner/name)",
    )
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        help="noisy file of any rate and number of channels, which are "
        "averaged",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        required=True,
        help="folder to write",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a folder of an earlier analysis, all of it",
    )
    parser.add_argument(
        "--clean", metavar="FILE", help="the recording without noise"
    )
    parser.add_argument(
        "--systems",
        metavar="NAME=FILE_OR_MODEL",
        nargs="+",
        default=[],
        help="to be shown beside: the recording enhanced by another system, "
        "or another model",
    )
    parser.add_argument(
        "--figures",
        nargs="+",
        choices=FIGURES,
        default=list(FIGURES),
        help="figures to draw (default all)",
    )
    parser.add_argument(
        "--band",
        metavar="K",
        type=int,
        help="band of the attention maps, from 0 (default: the one nearest "
        "to 500 Hz)",
    )
    parser.add_argument(
        "--seconds",
        metavar=("START", "END"),
        nargs=2,
        type=float,
        help="part of the recording, at most 30 s (default: the first 10 s); "
        "attention maps are those of its first 4 s",
    )
    add_loading_arguments(parser)


def run(args):
    """Write the folder; return the exit code."""
    systems = named_paths("systems", args.systems, "NAME=FILE_OR_MODEL")
    check_device(args.device)
    left_out = analyse(
        audio=args.audio,
        output=args.output,
        clean=args.clean,
        systems=systems,
        figures=args.figures,
        band=args.band,
        seconds=args.seconds,
        force=args.force,
        **model_options(args),
    )
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print(f"{Path(args.output, 'report.html')} written")
    return 0


if __name__ == "__main__":
    start(__file__)
