"""From a training run to a model folder that ``EnhanceModel`` loads.

It gets the YAML of model and front end, the averaged weights of the best
checkpoint as model.ckpt, a model card (README.md), a custom.py for
foreign_class and, of a noisy file, an example before and after.
"""

import io
import math
from pathlib import Path

import ruamel.yaml
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.utils.checkpoints import Checkpointer
from torch.optim.swa_utils import AveragedModel

from dbtransform_lobes.data.files import (
    check_output_folder,
    existing_file,
    existing_folder,
    read_text,
    replacing_folder,
    write_text,
)
from dbtransform_lobes.export.model_card import model_card
from dbtransform_lobes.inference.bundled import GRAPH
from dbtransform_lobes.inference.enhance_model import EnhanceModel
from dbtransform_lobes.inference.restricted_yaml import open_yaml
from dbtransform_lobes.inference.weights import fit_weights, read_state_dict
from dbtransform_lobes.models.waveform import enhance_waveform

KEPT_KEYS = ("sample_rate", "compute_stft", "compute_istft", "model")
FILES = ("hyperparams.yaml", "model.ckpt", "README.md", "custom.py")
# The strengths at which an example is enhanced.
EXAMPLES = {"example_noisy.flac": 0, "example_enhanced.flac": 1}
TOLERANCE = 1e-6
HEADER = """\
# An enhancer for dbtransform_lobes.inference.EnhanceModel.from_hparams.
"""
# For speechbrain.inference.interfaces.foreign_class, which wants a file of
# the model folder.
CUSTOM = '''\
"""What SpeechBrain's foreign_class makes of this folder."""

try:
    from dbtransform_lobes.inference import EnhanceModel
except ModuleNotFoundError as error:
    raise ImportError(
        f"{error}; the model needs its package: pip install dbtransform"
    ) from error

__all__ = ["EnhanceModel"]
'''
PLAYERS = "\n\n## Example\n" + "".join(
    f'\n[{name}]({name})\n\n<audio controls src="{name}"></audio>\n'
    for name in EXAMPLES
)
PRETRAINER = """
modules:
  model: !ref <model>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
    model: !ref <model>
"""


def export_model(
    run_folder,
    model_folder,
    force=False,
    card=None,
    language="en",
    example=None,
):
    """Write the best checkpoint of a run, which is returned, as a model folder.

    That is the one of the highest validation PESQ, or without any scores the
    newest one from the end of an epoch. The folder is loaded again and
    compared with the averaged model of the run before it gets its name; on any
    error there is nothing new. FileNotFoundError if a file is missing;
    ValueError if there is no checkpoint to take, the model folder exists, the
    exported model differs, or the example is no audio.

    Arguments
    ---------
    run_folder, model_folder : str
        ``output_folder`` of the training; folder to write.
    force : bool
        Replace a model folder of that name.
    card : str, optional
        A text file to insert in the model card (sources, limits).
    language : str
        Code of the language of the speech, for the model card.
    example : str, optional
        A noisy file, to be heard in the model card before and after.
    """
    run, target = Path(run_folder), Path(model_folder).absolute()
    own = *FILES, GRAPH, *EXAMPLES
    check_output_folder(target, own, "a model", force)
    text = PLAYERS if example else ""
    if card is not None:
        wanted = "text for the model card; leave out --card for none"
        text = read_text(existing_file(card, wanted)) + text
    hyperparams = minimal_hyperparams(run)
    checkpoint = _best_checkpoint(run / "save")
    path = checkpoint.paramfiles["ema"]
    hparams = load_hyperpyyaml(hyperparams)
    ema = AveragedModel(hparams["model"]).eval()
    title = f"{path}: the weights do not fit the YAML of the run"
    fit_weights(ema, read_state_dict(path), title)
    card = model_card(run, hyperparams, checkpoint.meta, text, language)
    with replacing_folder(target) as temporary:
        write_text(temporary / "hyperparams.yaml", hyperparams)
        write_text(temporary / "custom.py", CUSTOM)
        write_text(temporary / "README.md", card)
        torch.save(ema.module.state_dict(), temporary / "model.ckpt")
        model = _check_round_trip(temporary, hparams, ema.module)
        for name, strength in EXAMPLES.items() if example else ():
            model.enhance_file(example, temporary / name, strength=strength)
    return checkpoint


def _best_checkpoint(save):
    """Find the checkpoint of the highest PESQ, else of the last epoch."""
    existing_folder(
        save, "the checkpoints of a run; give the output_folder of a training"
    )
    ranked = []
    for each in Checkpointer(save).list_checkpoints():
        if not each.meta or "ema" not in each.paramfiles:
            continue
        pesq = float(each.meta.get("pesq", math.nan))
        if math.isfinite(pesq) or each.meta.get("end-of-epoch"):
            score = pesq if math.isfinite(pesq) else -math.inf
            ranked.append((score, each.meta.get("unixtime", 0), each))
    if not ranked:
        raise ValueError(
            f"{save}: no checkpoint with averaged weights (ema.ckpt) from the "
            "end of an epoch; train until the first validation is done"
        )
    return max(ranked, key=lambda entry: entry[:2])[2]


def minimal_hyperparams(run_folder):
    """Return the YAML of a run's model and front end alone."""
    path = existing_file(
        Path(run_folder) / "hyperparams.yaml",
        "a run folder; give the output_folder of a training",
    )
    yaml = ruamel.yaml.YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    with open_yaml(path) as file:
        root = yaml.compose(resolve_references(file))
    if not isinstance(root, ruamel.yaml.MappingNode):
        raise ValueError(f"{path}: expected HyperPyYAML with keys and values")
    # Nodes keep their tags and, where shared, their anchors.
    root.value = [pair for pair in root.value if pair[0].value in KEPT_KEYS]
    missing = set(KEPT_KEYS) - {key.value for key, _ in root.value}
    if missing:
        raise ValueError(
            f"{path}: {', '.join(sorted(missing))} missing, expected the keys "
            f"{', '.join(KEPT_KEYS)}; train with a recipe of this package"
        )
    stream = io.StringIO()
    yaml.serialize(root, stream)
    return HEADER + stream.getvalue().rstrip() + "\n" + PRETRAINER


def _check_round_trip(folder, hparams, averaged):
    """Load a model folder; refuse it if it is not the averaged model."""
    exported = EnhanceModel.from_hparams(
        folder, run_opts={"device": "cpu"}, trust_code=True
    )  # as of the run, of which it is
    generator = torch.Generator().manual_seed(0)
    noisy = 0.1 * torch.randn(1, hparams["sample_rate"], generator=generator)
    with torch.inference_mode():
        expected = enhance_waveform(
            averaged, hparams["compute_stft"], hparams["compute_istft"], noisy
        )
    difference = (exported.enhance_batch(noisy) - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the exported model differs from that of the run by {difference}, "
            f"expected at most {TOLERANCE}; nothing was written"
        )
    return exported
