"""``compare_peers.py``: side by side with enhancers of others."""

import sys
from pathlib import Path

from benchmark.measure import machine
from command import start
from dbtransform_lobes.cli.evaluate import named_paths
from dbtransform_lobes.cli.options import add_options
from dbtransform_lobes.data.files import write_json, write_text
from dbtransform_lobes.evaluation.compare import compare_systems
from dbtransform_lobes.evaluation.dnsmos import check_installed
from dbtransform_lobes.inference.bundled import bundled_models
from dbtransform_lobes.plotting import check_plot
from peers.adapters import INSTALL
from peers.report import peers_text, plot_peers, system_rows
from peers.run import choose_systems, run_systems

HELP = (
    "Enhance the same files by enhancers of others and by models of ours, one "
    "thread each, and compare quality, speed, memory and latency."
)
EXAMPLES = f"""\
  compare_peers.py clean noisy --output peers --jobs 2
  compare_peers.py clean noisy --output peers \\
      --systems noisy rnnoise gtcrn --models ours=my_model onnx=stream.onnx

systems: noisy (the input), rnnoise, dtln, gtcrn, deepfilternet3, webrtc,
noisereduce, noisereduce_half (prop_decrease=0.5). Those that are not installed
are left out:

  {INSTALL}

Results that are there, by the same versions, are not made again; remove
OUTPUT/SYSTEM to measure a system anew.
"""


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument("clean", help="folder of clean speech, 16 kHz")
    parser.add_argument("noisy", help="folder of files of the same names")
    parser.add_argument(
        "--output",
        required=True,
        help="folder for enhanced files, scores, table (peers.md, .json) and "
        "plot (peers.png, .pdf)",
    )
    parser.add_argument(
        "--systems", nargs="+", help="of others, see below (default: all)"
    )
    parser.add_argument(
        "--models",
        metavar="NAME=MODEL",
        nargs="+",
        help="models of ours: folder, name or .onnx of each (default: the one "
        "that comes with the package); differences are to the first",
    )
    add_options(parser, "--jobs")  # that score; systems run one by one


def run(args):
    """Enhance, time, score, and write all; 1 if a system or a file failed."""
    check_plot("peers.png")
    if args.jobs < 1:
        raise ValueError(f"jobs is {args.jobs}, expected at least 1")
    models = named_paths("models", args.models or (), "NAME=MODEL")
    if args.models is None:
        models = {name: name for name in bundled_models()[:1]}
    systems, missing = choose_systems(args.systems, models)
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    folder = Path(args.output)
    timings, failed = run_systems(systems, args.clean, args.noisy, folder)
    if not timings:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise ValueError(f"no system could run: {reasons or missing}")
    print("scoring")
    comparison, note = _score(args, systems, list(timings))
    found = {
        "systems": system_rows(comparison, timings),
        "missing": missing,
        "failed": failed,
        "note": note,
        "machine": machine(),
        "timings": timings,
        "comparison": comparison,
    }
    write_json(folder / "peers.json", found)
    write_text(folder / "peers.md", peers_text(found))
    for suffix in ("png", "pdf"):
        plot_peers(found, folder / f"peers.{suffix}")
    print(peers_text(found), end="")
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    for name, reasons in comparison["left_out"].items():
        for system, reason in reasons.items():
            print(f"left out: {name}: {system}: {reason}", file=sys.stderr)
    return 1 if failed or comparison["left_out"] else 0


def _score(args, systems, names):
    """Return the comparison, and why there is no DNSMOS, "" if there is."""
    note, folder = "", Path(args.output)
    try:
        check_installed()
    except ValueError as error:
        note = str(error)
    ours = [name for name in names if systems[name]["model"] is not None]
    comparison = compare_systems(
        args.clean,
        {name: folder / name for name in names},
        folder,
        ours[0] if ours else None,
        jobs=args.jobs,
        with_dnsmos=not note,
    )
    del comparison["rows"]
    return comparison, note


if __name__ == "__main__":
    start(__file__)
