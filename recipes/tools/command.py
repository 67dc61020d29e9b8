"""Start the tool that a module of this folder is.

Every tool has a docstring, which is its help, ``add_arguments(parser)`` and
``run(args) -> exit code``.
"""

import argparse
import importlib
import sys
from pathlib import Path

from dbtransform_lobes.cli.main import fill_parser, run_command


def build_parser(name):
    """Return the argument parser of the tool ``name``, such as "ablate"."""
    module = importlib.import_module(name)
    parser = argparse.ArgumentParser(prog=f"{name}.py")
    fill_parser(parser, module, module.__doc__)
    return parser


def run_tool(name, argv):
    """Run a tool and return its exit code, as ``dbtransform`` does."""
    return run_command(f"{name}.py", build_parser(name).parse_args(argv))


def start(file):
    """Run the tool whose file is given with the command line; then exit."""
    sys.exit(run_tool(Path(file).stem, sys.argv[1:]))
