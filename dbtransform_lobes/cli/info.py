"""``dbtransform info``: what a model is and what it learned from."""

from dbtransform_lobes.cli.options import add_options, fetch_config

HELP = "Show what a model is: size, rate, training data, licence, scores."
EXAMPLES = """\
  dbtransform info
  dbtransform info my_model
  dbtransform info owner/name
"""
SECTIONS = ("Training data", "Scores", "Versions")


def add_arguments(parser):
    """Add the arguments of ``info`` to its parser."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="model folder, name of a model of the package or of the hub "
        "(default: the one that comes with the package)",
    )
    add_options(parser, "--revision")


def run(args):
    """Print the description; return the exit code."""
    from dbtransform_lobes.inference.enhance_model import EnhanceModel
    from dbtransform_lobes.inference.source import bundled_models, find_model
    from dbtransform_lobes.versions import package_versions

    config = fetch_config(args.revision)
    folder = find_model(args.model, fetch_config=config)
    model = EnhanceModel.from_hparams(str(folder), run_opts={"device": "cpu"})
    data, sections = _read_card(folder / "README.md")
    facts = {
        "model": args.model or bundled_models()[0],
        "folder": folder,
        "class": type(model.mods.model).__name__,
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "sample rate": f"{model.hparams.sample_rate} Hz",
        "causal": _yes_or_no(getattr(model.mods.model, "causal", None)),
        "licence": data.get("license", "not stated"),
        "language": data.get("language", "not stated"),
        "bundled models": ", ".join(bundled_models()) or "none",
        "running on": ", ".join(
            f"{name} {version}" for name, version in package_versions().items()
        ),
    }
    for name, value in facts.items():
        print(f"{name + ':':<16}{value}")
    for title in SECTIONS:
        print(f"\n{title}\n\n{sections.get(title, 'The card says nothing.')}")
    return 0


def _yes_or_no(value):
    return {True: "yes", False: "no"}.get(value, "not stated")


def _read_card(path):
    """Front matter of a model card, and its sections by title."""
    from huggingface_hub import ModelCard

    if not path.is_file():
        return {}, {}
    card = ModelCard.load(path)
    parts = card.text.split("\n## ")[1:]
    titled = (part.partition("\n") for part in parts)
    return card.data.to_dict(), {
        title.strip(): text.strip() for title, _, text in titled
    }
