"""Serve a page where signals are uploaded or recorded and enhanced.

examples:
  dbtransform demo
  dbtransform demo --model my_model --port 8080
  dbtransform demo --host 0.0.0.0

Without --host the page is reached from this machine alone.
"""

from dbtransform_lobes.cli.options import add_options, check_range


def add_arguments(parser):
    """Add the arguments of ``demo`` to its parser."""
    add_options(parser, "--model")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets others in (default 127.0.0.1)",
    )
    parser.add_argument("--port", type=int, default=7860, help="(default 7860)")


def run(args):
    """Serve the page until Ctrl-C; return the exit code."""
    import importlib.util

    check_range("port", 1, 65535, args.port)
    for package in ("gradio", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"the demo page needs {package}, which is not installed: "
                "pip install 'dbtransform[demo]'"
            )
    from dbtransform_lobes.demo import build_app, launch
    from dbtransform_lobes.inference.enhance_model import EnhanceModel

    model = EnhanceModel.from_hparams(args.model)
    print(f"http://{args.host}:{args.port} (Ctrl-C ends it)", flush=True)
    launch(build_app(model), args.host, args.port)
    return 0
