"""Recordings of speech and noise: what there is, and reading and writing it.

A collection is either a ``manifest.csv`` with the columns path, kind, speaker,
split (and, if known, source and licence), its paths relative to the csv; or a
folder whose files lie below folders named ``speech`` and ``noise``. A path
may also be a range of bytes of a tar shard, see data/shards.py.
"""

import csv
import hashlib
import io
import os
import re
import shlex
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from dbtransform_lobes.data.riff import wav_fault

KINDS = ("speech", "noise", "rir")
SPLITS = ("train", "valid", "test")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
# Audio of other programs; soundfile reads some of it, but writes little.
OTHER_SUFFIXES = tuple(
    ".aac .aif .aiff .amr .ape .au .caf .m4a .m4b .mka .mkv .mov .mp2 .mp4 "
    ".oga .opus .snd .sph .w64 .webm .wma".split()
)
LFS_POINTER = b"version https://git-lfs"
COLUMNS = ("path", "kind", "speaker", "split")
MAX_LISTED = 20
# A file inside a shard: its first and last byte, as in an HTTP Range header.
MEMBER = re.compile(r"(.+\.tar)#(\d+)-(\d+)")


@dataclass(frozen=True)
class Recording:
    """One audio file of a collection.

    Arguments
    ---------
    path : str
        Where the file is.
    kind : str
        "speech", "noise" or "rir" (room impulse response).
    speaker : str
        Who speaks; for noise, its type.
    split : str
        "train", "valid" or "test".
    seconds : float
        Duration.
    licence : str
        Licence of the recording, "" when not known.
    source : str
        Corpus it comes from, "" when not known.
    """

    path: str
    kind: str
    speaker: str
    split: str
    seconds: float
    licence: str
    source: str = ""


def raise_problems(title, problems):
    """Raise one ValueError that counts the problems and lists the first 20.

    Arguments
    ---------
    title : str
        What is wrong and what to do about it.
    problems : list of str
        One line each; nothing is raised when there is none.

    Raises
    ------
    ValueError
        If there is any problem.

    Example
    -------
    >>> raise_problems("unreadable files", [])
    """
    if not problems:
        return
    lines = list(problems[:MAX_LISTED])
    if len(problems) > MAX_LISTED:
        lines.append(f"... and {len(problems) - MAX_LISTED} more")
    listed = "\n".join(f"  {line}" for line in lines)
    raise ValueError(f"{title} ({len(problems)}):\n{listed}")


def read_text(path):
    """Read a text file in UTF-8, with a byte order mark or without.

    Raises
    ------
    ValueError
        If it is in another encoding.
    """
    try:  # spreadsheets begin the file with a byte order mark
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected UTF-8 ({error}); save the file as UTF-8"
        ) from error


