"""Write a model as an ONNX file, for whole signals or for streams.

examples:
  dbtransform export-onnx my_model my_model.onnx
  dbtransform export-onnx my_model spectra.onnx --stft outside
  dbtransform export-onnx causal_model stream.onnx --streaming
  dbtransform export-onnx my_model small.onnx --int8
  dbtransform enhance noisy.wav enhanced.wav --backend onnx \\
      --model my_model.onnx
"""

from dbtransform_lobes.cli.options import add_options


def add_arguments(parser):
    """Add the arguments of ``export-onnx`` to its parser."""
    parser.add_argument(
        "model",
        metavar="MODEL_FOLDER",
        help="model folder, name of a model of the package or of the hub",
    )
    parser.add_argument("output", metavar="OUT.onnx", help="file to write")
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="a frame and states in and out, for causal models (default: "
        "whole signals of any length)",
    )
    parser.add_argument(
        "--stft",
        choices=("inside", "outside"),
        default="inside",
        help="inside: the graph takes and gives waveforms; outside: real and "
        "imaginary parts of spectra (default inside)",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="weights of eight bits (dynamic quantisation): a smaller and "
        "faster graph, not the same samples",
    )
    add_options(parser, "--force", "--trust-code")


def run(args):
    """Write the file, print how exact it is; return the exit code."""
    from pathlib import Path

    path = Path(args.output)
    if path.exists() and not args.force:
        raise ValueError(f"{path}: exists; use --force to replace it")

    from dbtransform_lobes.export.onnx_file import export_onnx

    how = args.streaming, args.stft, args.int8
    difference = export_onnx(args.model, path, *how, trust_code=args.trust_code)
    size = path.stat().st_size / 1e6
    print(
        f"{path}: {size:.1f} MB; samples differ from PyTorch's by at most "
        f"{difference:.1e} for signals of an RMS of 1"
    )
    return 0
