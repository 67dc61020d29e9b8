"""What every recipe shares: its YAML, its datasets, its training."""

import json
import random
from io import StringIO
from pathlib import Path

import numpy as np
import ruamel.yaml
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml.comments import CommentedMap
from speechbrain.utils.distributed import if_main_process, run_on_main
from torch.utils.data import DataLoader

from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.recordings import read_audio, write_text
from dbtransform_lobes.data.sources import Pairs
from dbtransform_lobes.training.brain import EnhanceBrain
from dbtransform_lobes.training.pretrained import load_pretrained
from dbtransform_lobes.training.ranks import rank_and_count
from dbtransform_lobes.versions import package_versions

# Keys that a run that goes on may have otherwise: where things are, how long
# and how fast it trains, what it shows.
MAY_CHANGE = {
    "output_folder",
    "save_folder",
    "enhanced_folder",
    "data_folder",
    "noise_folder",
    "recordings",
    "train_json",
    "valid_json",
    "test_json",
    "skip_prep",
    "number_of_epochs",
    "decay_steps",
    "epoch_counter",
    "lr_schedule",
    "num_workers",
    "pesq_workers",
    "metric_gan",
    "train_loader",
    "valid_loader",
    "ckpt_interval_minutes",
    "use_tensorboard",
    "tensorboard_logger",
    "train_logger",
    "checkpointer",
    "pretrained",
}


def resolve_base(hparams_file, overrides=""):
    """Find the recipe that a variant file is based on.

    A variant names its recipe in the key ``base`` (relative to itself) and
    lists only what differs or is new; with ``model_overrides`` it takes over
    what a file of hparams/models/ changes in its own base. Overrides given
    win over the variant's, these over the model's.

    Arguments
    ---------
    hparams_file : str
        A recipe, or a variant of one.
    overrides : str
        YAML of the overrides given on the command line.

    Returns
    -------
    hparams_file : str
        The recipe.
    overrides : str
        YAML of all overrides.

    Raises
    ------
    KeyError
        If a key given stands in neither file.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     small = Path(folder, "small.yaml")
    ...     _ = Path(folder, "full.yaml").write_text("lr: 1\\nseed: 0")
    ...     _ = small.write_text("base: full.yaml\\nlr: 0.1\\nseed: 1")
    ...     path, overrides = resolve_base(small, "seed: 2")
    >>> Path(path).name, overrides.split()
    ('full.yaml', ['lr:', '0.1', 'seed:', '2'])
    """
    yaml = ruamel.yaml.YAML()
    variant = _load_tree(yaml, hparams_file)
    given = yaml.load(overrides or "") or {}
    folder = Path(hparams_file).parent
    if "base" not in variant:
        _check_keys(yaml, given, variant, hparams_file)
        return str(hparams_file), overrides
    base, merged = folder / variant.pop("base"), CommentedMap()
    known = {**_load_tree(yaml, base), **variant}
    _check_keys(yaml, given, known, hparams_file)
    model = variant.pop("model_overrides", None)
    model = given.pop("model_overrides", model)  # of the command line, if any
    if model is not None:
        changes = _load_tree(yaml, folder / model)["architecture"]
        merged["architecture"] = CommentedMap(changes)  # without its tag
    merge(merged, variant)
    merge(merged, given)
    stream = StringIO()
    yaml.dump(merged, stream)
    return str(base), stream.getvalue()


def merge(target, changes):
    """Update nested mappings in place, as HyperPyYAML merges overrides.

    Arguments
    ---------
    target, changes : dict
        A mapping in both is merged; anything else is replaced.

    Example
    -------
    >>> target = {"blocks": {"graph": {"form": "learned"}, "fusion": 1}}
    >>> merge(target, {"blocks": {"graph": None}})
    >>> target
    {'blocks': {'graph': None, 'fusion': 1}}
    """
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(target.get(key), dict)
        if both and not _tag(value):
            merge(target[key], value)
        else:
            target[key] = value


def _tag(node):
    tag = getattr(node, "tag", None)
    return getattr(tag, "value", None) or ""


