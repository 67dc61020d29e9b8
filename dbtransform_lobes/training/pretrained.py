"""Training that starts from exported weights."""

import torch
from speechbrain.utils.distributed import main_process_only
from speechbrain.utils.logger import get_logger

from dbtransform_lobes.inference.enhance_model import EnhanceModel
from dbtransform_lobes.inference.weights import fit_weights

logger = get_logger(__name__)
REMEDY = (
    "train with the YAML of that model (its settings are in the "
    "hyperparams.yaml beside the weights), or leave out pretrained"
)


def load_pretrained(hparams):
    """Load the weights that ``pretrained`` names into the model.

    That is a model folder as ``dbtransform export`` writes it, or a Hugging
    Face id. A run that has a checkpoint goes on from it instead.
    FileNotFoundError if there is no such folder, ValueError if the front ends
    differ or the weights do not fit.
    """
    source = hparams["pretrained"]
    if hparams["checkpointer"].find_checkpoint() is not None:
        logger.warning(
            "the run goes on from its own checkpoint, pretrained=%s is not "
            "loaded; give another output_folder to start from it",
            source,
        )
        return
    title = f"the weights of pretrained={source} do not fit the recipe's model"
    state = _read_on_main(source, hparams)
    fit_weights(hparams["model"], state, f"{title}: {REMEDY}")
    logger.info("starts from the weights of %s", source)


@main_process_only
def _read_on_main(source, hparams):
    """Read weights of the recipe's front end; every rank gets them."""
    given = EnhanceModel.from_hparams(source, run_opts={"device": "cpu"})
    theirs, ours = given.hparams.compute_stft, hparams["compute_stft"]
    pairs = {"sample_rate": (given.hparams.sample_rate, hparams["sample_rate"])}
    for name in ("n_fft", "win_length", "hop_length"):
        pairs[name] = getattr(theirs, name), getattr(ours, name)
    problems = [
        f"{n} is {a}, expected {b}" for n, (a, b) in pairs.items() if a != b
    ]
    if not problems and not torch.allclose(theirs.window, ours.window):
        problems = ["window is another, expected the same"]
    if problems:
        raise ValueError(
            f"pretrained={source} has another front end than the recipe "
            f"({'; '.join(problems)}): {REMEDY}"
        )
    return given.mods.model.state_dict()
