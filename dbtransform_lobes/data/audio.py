"""Audio files: finding, reading and writing them."""

import io
import os
import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from dbtransform_lobes.data.files import is_lfs_pointer, replacing
from dbtransform_lobes.data.headers import mending, wav_fault

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
# Audio of other programs; soundfile reads some of it, but writes little.
OTHER_SUFFIXES = tuple(
    ".3gp .8svx .aac .ac3 .adts .aif .aifc .aiff .amr .ape .au .avi .avr .caf "
    ".dsf .dts .flv .gsm .m4a .m4b .m4r .mka .mkv .mov .mp2 .mp4 .mpc .mpeg "
    ".mpg .nist .oga .ogv .opus .ra .sd2 .snd .sph .spx .svx .tta .voc .w64 "
    ".webm .wma .wmv .wv".split()
)
UNKNOWN_FRAMES = 2**62  # libsndfile's for a FLAC that was piped
# A file inside a shard: its first and last byte, as in an HTTP Range header.
MEMBER = re.compile(r"(.+\.tar)#(\d+)-(\d+)")


def _warn_skipped(path, reason):
    warnings.warn(f"skipped: {path}: {reason}", stacklevel=2)


def find_audio(
    folder, suffixes=AUDIO_SUFFIXES, output=None, skipped=_warn_skipped
):
    """List the audio files below a folder, to any depth.

    Hidden files and folders and those of the folder ``output`` are left out.
    So are other audio than that of ``suffixes``, folders that cannot be read
    and links to folders: ``skipped`` is called with their path and the
    reason. The list of pathlib.Path is sorted, links to nothing among them.
    """
    found, output = [], output and Path(output).resolve()

    def unreadable(error):
        """Tell of a folder that is there but cannot be read."""
        if not isinstance(error, FileNotFoundError):
            skipped(error.filename, error.strerror)

    for place, folders, names in os.walk(folder, onerror=unreadable):
        place = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (place / name).resolve() != output
        )
        for name in folders:
            if (place / name).is_symlink():
                skipped(
                    place / name, "a link to a folder; give the folder as well"
                )
        for path in (place / name for name in sorted(names)):
            suffix = path.suffix.lower()
            if path.name.startswith("."):
                continue
            if path.exists() and not path.is_file():
                if suffix in suffixes:
                    skipped(path, "is a pipe or device, expected a file")
            elif suffix in suffixes:
                found.append(path)
            elif suffix in AUDIO_SUFFIXES + OTHER_SUFFIXES or _is_audio(path):
                skipped(path, conversion(path))
    return sorted(found)


def _is_audio(path):
    try:
        return bool(audio_info(path))
    except (ValueError, OSError):
        return False


def _remedy(path):
    """Say what to do about a file that soundfile cannot read, or nothing."""
    path = Path(path)
    if fault := wav_fault(path):
        remedy = fault
    elif is_lfs_pointer(path):
        remedy = "this is a Git LFS pointer, get the file by `git lfs pull`"
    elif path.suffix.lower() in OTHER_SUFFIXES:
        remedy = conversion(path)
    elif path.suffix.lower() in AUDIO_SUFFIXES:
        remedy = f"if other programs play it, {mending(path)}"
    else:
        return ""
    return f"; {remedy}"


def conversion(path):
    """Say how to make a WAV file of another program's audio."""
    paths = shlex.join((str(path), str(path.with_suffix(".wav"))))
    return f"convert it first: ffmpeg -i {paths}"


def for_soundfile(path):
    """Return a path that soundfile takes, also one that is no UTF-8."""
    try:
        return str(path) if str(path).encode() else path
    except UnicodeEncodeError:  # a name of bytes, with surrogates
        return os.fsencode(path)


def check_file(path):
    """Return the match of a member of a shard, and the file, which exists."""
    member = MEMBER.fullmatch(str(path))
    name = member[1] if member else path
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: there is no such file")
    return member, name


def open_audio(path):
    """Open a file, or a member of a shard (``x.tar#1024-2047``), to read."""
    member, name = check_file(path)
    source = for_soundfile(path)
    if member:
        first, last = int(member[2]), int(member[3])
        with open(name, "rb") as shard:
            shard.seek(first)
            source = io.BytesIO(shard.read(last - first + 1))
    try:
        file = sf.SoundFile(source)
    except (RuntimeError, TypeError) as error:  # the latter for .raw
        raise ValueError(
            f"{path}: expected audio that soundfile can read ({error})"
            f"{_remedy(name)}"
        ) from error
    if 0 < file.frames < UNKNOWN_FRAMES:
        return file
    file.close()
    if file.frames:
        raise ValueError(
            f"{path}: its header does not say how long it is; {mending(name)}"
        )
    raise ValueError(f"{path}: the file has no samples{_remedy(name)}")


def audio_info(path):
    """Return frames (one or more), samplerate and channels of a file.

    FileNotFoundError if there is no such file, ValueError if it is not audio
    or has no samples.
    """
    with open_audio(path) as file:
        return file


def read_audio(path, start=0, frames=-1, sample_rate=16000):
    """Read a file, or a part of it, as samples (L,), float64, at a given rate.

    The file has any rate; several channels are averaged. The first sample and
    the ``frames`` to read are counted at ``sample_rate``, in Hz; -1 reads to
    the end, and fewer are returned where the file ends before.
    FileNotFoundError if there is no such file; ValueError if it is not audio,
    is empty, ends before ``start`` or has samples that are not finite.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_audio(f"{folder}/a.wav", np.zeros(4800), 48000)
    ...     read_audio(f"{folder}/a.wav").shape
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
        except RuntimeError as error:
            raise ValueError(f"{path}: reading failed ({error})") from error
    signal = signal.mean(axis=1)
    check_finite(path, signal)
    if rate != sample_rate:
        signal = soxr.resample(signal, rate, sample_rate)
    return signal if frames < 0 else signal[:frames]


def check_finite(path, signal):
    """Refuse samples of a file that are no numbers by a ValueError."""
    if not np.isfinite(signal).all():
        raise ValueError(
            f"{path}: samples are not finite (NaN or infinity), expected "
            "audio; repair or remove the file"
        )


def write_audio(path, signal, sample_rate=16000):
    """Write a 16-bit WAV of samples (L,) within [-1, 1], whole or not at all.

    The folder of the file is made if it is not there.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        file = for_soundfile(temporary)
        sf.write(file, signal, sample_rate, subtype="PCM_16", format="WAV")