def _check_keys(yaml, given, known, path, above=""):
    """Refuse misspelt keys; HyperPyYAML would refuse a variant's new ones,
    and take any that are given to an included file."""
    unknown = [f"{above}{key}" for key in given if key not in known]
    if unknown:
        raise KeyError(
            f"{', '.join(unknown)} not found in {path}, expected some "
            f"of {', '.join(known)}"
        )
    for key, value in given.items():
        tag = _tag(known[key])
        if not isinstance(value, dict) or _tag(value):
            continue
        if tag.startswith("!include:"):
            file = Path(path).parent / tag.removeprefix("!include:")
            tree = _load_tree(yaml, file)
            _check_keys(yaml, value, tree, file, f"{above}{key}.")
        elif isinstance(known[key], dict) and not tag:
            _check_keys(yaml, value, known[key], path, f"{above}{key}.")


def _load_tree(yaml, path):
    """A YAML file with its tags left as they are."""
    with open(path, encoding="utf-8") as file:
        return yaml.load(file)


def load_recipe(hparams_file, overrides=""):
    """Load a recipe or variant; returns (hparams, recipe file, overrides)."""
    hparams_file, overrides = resolve_base(hparams_file, overrides)
    with open(hparams_file, encoding="utf-8") as file:
        hparams = load_hyperpyyaml(file, overrides, overrides_must_match=False)
    return hparams, hparams_file, overrides


def begin_run(hparams_file, run_opts, overrides):
    """Load a recipe and make its output folder, or go on in it.

    With ``--debug`` the folder is one of its own, ``debug``, below the given.

    Arguments
    ---------
    hparams_file, run_opts, overrides
        Of ``speechbrain.parse_arguments``.

    Returns
    -------
    dict
        The hyperparameters.

    Raises
    ------
    ValueError
        If the folder has checkpoints of another configuration.
    """
    hparams, file, changes = load_recipe(hparams_file, overrides)
    folder = Path(hparams["output_folder"])
    if run_opts.get("debug"):
        yaml, stream = ruamel.yaml.YAML(), StringIO()
        tree = yaml.load(overrides or "") or CommentedMap()
        tree["output_folder"] = str(folder / "debug")
        yaml.dump(tree, stream)
        hparams, file, changes = load_recipe(hparams_file, stream.getvalue())
        folder = folder / "debug"
    if if_main_process():
        _check_same_run(folder, file, changes)
    sb.create_experiment_directory(str(folder), file, changes)
    run_on_main(save_versions, args=[folder])
    return hparams


def _check_same_run(folder, hparams_file, overrides):
    """Refuse to go on with checkpoints of another configuration."""
    before = folder / "hyperparams.yaml"
    if not before.is_file() or not any(folder.glob("save/CKPT*")):
        return
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


def _plain_tree(text):
    """The top level of a YAML text as comparable values, tags included."""

    def plain(node):
        if isinstance(node, ruamel.yaml.MappingNode):
            pairs = [(plain(k), plain(v)) for k, v in node.value]
            return node.tag, sorted(pairs, key=str)
        if isinstance(node, ruamel.yaml.SequenceNode):
            return node.tag, [plain(each) for each in node.value]
        return node.tag, node.value

    root = ruamel.yaml.YAML(typ="safe", pure=True).compose(text)
    return {key.value: plain(value) for key, value in root.value}


def save_versions(output_folder):
    """Write versions.json: what ran, beside the configuration that ran.

    SpeechBrain's env.log asks the pip on the PATH, which need not be that of
    the running Python.
    """
    text = json.dumps(package_versions(), indent=2) + "\n"
    write_text(Path(output_folder, "versions.json"), text)


def training_source(hparams, data_root):
    """Recordings to mix on the fly if ``recordings`` is set, else pairs."""
    if hparams["recordings"]:
        return hparams["recordings_source"](hparams["recordings"])
    return Pairs(hparams["train_json"], data_root, hparams["sample_rate"])


