"""Show what a model is: size, rate, training data, licence, scores.

examples:
  dbtransform info
  dbtransform info my_model
  dbtransform info owner/name
"""

import re

from dbtransform_lobes.cli.options import add_options

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
    add_options(parser, "--revision", "--trust-code")


def run(args):
    """Print the description; return the exit code."""
    from pathlib import Path

    from dbtransform_lobes.inference import backend
    from dbtransform_lobes.inference.bundled import bundled_models, find_source
    from dbtransform_lobes.versions import package_versions

    folder = find_source(args.model, args.revision)
    facts, sections = _read_card(Path(folder, "README.md"))
    options = {"threads": 1, "trust_code": args.trust_code}
    model = backend.load_enhancer(folder, **options)
    known = model.description
    facts = {
        "model": args.model or bundled_models()[0],
        "folder": folder,
        "class": known.get("class", "not stated"),
        "parameters": f"{known.get('parameters', 0):,}",
        "sample rate": f"{model.sample_rate} Hz",
        "causal": "yes" if model.causal else "no",
        "licence": facts.get("license", "not stated"),
        "language": facts.get("language", "not stated"),
        "computed by": backend.choose_backend(folder),
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


def _read_card(path):
    """Plain values of a card's front matter, and its sections by title."""
    if not path.is_file():
        return {}, {}
    head, *parts = path.read_text("utf-8").split("\n## ")
    matter = head.partition("\n---\n")[0]
    facts = dict(re.findall(r"^(\w+): (.+)$", matter, re.MULTILINE))
    titled = (part.partition("\n") for part in parts)
    return facts, {title.strip(): body.strip() for title, _, body in titled}
