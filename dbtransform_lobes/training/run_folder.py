"""The folder of a training run: what may begin or go on in it."""

import hashlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import resolve_references
from speechbrain.utils.logger import get_logger

from dbtransform_lobes.data.files import read_record, write_json

DEBUG_MARK = "made_by_debug"
# Keys that a run that goes on may have otherwise: where things are, how long
# and how fast it trains, what it shows.
MAY_CHANGE = set(
    "output_folder save_folder data_folder noise_folder recordings "
    "train_annotation valid_annotation test_annotation prepare skip_prep "
    "number_of_epochs decay_steps epoch_counter lr_schedule num_workers "
    "pesq_workers metric_gan train_loader valid_loader ckpt_interval_minutes "
    "use_tensorboard tensorboard_logger train_logger checkpointer "
    "pretrained".split()
)

logger = get_logger(__name__)


@contextmanager
def errors_in_a_line():
    """Exit with the message of an error that the user can mend."""
    try:
        yield
    except (ValueError, OSError, ruamel.yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        sys.exit(f"{Path(sys.argv[0]).name}: {text}")


def check_output(hparams):
    """Refuse to write among the data: a test empties folders of its own."""
    folders = [Path(hparams[f"{name}_folder"]) for name in ("output", "data")]
    if folders[0].resolve() == folders[1].resolve():
        raise ValueError(
            f"output_folder is data_folder, {folders[1]}, expected a folder "
            "that is not there yet or of an earlier run; give another one"
        )


def check_same_run(folder, hparams_file, overrides, debug=False):
    """Refuse to go on with checkpoints of another configuration or of --debug.

    A run of ``--debug`` leaves a mark in its folder, which may not exist yet.
    """
    folder = Path(folder)
    before, mark = folder / "hyperparams.yaml", folder / DEBUG_MARK
    if not before.is_file() or not any(folder.glob("save/CKPT*")):
        mark.unlink(missing_ok=True)
        if debug:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
        return
    if debug != mark.exists():
        held = "a run" if debug else "a run of --debug"
        raise ValueError(
            f"{folder} holds {held}, expected a folder of its own for "
            "--debug: give another --output_folder, or delete this one"
        )
    with open(hparams_file, encoding="utf-8") as file:
        now = resolve_references(file, overrides).getvalue()
    old, new = map(_plain_tree, (before.read_text(encoding="utf-8"), now))
    keys = sorted(
        key for key in {*old, *new} - MAY_CHANGE if old.get(key) != new.get(key)
    )
    if keys:
        raise ValueError(
            f"{folder} holds a run of another configuration, expected the "
            f"same ({', '.join(keys)} differ); give another --output_folder, "
            "or delete this one"
        )


def warn_of_other_files(folder, listed):
    """Warn if a run goes on with other training files, as listed, than before.

    Their paths may change, and so what lies there; ``training_files.json`` in
    the folder of the run remembers a digest of the list.
    """
    record = Path(folder, "training_files.json")
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    now, before = {"files": len(listed), "sha256": digest}, read_record(record)
    if before not in ({}, now) and any(Path(folder).glob("save/CKPT*")):
        logger.warning(
            "the %d training files are others than the %s before: the run goes "
            "on with examples that it would not have had; stop it and give "
            "those, or another --output_folder, if that is not meant",
            len(listed),
            before.get("files"),
        )
    write_json(record, now)


def _plain_tree(text):
    """Parse the top level of a YAML into comparable values, tags included."""

    def plain(node):
        """Return a node as tuples and lists."""
        if isinstance(node, ruamel.yaml.MappingNode):
            pairs = [(plain(k), plain(v)) for k, v in node.value]
            return node.tag, sorted(pairs, key=str)
        if isinstance(node, ruamel.yaml.SequenceNode):
            return node.tag, [plain(each) for each in node.value]
        return node.tag, node.value

    root = ruamel.yaml.YAML(typ="safe", pure=True).compose(text)
    return {key.value: plain(value) for key, value in root.value}
