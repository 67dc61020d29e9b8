"""The ``dbtransform`` command: finds the subcommand and runs it.

Every subcommand is one module of this folder with a docstring, which is its
help, ``add_arguments(parser)`` and ``run(args) -> exit code``. Those modules
import only the standard library at their top, so that ``--help`` starts at
once.
"""

import argparse
import importlib
import os
import signal
import sys
import warnings

from dbtransform_lobes import __version__

COMMANDS = (
    "enhance stream demo info mix export export-onnx push evaluate"
).split()
EXAMPLES = """\
  dbtransform enhance noisy.wav enhanced.wav
  dbtransform enhance noisy_folder --output enhanced_folder --jobs 2
  dbtransform info
  dbtransform COMMAND --help
"""


def build_parser():
    """Return the parser of ``dbtransform`` with all its subcommands."""
    parser = argparse.ArgumentParser(
        prog="dbtransform",
        description="Speech enhancement with DB-Transform.",
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True
    )
    for name in COMMANDS:
        file = name.replace("-", "_")
        module = importlib.import_module(f"dbtransform_lobes.cli.{file}")
        about, _, examples = (module.__doc__ or "").partition("\n\n")
        command = subparsers.add_parser(name, help=about)
        fill_parser(command, module, about.replace("\n", " "), examples)
    return parser


def fill_parser(parser, module, description, epilog=None):
    """Give a parser the help, arguments and function of a command's module."""
    parser.description, parser.epilog = description, epilog
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def main(argv=None):
    """Run the command line and return its exit code."""
    args = build_parser().parse_args(argv)
    return run_command(f"dbtransform {args.command}", args)


def run_command(name, args):
    """Run a command and return its exit code.

    Errors that a user can mend (ValueError, OSError, and ImportError, such as
    of blocks named in YAML) are printed as one message without a traceback and
    end with code 1. A SIGTERM or SIGHUP is as Ctrl-C: no partial file and no
    process of ours is left, the code is 130.
    """
    warnings.formatwarning = lambda text, *_, **__: f"warning: {text}\n"
    for stream in (sys.stdout, sys.stderr):
        # File names may be any bytes.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    handlers = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN  # as under nohup
    }
    try:
        code = args.run(args)
        print(end="", flush=True)  # at the exit an error of it would be odd
        return code
    except BrokenPipeError:  # as when `head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ImportError as error:
        remedy = "install it or, if it is yours, name its folder in PYTHONPATH"
        print(f"{name}: {error}; {remedy}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
