"""From a training run to a model folder that ``EnhanceModel`` loads.

::

  run folder                          model folder
    hyperparams.yaml            ->      hyperparams.yaml  (model, front end)
    save/CKPT+*/ema.ckpt        ->      model.ckpt        (averaged weights)
    save/CKPT+*/CKPT.yaml, scores.json, the data's dataset.json
                                ->      README.md         (model card)
                                        custom.py         (for foreign_class)
  a noisy file                ->      example_noisy.flac, example_enhanced.flac
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
    error there is nothing new. FileNotFoundError if the run folder, a file of
    it, the text or the example is missing; ValueError if there is no
    checkpoint to take, the model folder exists, the exported model differs
    from that of the run, or the example is no audio.

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
    check_output_folder(target, (*FILES, *EXAMPLES), "a model", force)
    text = PLAYERS if example else ""
    if card is not None:
        wanted = "text for the model card; leave out --card for none"
        text = read_text(existing_file(card, wanted)) + text
    hyperparams = minimal_hyperparams(run)
    checkpoint = _best_checkpoint(run / "save")
    ema = checkpoint.paramfiles["ema"]
    state = _averaged_state(ema)
    card = model_card(run, hyperparams, checkpoint.meta, text, language)
    with replacing_folder(target) as temporary:
        write_text(temporary / "hyperparams.yaml", hyperparams)
        write_text(temporary / "custom.py", CUSTOM)
        write_text(temporary / "README.md", card)
        torch.save(state, temporary / "model.ckpt")
        model = _check_round_trip(temporary, hyperparams, ema)
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


def _averaged_state(path):
    """Return the weights of an AveragedModel, contiguous and in fp32."""
    state = read_state_dict(path)
    count = state.pop("n_averaged", None)
    others = [key for key in state if not key.startswith("module.")]
    if count is None or others or not state:
        raise ValueError(
            f"{path}: expected n_averaged and keys module.*, given "
            f"{', '.join(others) or 'none of them'}; train with EnhanceBrain"
        )
    weights = {}
    for key, value in state.items():
        value = value.float() if value.is_floating_point() else value
        weights[key.removeprefix("module.")] = value.contiguous()
    return weights


def minimal_hyperparams(run_folder):
    """Return the YAML of a run's model and front end alone.

    That is what ``EnhanceModel`` needs of the run's hyperparams.yaml:
    ``KEPT_KEYS``, ``modules`` and ``pretrainer``. FileNotFoundError if there is
    none; ValueError if it cannot be parsed or a key is missing.
    """
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


def _check_round_trip(folder, hyperparams, ema_path):
    """Load a model folder; refuse it if it is not the averaged model."""
    hparams = load_hyperpyyaml(hyperparams)
    ema = AveragedModel(hparams["model"]).eval()
    title = f"{ema_path}: the weights do not fit the YAML of the run"
    fit_weights(ema, read_state_dict(ema_path), title)
    exported = EnhanceModel.from_hparams(folder, run_opts={"device": "cpu"})
    noisy = _test_signal(hparams["sample_rate"])
    with torch.inference_mode():
        expected = enhance_waveform(
            ema.module, hparams["compute_stft"], hparams["compute_istft"], noisy
        )
    difference = (exported.enhance_batch(noisy) - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise ValueError(
            f"the exported model differs from that of the run by {difference}, "
            f"expected at most {TOLERANCE}; nothing was written"
        )
    return exported


def _test_signal(sample_rate):
    time = torch.arange(sample_rate) / sample_rate
    tone = sum(torch.sin(2 * torch.pi * 150 * k * time) / k for k in (1, 2, 3))
    noise = torch.randn(sample_rate, generator=torch.Generator().manual_seed(0))
    return (0.1 * tone + 0.05 * noise)[None]
