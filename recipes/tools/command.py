"""Start the tool that a module of this folder is.

Every tool has ``HELP``, ``EXAMPLES``, ``add_arguments(parser)`` and
``run(args) -> exit code``, as the subcommands of ``dbtransform`` have.
"""

import argparse
import importlib
import sys
from pathlib import Path


def build_parser(name):
    """Return the argument parser of the tool ``name``, such as "ablate"."""
    tool = importlib.import_module(name)
    parser = argparse.ArgumentParser(
        prog=f"{name}.py",
        description=tool.HELP,
        epilog=f"examples:\n{tool.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tool.add_arguments(parser)
    parser.set_defaults(run=tool.run)
    return parser


def run_tool(name, argv):
    """Run a tool and return its exit code.

    Errors that a user can mend (ValueError, OSError) are printed as one
    message and give the code 1, an interruption gives 130.
    """
    args = build_parser(name).parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        print(f"{name}.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}.py: interrupted", file=sys.stderr)
        return 130


def start(file):
    """Run the tool whose file is given with the command line; then exit."""
    sys.exit(run_tool(Path(file).stem, sys.argv[1:]))


def check_parent(path):
    """Raise a ValueError if the folder of a file to write is missing."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder} for {path}: make it first"
        )
