"""Export the best checkpoint of a training run as a model folder for inference.

examples:
  dbtransform export results/db_transform_small/1 my_model
  dbtransform export results/db_transform_small/1 my_model --force \\
      --card limits.md --example noisy.wav
  dbtransform enhance noisy.wav enhanced.wav --model my_model
"""

from dbtransform_lobes.cli.options import add_options


def add_arguments(parser):
    """Add the arguments of ``export`` to its parser."""
    parser.add_argument(
        "run_folder",
        metavar="RUN_FOLDER",
        help="output_folder of the training (hyperparams.yaml, save/)",
    )
    parser.add_argument(
        "model_folder", metavar="MODEL_FOLDER", help="folder to write"
    )
    add_options(parser, "--force")
    parser.add_argument(
        "--card",
        metavar="FILE",
        help="text to insert in the model card (sources, limits)",
    )
    parser.add_argument(
        "--language",
        metavar="CODE",
        default="en",
        help="language of the speech, for the model card (default en)",
    )
    parser.add_argument(
        "--example",
        metavar="FILE",
        help="noisy recording, to be heard in the model card before and after",
    )


def run(args):
    """Write the model folder, print what was taken; return the exit code."""
    from dbtransform_lobes.export.model_folder import export_model

    checkpoint = export_model(
        args.run_folder,
        args.model_folder,
        args.force,
        args.card,
        args.language,
        args.example,
    )
    scores = ", ".join(
        f"{name} {checkpoint.meta[name]:.3f}"
        for name in ("pesq", "stoi", "si_sdr")
        if name in checkpoint.meta
    )
    print(
        f"{args.model_folder}: averaged weights of {checkpoint.path.name} "
        f"({scores or 'not scored, the newest epoch'})"
    )
    return 0
