"""Score enhanced (or noisy) files against their clean speech, or compare
several systems; by DNSMOS also without clean speech.

examples:
  dbtransform evaluate clean enhanced
  dbtransform evaluate clean enhanced --output scores --jobs 4
  dbtransform evaluate clean --systems noisy=noisy ours=enhanced \\
      --conditions test_mixtures.csv --plot png --output comparison
  dbtransform evaluate enhanced --dnsmos
"""

import os
import sys
from pathlib import Path

from dbtransform_lobes.cli.options import add_options


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    parser.add_argument(
        "clean",
        metavar="CLEAN",
        help="folder of clean speech, one channel, scored at 16 kHz; or a "
        "manifest: csv with the columns id and clean, or JSON as the recipes "
        "write it; with --dnsmos alone, a folder of any recordings",
    )
    parser.add_argument(
        "estimate_folder",
        metavar="ENHANCED",
        nargs="?",
        help="files of the same names (the suffix may differ)",
    )
    parser.add_argument(
        "--systems",
        metavar="NAME=FOLDER",
        nargs="+",
        help="several folders of enhanced files in place of ENHANCED, to "
        "compare (NAME by default: that of the folder)",
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="system that the others are compared with (default: the first)",
    )
    parser.add_argument(
        "--conditions",
        metavar="FILE",
        help="SNR and noise of each file, for tables by them: the csv of "
        "`dbtransform mix` or VoiceBank-DEMAND's log_testset.txt",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write all scores there (replacing older ones)",
    )
    parser.add_argument(
        "--plot",
        metavar="FORMAT",
        nargs="+",
        choices=["png", "pdf"],
        help="write plots of the comparison to --output as well: png, pdf",
    )
    parser.add_argument(
        "--dnsmos",
        action="store_true",
        help="also predict DNSMOS P.835, which needs no clean speech: pip "
        "install 'dbtransform[dnsmos]'",
    )
    add_options(parser, "--jobs")


def run(args):
    """Score the files, print the means; 1 if a file failed, else 0."""
    if args.output is not None and os.path.isfile(args.output):
        raise ValueError(
            f"--output {args.output} is a file, expected a folder to write to"
        )
    if args.plot and args.output is None:
        raise ValueError("--plot given without --output, which is its folder")
    clean, systems = _choose(args)

    from dbtransform_lobes.evaluation.compare import compare_systems
    from dbtransform_lobes.evaluation.tables import comparison_text

    report = compare_systems(
        clean,
        systems,
        output_folder=args.output,
        reference=args.reference,
        conditions=args.conditions,
        plots=args.plot or (),
        jobs=args.jobs,
        with_dnsmos=args.dnsmos,
    )
    print(comparison_text(report), end="")
    if names := report["silent"]:
        print(f"silent, not scored ({len(names)}): {', '.join(names)}")
    for system, names in report["without_clean"].items():
        if names:
            print(
                f"{system}: not scored, without clean speech ({len(names)}): "
                f"{', '.join(names)}"
            )
    for name, reasons in report["left_out"].items():
        for system, reason in reasons.items():
            print(f"left out: {name}: {system}: {reason}", file=sys.stderr)
    return 1 if report["left_out"] else 0


def _choose(args):
    """Return the clean speech, if any, and the folders to score by name."""
    folder = args.estimate_folder
    if args.systems is not None:
        if folder is not None:
            raise ValueError(
                f"{folder} given besides --systems, expected one of both; "
                "write it as one of the systems"
            )
        return args.clean, named_paths("systems", args.systems)
    if folder is not None:
        return args.clean, {Path(folder).resolve().name: folder}
    if not args.dnsmos:
        raise ValueError(
            "expected a folder of enhanced files behind that of clean ones, "
            "--systems, or --dnsmos, which needs no clean speech"
        )
    return None, {Path(args.clean).resolve().name: args.clean}


def named_paths(option, texts, form="NAME=FOLDER"):
    """Return paths by name from NAME=PATH or PATH, values of an option."""
    paths = {}
    for text in texts:
        name, given, path = text.partition("=")
        if not given:
            name, path = Path(text).name, text
        if not name or not path:
            raise ValueError(f"--{option} has {text!r}, expected {form}")
        if name in paths:
            raise ValueError(
                f"--{option} has two of the name {name}, expected one each; "
                f"write {form} with other names"
            )
        paths[name] = path
    return paths