def is_lfs_pointer(path):
    """Whether a file is the note that Git LFS leaves in place of a file."""
    with open(path, "rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _remedy(path):
    """Say what to do about a file that soundfile cannot read, or nothing."""
    path = Path(path)
    if fault := wav_fault(path):
        return f"; {fault}"
    if is_lfs_pointer(path):
        return "; this is a Git LFS pointer, get the file by `git lfs pull`"
    if path.suffix.lower() in OTHER_SUFFIXES:
        return f"; {conversion(path)}"
    return ""


def conversion(path):
    """Say how to make a WAV file of another program's audio.

    Example
    -------
    >>> conversion(Path("my talk.m4a"))
    "convert it first: ffmpeg -i 'my talk.m4a' 'my talk.wav'"
    """
    paths = shlex.join((str(path), str(path.with_suffix(".wav"))))
    return f"convert it first: ffmpeg -i {paths}"


def open_audio(path):
    """Open a file, or a member of a shard (``x.tar#1024-2047``), to read.

    Returns
    -------
    soundfile.SoundFile
        With at least one sample.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not audio or has no samples.
    """
    member = MEMBER.fullmatch(str(path))
    name = member[1] if member else path
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: there is no such file")
    source = for_soundfile(path)
    if member:
        first, last = int(member[2]), int(member[3])
        with open(name, "rb") as shard:
            shard.seek(first)
            source = io.BytesIO(shard.read(last - first + 1))
    try:
        file = sf.SoundFile(source)
    except (sf.LibsndfileError, RuntimeError) as error:
        raise ValueError(
            f"{path}: expected audio that soundfile can read ({error})"
            f"{_remedy(name)}"
        ) from error
    if file.frames == 0:
        file.close()
        raise ValueError(f"{path}: the file has no samples{_remedy(name)}")
    return file


def audio_info(path):
    """Return frames, samplerate and channels of a file; see open_audio."""
    with open_audio(path) as file:
        return file


def read_audio(path, start=0, frames=-1, sample_rate=16000):
    """Read a file, or a part of it, as one channel at a given rate.

    Arguments
    ---------
    path : str
        Audio file of any rate; several channels are averaged.
    start : int
        First sample, counted at ``sample_rate``.
    frames : int
        Samples to read, counted at ``sample_rate``; -1 reads to the end.
        Fewer are returned where the file ends before.
    sample_rate : int
        Rate of the result, in Hz.

    Returns
    -------
    numpy.ndarray
        Samples (L,), float64.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not audio, is empty, ends before ``start`` or has samples
        that are not finite.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_audio(f"{folder}/a.wav", np.zeros(4800), 48000)
    ...     signal = read_audio(f"{folder}/a.wav")
    >>> signal.shape
    (1600,)
    """
    with open_audio(path) as file:
        rate = file.samplerate
        ratio = rate / sample_rate
        first = round(start * ratio)
        if not 0 <= first < file.frames:
            raise ValueError(
                f"{path}: start is {start}, expected 0 to "
                f"{int(file.frames / ratio) - 1} (samples at {sample_rate} Hz)"
            )
        try:
            if first:
                file.seek(first)
            count = -1 if frames < 0 else round(frames * ratio)
            signal = file.read(count, always_2d=True)
        except (sf.LibsndfileError, RuntimeError) as error:
            raise ValueError(f"{path}: reading failed ({error})") from error
    signal = signal.mean(axis=1)
    if not np.all(np.isfinite(signal)):
        raise ValueError(
            f"{path}: samples are not finite (NaN or infinity), expected "
            "audio; repair or remove the file"
        )
    if rate != sample_rate:
        signal = soxr.resample(signal, rate, sample_rate)
    return signal if frames < 0 else signal[:frames]


def write_audio(path, signal, sample_rate=16000):
    """Write a 16-bit WAV under a temporary name, then rename it.

    Arguments
    ---------
    path : str
        File to write; its folder must exist.
    signal : numpy.ndarray
        Samples (L,), within [-1, 1].
    sample_rate : int
        In Hz.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        sf.write(temporary, signal, sample_rate, subtype="PCM_16", format="WAV")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path):
    """Return a new name in the folder of a file, to write it under.

    It is of this call alone and short, however long the name of the file is.
    """
    return Path(path).with_name(f".{uuid.uuid4().hex}.tmp")


def for_soundfile(path):
    """Return a path that soundfile takes, also one that is no UTF-8."""
    try:
        return str(path) if str(path).encode() else path
    except UnicodeEncodeError:  # a name of bytes, with surrogates
        return os.fsencode(path)


def write_text(path, text):
    """Write a text file under a temporary name, then rename it."""
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def recordings_root(source):
    """Return the folder that a collection's paths are relative to.

    Arguments
    ---------
    source : str
        A manifest csv or a folder.

    Returns
    -------
    pathlib.Path
        The csv's folder, or the folder itself.

    Raises
    ------
    FileNotFoundError
        If there is neither such a file nor such a folder.
    """
    source = Path(source)
    if source.is_dir():
        return source
    if source.is_file():
        return source.parent
    raise FileNotFoundError(
        f"{source}: there is no such file or folder, expected a manifest.csv "
        "or a folder with speech/ and noise/ in it"
    )


def read_recordings(source, split=None, kind=None, fractions=(0.8, 0.1, 0.1)):
    """List the recordings of a manifest or of a folder.

    In a folder, the kind of a file is the first folder on its way named
    ``speech`` or ``noise``; its speaker (or noise type) is the folder it lies
    in, or, when that is one of the named folders itself, its file name up to
    the first underscore. Its split is the folder on its way named ``train``,
    ``valid`` or ``test``; without one, a hash of the speaker chooses it, so
    that no speaker is in two splits and new files move no old ones.

    Arguments
    ---------
    source : str
        Path of a manifest csv, or of a folder.
    split : str, optional
        Only this split: "train", "valid" or "test".
    kind : str, optional
        Only this kind: "speech", "noise" or "rir".
    fractions : tuple of float
        Shares of the speakers in train, valid and test, for a folder
        without folders of these names.

    Returns
    -------
    list of Recording
        Sorted by path.

    Raises
    ------
    FileNotFoundError
        If the source is missing.
    ValueError
        If files are missing or unreadable (one error for all of them), the
        manifest has a wrong column or value, or nothing is left.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     os.makedirs(f"{folder}/speech/train/anna")
    ...     path = f"{folder}/speech/train/anna/1.wav"
    ...     write_audio(path, np.zeros(8000), 16000)
    ...     found = read_recordings(folder, split="train")
    >>> found[0].speaker, found[0].seconds
    ('anna', 0.5)
    """
    _check_choice("split", split, SPLITS)
    _check_choice("kind", kind, KINDS)
    root = recordings_root(source)
    if Path(source).is_dir():
        rows = _folder_rows(root, fractions)
    else:
        rows = _manifest_rows(source)
    rows = [
        row
        for row in rows
        if split in (None, row["split"]) and kind in (None, row["kind"])
    ]
    if not rows:
        wanted = " ".join(word for word in (split, kind) if word)
        raise ValueError(
            f"{source}: no {wanted or 'audio'} recordings found, expected at "
            "least one; see the columns or folders that read_recordings takes"
        )
    return _measure(root, sorted(rows, key=lambda row: row["path"]), source)


def _check_choice(name, value, choices):
    if value is not None and value not in choices:
        raise ValueError(
            f"{name} is {value!r}, expected one of {', '.join(choices)}"
        )


def _measure(root, rows, source):
    """Open every file for its duration; one error for all bad ones.

    Manifests that say how many frames there are at which rate are believed:
    to open a hundred thousand files at every start takes minutes.
    """
    recordings, problems = [], []
    for row in rows:
        path = str(root / row["path"])
        try:
            seconds = _seconds(path, row)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        recordings.append(
            Recording(
                path=path,
                kind=row["kind"],
                speaker=row["speaker"],
                split=row["split"],
                seconds=seconds,
                licence=row.get("licence") or "",
                source=row.get("source") or "",
            )
        )
    raise_problems(f"{source}: missing or unreadable recordings", problems)
    return recordings


def _seconds(path, row):
    if row.get("frames") and row.get("sample_rate"):
        return int(row["frames"]) / int(row["sample_rate"])
    info = audio_info(path)
    return info.frames / info.samplerate


def _manifest_rows(source):
    with io.StringIO(read_text(source), newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise ValueError(
                f"{source}: the columns {', '.join(missing)} are missing, "
                f"expected {', '.join(COLUMNS)}, given {', '.join(columns)}"
            )
        rows = list(reader)
    problems = []
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


def _folder_rows(root, fractions):
    if len(fractions) != len(SPLITS) or min(fractions) < 0:
        raise ValueError(
            f"fractions are {fractions}, expected three numbers of 0 or more "
            "for train, valid and test"
        )
    rows = []
    for path in root.rglob("*"):
        folders = path.relative_to(root).parts[:-1]
        kind = next((name for name in folders if name in KINDS), None)
        hidden = path.name.startswith(".")
        if kind is None or hidden or path.suffix.lower() not in AUDIO_SUFFIXES:
            continue
        named = folders[-1] not in KINDS + SPLITS
        speaker = folders[-1] if named else path.stem.split("_")[0]
        split = next((name for name in folders if name in SPLITS), None)
        rows.append(
            {
                "path": path.relative_to(root).as_posix(),
                "kind": kind,
                "speaker": speaker,
                "split": split or _hashed_split(kind, speaker, fractions),
            }
        )
    return rows


def _hashed_split(kind, speaker, fractions):
    digest = hashlib.sha256(f"{kind}/{speaker}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64 * sum(fractions)
    for name, edge in zip(SPLITS, np.cumsum(fractions), strict=True):
        if point < edge:
            return name
    return SPLITS[0]
