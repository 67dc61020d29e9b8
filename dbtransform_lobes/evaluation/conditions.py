"""SNR and noise of every file of a test set, and groups of files by them."""

import csv
import json
import math
from pathlib import Path, PurePosixPath

from dbtransform_lobes.data.audio import AUDIO_SUFFIXES
from dbtransform_lobes.data.files import raise_problems, read_text
from dbtransform_lobes.data.mixtures import SEPARATOR

COLUMNS = {  # key: names that the column may have, the first found is taken
    "file": ("id", "file"),
    "clean": ("clean", "clean_wav"),
    "noisy": ("noisy", "noisy_wav"),
    "snr_db": ("snr_db", "snr"),
    "noise": ("noise_type", "noise"),
}
LOG_FIELDS = ("file", "noise", "snr_db")
MAX_SNRS = 12  # above this many, SNRs are grouped in ranges
SNR_STEP = 5.0  # dB


def read_conditions(path):
    """Read what is known of each file of a test set.

    Arguments
    ---------
    path : str or Path
        A csv with a header: ``id`` or ``file``, and of ``snr_db`` (or
        ``snr``), ``noise_type`` (or ``noise``), ``clean`` and ``noisy``
        what there is; other columns are passed over. ``dbtransform mix``
        writes such a csv. Or a manifest as the recipes write it: JSON by
        id, with ``clean_wav``, ``noisy_wav`` and the same further keys. Or
        the ``log_testset.txt`` of VoiceBank-DEMAND: file, noise and SNR in
        each line.

    Returns
    -------
    conditions : dict
        By the name of the file (without an audio suffix), a dict of those
        of ``clean``, ``noisy`` (paths as given), ``snr_db`` (float) and
        ``noise`` (see ``noise_type``) that are known.

    Raises
    ------
    ValueError
        If the file is no such table, a name is empty or comes twice, or an
        SNR is no number; with the lines.
    OSError
        If the file cannot be read.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "log_testset.txt")
    ...     _ = path.write_text("p232_001 bus 17.5")
    ...     print(read_conditions(path))
    {'p232_001': {'noise': 'bus', 'snr_db': 17.5}}
    """
    conditions, problems = {}, []
    for line, row in _read_rows(path):
        try:
            name, known = _condition(row)
            if name in conditions:
                raise ValueError(f"{name} is there already")
            conditions[name] = known
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    raise_problems(f"{path}: wrong lines", problems)
    if not conditions:
        raise ValueError(f"{path} has no line of a file, expected at least one")
    return conditions


def _read_rows(path):
    """Return (line or entry number, {key: text}) of every file."""
    text = read_text(path)
    lines = text.splitlines()
    if Path(path).suffix.lower() == ".json":
        return [
            (number, _pick({**entry, "id": name}))
            for number, (name, entry) in enumerate(_entries(path, text), 1)
        ]
    if not lines or "," not in lines[0]:
        return _log_rows(path, lines)
    reader = csv.DictReader(lines)
    if not set(COLUMNS["file"]) & set(reader.fieldnames):
        raise ValueError(
            f"{path}: expected a column id or file, given "
            f"{', '.join(reader.fieldnames)}"
        )
    return [(line, _pick(row)) for line, row in enumerate(reader, start=2)]


def _entries(path, text):
    """Return the items of a JSON manifest."""
    try:
        return [(name, dict(entry)) for name, entry in json.loads(text).items()]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected JSON of the form {{id: {{...}}}} ({error})"
        ) from error


def _pick(row):
    """Return the values of a row, as text, by our names."""
    picked = {}
    for key, names in COLUMNS.items():
        value = next((row[name] for name in names if name in row), None)
        picked[key] = "" if value is None else str(value)
    return picked


def _log_rows(path, lines):
    rows = []
    for line, text in enumerate(lines, start=1):
        fields = text.split()
        if fields and len(fields) != len(LOG_FIELDS):
            raise ValueError(
                f"{path}, line {line}: expected a csv with a header, or file, "
                f"noise and SNR with spaces between them, given {text!r}"
            )
        if fields:
            rows.append((line, dict(zip(LOG_FIELDS, fields, strict=True))))
    return rows


def _condition(row):
    """Return the name of a file and what is known of it."""
    name = without_suffix(row.pop("file").strip())
    if not name:
        raise ValueError("the name of the file is empty")
    known = {key: text.strip() for key, text in row.items() if text}
    if "noise" in known:
        known["noise"] = noise_type(known["noise"])
    if "snr_db" in known:
        known["snr_db"] = float(known["snr_db"])
        if not math.isfinite(known["snr_db"]):
            raise ValueError("the SNR is not finite")
    return name, known


def without_suffix(name):
    """Return the name of an audio file without its suffix.

    Example
    -------
    >>> without_suffix("a/b.wav"), without_suffix("snr_2.5")
    ('a/b', 'snr_2.5')
    """
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if _is_audio(suffix) else name


def _is_audio(suffix):
    return suffix.lower() in AUDIO_SUFFIXES


def noise_type(noise):
    """Return the type of a noise by which files are grouped.

    Arguments
    ---------
    noise : str
        A type, which is returned as it is, or the path of a noise file:
        its name up to the first underscore, or without one the folder it
        lies in. Several paths with | between them are babble.

    Returns
    -------
    label : str
        The type.

    Example
    -------
    >>> noise_type("bus"), noise_type("DEMAND/bus/ch01.wav")
    ('bus', 'bus')
    >>> noise_type("noise/cafe_00.flac"), noise_type("a.wav|b.wav")
    ('cafe', 'babble')
    """
    if SEPARATOR in noise:
        return "babble"
    path = PurePosixPath(noise)
    if not _is_audio(path.suffix):
        return noise
    label, underscore, _ = path.stem.partition("_")
    if underscore and label:
        return label
    return path.parent.name or path.stem


def group_by_noise(conditions, names):
    """Group files by their noise.

    Arguments
    ---------
    conditions : dict
        As ``read_conditions`` returns them.
    names : sequence of str
        The files to group; those of unknown noise are left out.

    Returns
    -------
    groups : dict
        Names of files by noise, in alphabetical order.

    Example
    -------
    >>> group_by_noise({"a": {"noise": "bus"}, "b": {}}, ["a", "b"])
    {'bus': ['a']}
    """
    return _group("noise", conditions, names, lambda noise: noise)


def group_by_snr(conditions, names):
    """Group files by their SNR, in ranges of 5 dB if there are many SNRs.

    Arguments
    ---------
    conditions : dict
        As ``read_conditions`` returns them.
    names : sequence of str
        The files to group; those of unknown SNR are left out.

    Returns
    -------
    groups : dict
        Names of files by SNR in dB, in rising order; a range [0, 5) dB goes
        by its centre 2.5.
    ranges : bool
        Whether these are ranges.

    Example
    -------
    >>> group_by_snr({"a": {"snr_db": 5.0}, "b": {"snr_db": 0.0}}, "ab")
    ({0.0: ['b'], 5.0: ['a']}, False)
    """
    snrs = {conditions[name].get("snr_db") for name in names} - {None}
    ranges = len(snrs) > MAX_SNRS

    def level(snr):
        """Return the SNR, or the centre of its range."""
        if ranges:
            return (math.floor(snr / SNR_STEP) + 0.5) * SNR_STEP
        return snr

    return _group("snr_db", conditions, names, level), ranges


def _group(key, conditions, names, label):
    groups = {}
    for name in names:
        value = conditions[name].get(key)
        if value is not None:
            groups.setdefault(label(value), []).append(name)
    return dict(sorted(groups.items()))
