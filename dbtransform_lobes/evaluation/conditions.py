"""SNR and noise of every file of a test set."""

import csv
import json
import math
from pathlib import Path, PurePosixPath

from dbtransform_lobes.data.audio import AUDIO_SUFFIXES
from dbtransform_lobes.data.dataset import SET_NAMES
from dbtransform_lobes.data.files import collect, raise_problems, read_text
from dbtransform_lobes.data.mixtures import SEPARATOR

COLUMNS = {  # key: names that the column may have, the first found is taken
    "file": ("id", "file"),
    "clean": ("clean", "clean_wav"),
    "noisy": ("noisy", "noisy_wav"),
    "snr_db": ("snr_db", "snr"),
    "noise": ("noise_type", "noise"),
}
LOG_FIELDS = ("file", "noise", "snr_db")


def read_conditions(path, folder=""):
    """Read what is known of each file of a test set.

    Returned is by the name of the file (without an audio suffix) a dict of
    those of ``clean``, ``noisy`` (paths as given), ``snr_db`` (float) and
    ``noise`` that are known. The noise is a type: of the path of a file its
    name up to the first underscore, or without one the folder it lies in;
    "babble" of several paths with | between them. ValueError lists wrong lines.

    The file is a csv with the columns of ``COLUMNS`` that there are, as
    ``dbtransform mix`` writes it, of which the lines of other sets than that
    of a ``folder``, as ``clean_testset_wav``, are left out; a manifest of the
    recipes, JSON by id; or the ``log_testset.txt`` of VoiceBank-DEMAND: file,
    noise and SNR in each line.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "log_testset.txt")
    ...     _ = path.write_text("p232_001 bus 17.5")
    ...     print(read_conditions(path))
    {'p232_001': {'snr_db': 17.5, 'noise': 'bus'}}
    """
    conditions, problems = {}, []
    split = {f"clean_{n}": split for split, n in SET_NAMES.items()}.get(folder)
    for line, row in _read_rows(path, read_text(path)):
        if not split or row.get("split", split) == split:
            collect(problems, _add_condition, conditions, row, line=line)
    raise_problems(f"{path}: wrong lines", problems)
    if not conditions:
        raise ValueError(f"{path} has no line of a file, expected at least one")
    return conditions


def _read_rows(path, text):
    """Return (number of the line or entry, its values) of every file."""
    if Path(path).suffix.lower() == ".json":
        try:
            found = json.loads(text).items()
            entries = [{**entry, "id": name} for name, entry in found]
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: expected JSON of the form {{id: {{...}}}} ({error})"
            ) from error
        return list(enumerate(entries, 1))
    lines = text.splitlines()
    if lines and "," in lines[0]:
        return list(enumerate(csv.DictReader(lines), 2))
    rows = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) not in (0, len(LOG_FIELDS)):
            raise ValueError(
                f"{path}, line {number}: expected a csv with a header, or "
                f"file, noise and SNR with spaces, given {' '.join(fields)!r}"
            )
        if fields:
            rows.append((number, dict(zip(LOG_FIELDS, fields, strict=True))))
    return rows


def _add_condition(conditions, row):
    """Add by the name of a file what is known of it, by our names."""
    known = {}
    for key, names in COLUMNS.items():
        value = next((row[name] for name in names if name in row), None)
        if value not in (None, ""):
            known[key] = str(value).strip()
    path = PurePosixPath(name := known.pop("file", ""))
    if path.suffix.lower() in AUDIO_SUFFIXES:
        name = name.removesuffix(path.suffix)
    if not name:
        raise ValueError(
            "the name of the file is empty, expected a column id or file"
        )
    if "noise" in known:
        known["noise"] = _noise_type(known["noise"])
    if "snr_db" in known:
        known["snr_db"] = float(known["snr_db"])
        if not math.isfinite(known["snr_db"]):
            raise ValueError("the SNR is not finite")
    if name in conditions:
        raise ValueError(f"{name} is there already")
    conditions[name] = known


def _noise_type(noise):
    if SEPARATOR in noise:
        return "babble"
    path = PurePosixPath(noise)
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        return noise
    label, underscore, _ = path.stem.partition("_")
    return (underscore and label) or path.parent.name or path.stem
