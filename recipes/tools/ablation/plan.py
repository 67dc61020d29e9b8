"""What an ablation trains: rows and seeds, read from one YAML."""

import json
import sys
from collections import namedtuple
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from itertools import product
from pathlib import Path

import ruamel.yaml
from ruamel.yaml.comments import CommentedMap

from dbtransform_lobes.data.files import existing_file

# An ablation: which train.py and YAML are run, what all rows change in the
# recipe, and by name what each changes besides, as ruamel.yaml reads it.
Plan = namedtuple("Plan", "script recipe seeds reference overrides rows")
KEYS = set(Plan._fields)
OWN_KEYS = ("seed", "output_folder", "device")
SETTINGS = "ablation_settings.json"


@dataclass(frozen=True)
class Run:
    """One training; ``settings`` are YAML by all keys that it overrides."""

    row: str
    seed: int
    folder: Path
    plan: Plan
    settings: dict

    @property
    def finished(self):
        """Whether it has been tested, on one set or several."""
        return any(self.folder.glob("test*/scores.json"))

    @property
    def begun_with(self):
        """The settings that it was begun with, None of a new one."""
        path = self.folder / SETTINGS
        return json.loads(path.read_text("utf-8")) if path.is_file() else None

    def command(self, device):
        """Return the command that trains it, or goes on, as a list."""
        own = {"seed": self.seed, "output_folder": self.folder}
        flags = [
            f"--{key}" if text is None else f"--{key}={text}"
            for key, text in {**self.settings, **own, "device": device}.items()
        ]
        return [sys.executable, self.plan.script, self.plan.recipe, *flags]


def read_plan(path, small=False):
    """Read a YAML of the keys of ``Plan``, with paths relative to it.

    ``small`` puts the overrides and rows of its key ``small`` on top.
    """
    path = existing_file(path, "the YAML of an ablation")
    content = _load(path, path)
    content = content if isinstance(content, dict) else {}
    extra = content.pop("small", None)
    missing, unknown = KEYS - set(content), set(content) - KEYS
    if missing or unknown:
        raise ValueError(
            f"{path}: missing keys {sorted(missing)}, unknown keys "
            f"{sorted(unknown)}, expected {', '.join(sorted(KEYS))} and small"
        )
    if small:
        if not isinstance(extra, dict):
            raise ValueError(
                f"{path} has no key small with rows or overrides in it: leave "
                "out --small"
            )
        content = _merged(content, extra)
    _check_values(path, content)
    for key in ("script", "recipe"):
        place = (path.parent / content[key]).resolve()
        expected = f"the {key} of {path}, a path relative to that file"
        content[key] = existing_file(place, expected)
    return Plan(**content)


def _check_values(path, content):
    """Refuse values of a plan that are of no use."""
    rows, seeds = content["rows"], content["seeds"]
    overrides = rows.values() if isinstance(rows, dict) else [rows]
    for given in (content["overrides"], *overrides):
        if not isinstance(given, dict | None):
            raise ValueError(
                f"{path}: {given!r} stands for what a row or all rows change, "
                "expected keys with their values, as {num_layers: 1}"
            )
    numbers = seeds if isinstance(seeds, list) else [None]
    if not numbers or not all(isinstance(seed, int) for seed in numbers):
        raise ValueError(
            f"{path}: the seeds are {seeds!r}, expected a list of whole "
            "numbers, as [1, 2, 3]"
        )
    names = list(rows or ())
    if content["reference"] not in names or set(map(type, names)) != {str}:
        raise ValueError(
            f"{path}: the reference is {content['reference']}, expected one "
            f"of the rows {', '.join(map(str, names))}, which are words"
        )


def parse_settings(items):
    """Return the values of ``key=value`` by key, ``...`` without a value."""
    settings = {}
    for item in items:
        key, equals, text = item.removeprefix("--").partition("=")
        if key in OWN_KEYS:
            raise ValueError(
                f"{item}: every run has its own; use --seeds, --devices and "
                "--output"
            )
        settings[key] = _load(text, item) if equals else ...
    return settings


def _load(source, name):
    try:
        return ruamel.yaml.YAML().load(source)
    except ruamel.yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {error}") from error


def list_runs(plan, output, given=None, seeds=None, rows=None):
    """Return runs, all rows of a seed before the next, in ``output/ROW/SEED``.

    What a row itself changes wins over the ``given`` keys. A row or seed that
    is named twice is taken once.
    """
    unknown = [row for row in rows or () if row not in plan.rows]
    if unknown:
        raise ValueError(
            f"no such row: {', '.join(unknown)}; expected some of "
            f"{', '.join(plan.rows)}"
        )
    runs = []
    seeds, rows = seeds or plan.seeds, rows or plan.rows
    for seed, row in product(dict.fromkeys(seeds), dict.fromkeys(rows)):
        values = _merged(plan.overrides or {}, given or {})
        values = _merged(values, plan.rows[row] or {})
        settings = {key: _text(value) for key, value in values.items()}
        folder = Path(output) / row / str(seed)
        runs.append(Run(row, seed, folder, plan, settings))
    return runs


def _text(value):
    """Return a value as YAML on one line, None for ``...``."""
    if value is ...:
        return None
    yaml, stream = ruamel.yaml.YAML(), StringIO()
    yaml.default_flow_style, yaml.width = True, sys.maxsize
    yaml.dump({"key": value}, stream)
    return stream.getvalue().strip()[len("{key: ") : -1]


def _merged(content, changes):
    """Return nested mappings with changes; one with a tag is not merged."""
    content = deepcopy(content)
    for key, value in changes.items():
        old = content.get(key)
        merge = _is_plain(old) and _is_plain(value)
        content[key] = _merged(old, value) if merge else value
    return content


def _is_plain(value):
    """Tell whether a value is a mapping as ruamel.yaml reads it, untagged."""
    return isinstance(value, CommentedMap) and value.tag.value is None
