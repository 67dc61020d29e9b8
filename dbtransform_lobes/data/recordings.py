"""Collections of recordings of speech, noise and rooms.

That is either a ``manifest.csv`` with the columns path (relative to it, or in
a tar shard), kind, speaker, split (and, if known, source and licence), a folder
with one, or a folder whose files lie below folders named ``speech``, ``noise``
and ``rir``.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dbtransform_lobes.data.audio import audio_info, check_file, find_audio
from dbtransform_lobes.data.files import collect, raise_problems, read_table

KINDS = ("speech", "noise", "rir")
SPLITS = ("train", "valid", "test")
COLUMNS = ("path", "kind", "speaker", "split")
LENGTH = ("frames", "sample_rate")  # columns that may be there


@dataclass(frozen=True)
class Recording:
    """One audio file of a collection; "" is a licence or source not known."""

    path: str
    kind: str  # "speech", "noise" or "rir" (room impulse response)
    speaker: str  # who speaks; for noise, its type
    split: str  # "train", "valid" or "test"
    seconds: float
    licence: str
    source: str = ""  # the corpus


def by_speaker(items):
    """Return lists of recordings by their speakers, or types of noise."""
    groups = {}
    for item in items:
        groups.setdefault(item.speaker, []).append(item)
    return groups


def recordings_root(source):
    """Return the folder that the paths of a manifest or folder start from."""
    source = Path(source)
    if source.is_dir():
        return source
    if source.is_file():
        return source.parent
    raise FileNotFoundError(
        f"{source}: there is no such file or folder, expected a manifest.csv "
        "or a folder with speech/ and noise/ in it"
    )


def read_recordings(source, split=None):
    """List the recordings of a manifest or of a folder, of all splits or one.

    In a folder without a manifest, the kind of a file is the first folder on
    its way named ``speech``, ``noise`` or ``rir``; its speaker (or noise type)
    is the folder it lies in, or, when that is one of the named folders itself,
    its file name up to the first underscore. Its split is the folder on its way
    named ``train``, ``valid`` or ``test``; without one, a hash of the speaker
    chooses it (train for 0.8 of the speakers, valid and test for 0.1), so that
    no speaker is in two splits and new files move no old ones.

    The list of Recording is sorted by path. FileNotFoundError if the source is
    missing; ValueError if files are missing or unreadable (one error for all),
    the manifest has a wrong column or value, or nothing is left.

    Example
    -------
    >>> import tempfile
    >>> from dbtransform_lobes.data.audio import write_audio
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "speech/train/anna/1.wav")
    ...     path.parent.mkdir(parents=True)
    ...     write_audio(path, [0.0] * 8000, 16000)
    ...     found = read_recordings(folder, split="train")
    >>> found[0].speaker, found[0].seconds
    ('anna', 0.5)
    """
    if split not in (None, *SPLITS):
        raise ValueError(
            f"split is {split!r}, expected one of {', '.join(SPLITS)}"
        )
    root = recordings_root(source)
    if Path(source, "manifest.csv").is_file():
        source = Path(source, "manifest.csv")
    folder = Path(source).is_dir()
    rows = _folder_rows(root) if folder else _manifest_rows(source)
    rows = [row for row in rows if split in (None, row["split"])]
    if not rows:
        raise ValueError(
            f"{source}: no {split or 'audio'} recordings found, expected at "
            "least one, in a manifest.csv or in folders speech/ and noise/"
        )
    problems = []
    recordings = [
        collect(problems, _recording, root, row)
        for row in sorted(rows, key=lambda row: row["path"])
    ]
    raise_problems(f"{source}: missing or unreadable recordings", problems)
    return recordings


def _recording(root, row):
    """Make a recording of a row; opens the file unless the length is known."""
    path = str(root / row["path"])
    check_file(path)
    try:  # as floats, which a table with a gap in it has
        frames, rate = (float(row.get(name) or 0) for name in LENGTH)
    except ValueError as error:
        raise ValueError(f"{path}: {' or '.join(LENGTH)}: {error}") from error
    if not (frames > 0 and rate > 0):  # to open 100,000 files takes minutes
        info = audio_info(path)
        frames, rate = info.frames, info.samplerate
    about = (row[name] for name in COLUMNS[1:])
    known = (row.get(name) or "" for name in ("licence", "source"))
    return Recording(path, *about, frames / rate, *known)


def _manifest_rows(source):
    rows, problems = read_table(source, COLUMNS), []
    for line, row in enumerate(rows, start=2):
        for name, choices in (("kind", KINDS), ("split", SPLITS)):
            if row[name] not in choices:
                problems.append(f"line {line}: {name} is {row[name]!r}")
        if not row["path"] or not row["speaker"]:
            problems.append(f"line {line}: path or speaker is empty")
    raise_problems(
        f"{source}: wrong values, expected kinds {', '.join(KINDS)} and "
        f"splits {', '.join(SPLITS)}",
        problems,
    )
    return rows


def _folder_rows(root):
    rows = []
    for path in find_audio(root):
        folders = path.relative_to(root).parts[:-1]
        kind = next((name for name in folders if name in KINDS), None)
        if kind is None:
            continue
        named = folders[-1] not in KINDS + SPLITS
        speaker = folders[-1] if named else path.stem.split("_")[0]
        digest = hashlib.sha256(f"{kind}/{speaker}".encode()).digest()
        point = int.from_bytes(digest[:8], "big") / 2**64
        shares = zip(SPLITS, (0.8, 0.9, 1.0), strict=True)
        hashed = [split for split, edge in shares if point <= edge]
        split = next(name for name in (*folders, *hashed) if name in SPLITS)
        values = path.relative_to(root).as_posix(), kind, speaker, split
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
