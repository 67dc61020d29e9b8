"""What an ablation trains: rows and seeds, read from one YAML."""

import sys
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import ruamel.yaml

KEYS = {"script", "recipe", "seeds", "reference", "overrides", "rows"}
OWN_KEYS = ("seed", "output_folder", "device")


@dataclass(frozen=True)
class Plan:
    """An ablation: which ``train.py`` and YAML are run, with which changes.

    ``overrides`` are keys to YAML text that all rows change in the recipe,
    ``rows`` names to those that each changes besides.
    """

    script: Path
    recipe: Path
    seeds: list
    reference: str
    overrides: dict
    rows: dict


@dataclass(frozen=True, eq=False)  # a key of dicts
class Run:
    """One training; ``settings`` are all keys that it overrides."""

    row: str
    seed: int
    folder: Path
    script: Path
    recipe: Path
    settings: dict

    @property
    def finished(self):
        """Whether it has been tested."""
        return (self.folder / "test" / "scores.json").is_file()

    def command(self, device):
        """Return the command that trains it, or goes on, as a list."""
        own = {"seed": self.seed, "output_folder": self.folder}
        flags = [
            f"--{key}" if text is None else f"--{key}={text}"
            for key, text in {**self.settings, **own, "device": device}.items()
        ]
        return [sys.executable, str(self.script), str(self.recipe), *flags]


def read_plan(path, small=False):
    """Read a YAML of the keys of ``Plan``, with paths relative to it.

    ``small`` puts the overrides and rows of its key ``small`` on top.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: check the path")
    try:
        content = ruamel.yaml.YAML().load(path) or {}
    except ruamel.yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    extra = content.pop("small", None)
    missing, unknown = KEYS - set(content), set(content) - KEYS
    if missing or unknown:
        raise ValueError(
            f"{path}: missing keys {sorted(missing)}, unknown keys "
            f"{sorted(unknown)}, expected {', '.join(sorted(KEYS))} and small"
        )
    if content["reference"] not in content["rows"]:
        raise ValueError(
            f"{path}: the reference is {content['reference']}, expected one "
            f"of the rows {', '.join(content['rows'])}"
        )
    if small:
        if not extra:
            raise ValueError(f"{path} has no key small: leave out --small")
        _merge(content, extra)
    for key in ("script", "recipe"):
        content[key] = (path.parent / content[key]).resolve()
        if not content[key].is_file():
            raise FileNotFoundError(
                f"{path}: there is no {content[key]}, expected paths of script "
                "and recipe relative to this file"
            )
    rows = content["rows"].items()
    content["rows"] = {name: _texts(row) for name, row in rows}
    content["overrides"] = _texts(content["overrides"])
    return Plan(**content)


def _texts(row):
    """Return the values of a row as YAML on one line."""
    texts = {}
    for key, value in (row or {}).items():
        yaml, stream = ruamel.yaml.YAML(), StringIO()
        yaml.default_flow_style, yaml.width = True, sys.maxsize
        yaml.dump({key: value}, stream)
        text = stream.getvalue().strip()
        texts[key] = text[len(f"{{{key}: ") : -1]
    return texts


def parse_settings(items):
    """Return keys to YAML text of ``key=value``, to None without a value."""
    settings = {}
    for item in items:
        key, equals, text = item.removeprefix("--").partition("=")
        if key in OWN_KEYS:
            raise ValueError(
                f"{item}: every run has its own; use --seeds, --devices and "
                "--output"
            )
        settings[key] = text if equals else None
    return settings


def list_runs(plan, output, given=None, seeds=None, rows=None):
    """Return runs, all rows of a seed before the next, in ``output/ROW/SEED``.

    What a row itself changes wins over the ``given`` keys.
    """
    unknown = [row for row in rows or () if row not in plan.rows]
    if unknown:
        raise ValueError(
            f"no such row: {', '.join(unknown)}; expected some of "
            f"{', '.join(plan.rows)}"
        )
    return [
        Run(
            row,
            seed,
            Path(output) / row / str(seed),
            plan.script,
            plan.recipe,
            _settings(plan.overrides, given or {}, plan.rows[row]),
        )
        for seed in seeds or plan.seeds
        for row in rows or plan.rows
    ]


def _settings(*levels):
    """Return keys to YAML text; mappings of several levels are merged."""
    settings = {}
    for level in levels:
        for key, text in level.items():
            old = settings.get(key)
            if old and text and old.startswith("{") and text.startswith("{"):
                yaml = ruamel.yaml.YAML()
                merged = yaml.load(old)
                _merge(merged, yaml.load(text))
                text = _texts({key: merged})[key]
            settings[key] = text
    return settings


def _merge(target, changes):
    """Update nested mappings in place; one may come in place of a null."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