def training_loader(hparams, data_root, accumulation=1):
    """Batches of the training crops of this rank.

    An epoch has ``steps_per_epoch`` steps of ``batch_size`` crops on any
    number of ranks: each takes an equal part of every step, in
    ``accumulation`` batches.

    Arguments
    ---------
    hparams : dict
        Of the recipe.
    data_root : str
        Replaces ``{data_root}`` in the manifest.
    accumulation : int
        Batches of a step on one rank, the Brain's
        ``grad_accumulation_factor``.

    Returns
    -------
    torch.utils.data.DataLoader
        Its sampler is an EpochSampler.

    Raises
    ------
    ValueError
        If ``batch_size`` cannot be divided so.
    """
    batch_size, (rank, ranks) = hparams["batch_size"], rank_and_count()
    if min(batch_size, accumulation) < 1 or batch_size % (ranks * accumulation):
        raise ValueError(
            f"batch_size is {batch_size}, the crops of one step, expected a "
            f"multiple of ranks x grad_accumulation_factor = {ranks} x "
            f"{accumulation}, so that all ranks and batches have as many"
        )
    crops = TrainingCrops(
        training_source(hparams, data_root),
        hparams["steps_per_epoch"] * batch_size,
        hparams["crop_seconds"],
        hparams["seed"],
        hparams["snr_db"],
        hparams["level_dbfs"],
        hparams["sample_rate"],
    )
    return DataLoader(
        crops,
        batch_size=batch_size // (ranks * accumulation),
        sampler=EpochSampler(len(crops), rank, ranks),
        collate_fn=sb.dataio.batch.PaddedBatch,
        **hparams["train_loader"],
    )


def whole_files(manifest, data_root, sample_rate, count=None, seed=0):
    """Noisy and clean files of a manifest, whole; this rank's share of them.

    Arguments
    ---------
    manifest : str
        JSON {id: {"noisy_wav", "clean_wav", "length"}}.
    data_root : str
        Replaces ``{data_root}``.
    sample_rate : int
        In Hz; files of another rate are resampled.
    count : int | None
        How many, chosen by the seed; None takes all.
    seed : int
        The same seed chooses the same files.

    Returns
    -------
    speechbrain.dataio.dataset.DynamicItemDataset
        With the keys id, noisy and clean.
    """
    with open(manifest, encoding="utf-8") as file:
        entries = json.load(file)
    names = sorted(entries)
    if count is not None and count < len(names):
        names = sorted(random.Random(seed).sample(names, count))
    rank, ranks = rank_and_count()

    @sb.utils.data_pipeline.takes("noisy_wav", "clean_wav")
    @sb.utils.data_pipeline.provides("noisy", "clean")
    def read(noisy_wav, clean_wav):
        for path in (noisy_wav, clean_wav):
            path = path.replace("{data_root}", str(data_root))
            signal = read_audio(path, sample_rate=sample_rate)
            yield torch.from_numpy(signal.astype(np.float32))

    everything = sb.dataio.dataset.DynamicItemDataset(
        {name: entries[name] for name in names},
        dynamic_items=[read],
        output_keys=["id", "noisy", "clean"],
    )
    # With more ranks than files some get none, which only this class allows.
    return sb.dataio.dataset.FilteredSortedDynamicItemDataset(
        everything, names[rank::ranks]
    )


def train_model(hparams, run_opts, data_root):
    """Train, or go on training, as the recipe says.

    Arguments
    ---------
    hparams : dict
        Of the recipe.
    run_opts : RunOptions
        SpeechBrain's.
    data_root : str
        Replaces ``{data_root}`` in the manifests.

    Returns
    -------
    EnhanceBrain
        Ready to evaluate.
    """
    load_pretrained(hparams)
    brain = EnhanceBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    train_loader = training_loader(
        hparams, data_root, brain.grad_accumulation_factor
    )
    valid_data = whole_files(
        hparams["valid_json"],
        data_root,
        hparams["sample_rate"],
        hparams["valid_files"],
        hparams["seed"],
    )
    brain.train_sampler = train_loader.sampler
    brain.fit(
        hparams["epoch_counter"],
        train_loader,
        valid_data,
        valid_loader_kwargs=hparams["valid_loader"],
    )
    return brain
