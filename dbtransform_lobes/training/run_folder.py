"""The folder of a training run: what may begin or go on in it."""

import difflib
import hashlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import resolve_references
from speechbrain.utils.logger import get_logger

from dbtransform_lobes.data.files import read_record, write_json
from dbtransform_lobes.evaluation.metrics import SAMPLE_RATE

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


def check_overrides(hparams_file, overrides):
    """Refuse overrides that HyperPyYAML would not use.

    It takes misspelt keys of an included file, and drops the file that an
    override names if that has keys as well; neither changes anything.
    """
    given = ruamel.yaml.YAML().load(overrides or "") or {}
    _check_keys(given, _load_tree(hparams_file), hparams_file)


def _check_keys(given, known, path, above=""):
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        near = [difflib.get_close_matches(key, known) for key in unknown]
        raise ValueError(
            f"{', '.join(above + key for key in unknown)} not found in {path}, "
            f"expected some of {', '.join(sum(near, []) or known)}; correct "
            "the override"
        )
    for key, value in given.items():
        tag = _tag(known[key])
        if not isinstance(value, dict):
            continue
        if _tag(value).startswith("!include:"):
            raise ValueError(
                f"{above}{key} names a file and changes {', '.join(value)} "
                f"in it, expected one of both: change the keys of a copy"
            )
        if tag.startswith("!include:"):
            file = Path(path).resolve().parent / tag.removeprefix("!include:")
            _check_keys(value, _load_tree(file), file, f"{above}{key}.")
        elif isinstance(known[key], dict) and not tag:
            _check_keys(value, known[key], path, f"{above}{key}.")


def _load_tree(path):
    """Load a YAML file with its tags left as they are."""
    return ruamel.yaml.YAML().load(Path(path))


def _tag(node):
    return getattr(getattr(node, "tag", None), "value", None) or ""


def check_output(hparams):
    """Refuse to write among the data: a test empties folders of its own."""
    folders = [Path(hparams[f"{name}_folder"]) for name in ("output", "data")]
    if folders[0].resolve() == folders[1].resolve():
        raise ValueError(
            f"output_folder is data_folder, {folders[1]}, expected a folder "
            "that is not there yet or of an earlier run; give another one"
        )


def check_validation(hparams):
    """Refuse what no checkpoint could be chosen by."""
    count, rate = hparams["valid_files"], hparams["sample_rate"]
    if count is not None and count < 1:
        raise ValueError(f"valid_files is {count}, expected 1 or more, or null")
    if rate != SAMPLE_RATE:
        raise ValueError(
            f"sample_rate is {rate}, expected {SAMPLE_RATE}, the rate of PESQ, "
            "by which checkpoints are chosen"
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
