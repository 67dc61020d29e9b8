"""The settings of a training run: what is refused before it begins."""

import difflib
import inspect
import pydoc
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import resolve_references

from dbtransform_lobes.data.levels import check_range
from dbtransform_lobes.evaluation.metrics import SAMPLE_RATE


def check_overrides(hparams_file, overrides):
    """Refuse overrides that HyperPyYAML would take for others, and bad parts.

    It takes misspelt keys of an included file. A name beside a mapping (a
    class and its arguments) it drops, and gives the mapping to the name that
    was there. It takes words for numbers, and for "off". Whatever the file or
    an override say of a class or function is looked up before it is made.
    """
    given = ruamel.yaml.YAML().load(overrides or "") or {}
    _check_keys(given, _load_tree(hparams_file), hparams_file)
    with open(hparams_file, encoding="utf-8") as file:
        resolved = resolve_references(file, overrides)
    _check_parts(ruamel.yaml.YAML().load(resolved))


def _check_keys(given, known, path, above="", in_part=False):
    unknown = [str(key) for key in given if key not in known]
    if unknown and not in_part:  # of which not all arguments are written
        near = [difflib.get_close_matches(key, known) for key in unknown]
        raise ValueError(
            f"{', '.join(above + key for key in unknown)} not found in {path}, "
            f"expected some of {', '.join(sum(near, []) or known)}; correct "
            "the name"
        )
    for key, value in given.items():
        old, place = known.get(key), f"{above}{key}"
        is_map = isinstance(old, dict)
        if not _fits(value, old):
            raise ValueError(
                f"{place} is {value!r}, expected a value like that of {path}, "
                f"{'a mapping or !include:FILE' if is_map else old}"
            )
        if not isinstance(value, dict):
            continue
        if is_map and _tag(value) not in ("", _tag(old)):
            raise ValueError(
                f"{place} is {_tag(value)} with a mapping, expected the name "
                f"alone, as the mapping would go to {_tag(old) or 'that'} of "
                f"{path}: write both into a copy of the file"
            )
        if _tag(old).startswith("!include:"):
            name = _tag(old).removeprefix("!include:")
            file = Path(path).resolve().parent / name
            _check_keys(value, _load_tree(file), file, f"{place}.")
        elif is_map:
            in_part = in_part or bool(_tag(old))
            _check_keys(value, old, path, f"{place}.", in_part)


def _fits(value, old):
    """Whether a value is of the kind of the one that it overrides."""
    if value is None or _tag(value):
        return True
    if isinstance(old, list):
        likes = value if old else ()
        return isinstance(value, list) and all(_fits(x, old[0]) for x in likes)
    if isinstance(value, bool) != isinstance(old, bool):  # which is an int
        return old is None or isinstance(old, str)
    kinds = (int, float), dict
    return all(isinstance(value, k) for k in kinds if isinstance(old, k))


def _check_parts(node, place=""):
    kind, _, name = _tag(node).partition(":")
    named = node if isinstance(node, dict) else {}
    listed = node if isinstance(node, list) else ()
    if kind in ("!new", "!name", "!apply"):
        part = pydoc.locate(name)
        if part is None:
            raise ValueError(
                f"{place} is {name}, expected a class or function that is "
                "there: correct the name, or put its module on the path"
            )
        taken = _signature(part)
        bind = taken.bind_partial if kind == "!name" else taken.bind
        try:
            bind(*listed, **named)
        except TypeError as error:
            raise ValueError(
                f"{place} is {name}, {error}, expected some of "
                f"{', '.join(taken.parameters)}: correct what is below it"
            ) from error
    for key, value in [*named.items(), *enumerate(listed)]:
        _check_parts(value, f"{place}.{key}" if place else key)


def _signature(part):
    try:
        return inspect.signature(part)
    except ValueError:  # it is no function of Python
        return inspect.signature(lambda *args, **kwargs: None)


def _load_tree(path):
    """Load a YAML file with its tags left as they are."""
    return ruamel.yaml.YAML().load(Path(path))


def _tag(node):
    return getattr(getattr(node, "tag", None), "value", None) or ""


def check_settings(hparams):
    """Refuse numbers of a recipe that would end the run later."""
    rate = hparams["sample_rate"]
    if rate != SAMPLE_RATE:
        raise ValueError(
            f"sample_rate is {rate}, expected {SAMPLE_RATE}, the rate of PESQ, "
            "by which checkpoints are chosen"
        )
    for name in ("data_folder", "output_folder"):
        if not isinstance(hparams[name], str):
            raise ValueError(f"{name} is {hparams[name]}, expected a folder")
    least = {"valid_files": 1, "steps_per_epoch": 1, "seed": 0}
    least["crop_seconds"] = 0.1
    for name, bound in least.items():
        if hparams[name] is not None and hparams[name] < bound:
            raise ValueError(
                f"{name} is {hparams[name]}, expected {bound} or more"
            )
    for name in ("snr_db", "level_dbfs"):
        if hparams[name] is not None:
            check_range(name, hparams[name])
    hparams["opt_class"](hparams["model"].parameters())  # looks at its numbers
