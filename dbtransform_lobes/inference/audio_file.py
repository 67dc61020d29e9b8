"""Audio files as a whole: samples, sample format and tags."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from dbtransform_lobes.data.recordings import AUDIO_SUFFIXES, audio_info
from dbtransform_lobes.inference.id3 import id3_block

TAGS = (
    "title",
    "copyright",
    "software",
    "artist",
    "comment",
    "date",
    "album",
    "license",
    "tracknumber",
    "genre",
)
# Containers of a suffix; the first one is written unless the input has
# another of them.
CONTAINERS = {
    ".wav": ("WAV", "WAVEX", "RF64", "W64"),
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".mp3": ("MP3",),
}
# Long single writes crash libsndfile's Vorbis encoder; and a header may
# promise more than there is memory for.
SAMPLES_AT_ONCE = 65536


@dataclass(frozen=True)
class AudioFile:
    """A file that was read.

    Arguments
    ---------
    signal : numpy.ndarray
        (L, channels), float32.
    sample_rate : int
        In Hz.
    container, subtype : str
        soundfile's names, such as WAV and PCM_16.
    tags : dict
        Title, artist and so on, those that are there.
    """

    signal: np.ndarray
    sample_rate: int
    container: str
    subtype: str
    tags: dict


def read_file(path):
    """Read a file as far as it goes.

    Arguments
    ---------
    path : str
        A file that soundfile can read. If it ends before its header says,
        there is a warning.

    Returns
    -------
    AudioFile

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no audio, is empty or damaged, or has samples that are not
        finite.
    """
    info = audio_info(path)
    blocks = []
    try:
        with sf.SoundFile(str(path)) as file:
            tags = {tag: getattr(file, tag) for tag in TAGS}
            size = max(1, SAMPLES_AT_ONCE // file.channels)
            while len(block := file.read(size, "float32", always_2d=True)):
                blocks.append(block)
    except (sf.LibsndfileError, RuntimeError) as error:
        raise ValueError(
            f"{path}: reading failed ({_reason(error)}), the file is cut off "
            "or damaged; get it again"
        ) from error
    if not blocks:
        raise ValueError(
            f"{path}: no samples can be read, the file is cut off or damaged; "
            "get it again"
        )
    signal = np.concatenate(blocks)
    if not np.isfinite(signal).all():
        raise ValueError(
            f"{path}: samples are not finite (NaN or infinity), expected "
            "audio; repair or remove the file"
        )
    if len(signal) < info.frames:
        warnings.warn(
            f"{path}: ends after {len(signal)} of the {info.frames} samples "
            "that its header says; taken as far as it goes",
            stacklevel=2,
        )
    tags = {tag: text for tag, text in tags.items() if text}
    return AudioFile(signal, info.samplerate, info.format, info.subtype, tags)


def check_output(path, output):
    """Refuse an output that cannot be written, or would replace the input.

    Arguments
    ---------
    path, output : str
        What is read and what is to be written.

    Raises
    ------
    FileNotFoundError
        If the folder of the output is missing.
    ValueError
        If the output has another suffix, is a folder or is the input.
    """
    output = Path(output)
    if output.suffix.lower() not in AUDIO_SUFFIXES:
        raise ValueError(
            f"{output}: the suffix is {output.suffix!r}, expected one of "
            f"{', '.join(AUDIO_SUFFIXES)}"
        )
    if not output.parent.is_dir():
        raise FileNotFoundError(
            f"{output.parent}: there is no such folder; make it first"
        )
    if output.is_dir():
        raise ValueError(f"{output}: is a folder, expected a file to write")
    if output.exists() and os.path.samefile(path, output):
        raise ValueError(
            f"{output}: the output is the input; give another file"
        )


def write_file(path, audio):
    """Write a file under a temporary name, then rename it.

    Arguments
    ---------
    path : str
        Its suffix gives the container; the sample format is that of the
        audio if the container has it. Samples beyond full scale are clipped
        but in floating-point formats.
    audio : AudioFile
        What to write.

    Raises
    ------
    ValueError
        If the container cannot hold it, the folder cannot be written or the
        disk is full; there is no file then, or the old one.

    Example
    -------
    >>> import tempfile
    >>> audio = AudioFile(np.zeros((9, 2)), 8000, "WAV", "PCM_U8", {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(f"{folder}/a.flac", audio)
    ...     sf.info(f"{folder}/a.flac").subtype
    'PCM_S8'
    """
    path = Path(path)
    containers = CONTAINERS[path.suffix.lower()]
    known = audio.container in containers
    container = audio.container if known else containers[0]
    subtype = _subtype(container, audio)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _encode(temporary, audio, container, subtype)
        _check_written(temporary, len(audio.signal))
        os.replace(temporary, path)
    except (sf.LibsndfileError, OSError) as error:
        raise ValueError(
            f"{path}: writing failed ({_reason(error)}): {container} {subtype} "
            f"of {audio.signal.shape[1]} channels at {audio.sample_rate} Hz; "
            "check the folder, the room on the disk, and whether the format "
            "can hold this"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _encode(path, audio, container, subtype):
    """Write samples and tags."""
    layout = (audio.sample_rate, audio.signal.shape[1], subtype)
    by_id3 = container == "MP3"
    with sf.SoundFile(path, "w", *layout, format=container) as file:
        for tag, text in () if by_id3 else audio.tags.items():
            setattr(file, tag, text)
        size = max(1, SAMPLES_AT_ONCE // file.channels)
        for start in range(0, len(audio.signal), size):
            block = audio.signal[start : start + size]
            if subtype not in ("FLOAT", "DOUBLE"):
                block = block.clip(-1, 1)  # LAME aborts far beyond
            file.write(block)
    if by_id3 and audio.tags:
        path.write_bytes(id3_block(audio.tags) + path.read_bytes())


def _subtype(container, audio):
    """The sample format itself, or the nearest that the container has."""
    eight_bits = {"PCM_U8": "PCM_S8", "PCM_S8": "PCM_U8"}
    plain = audio.subtype.startswith(("PCM", "FLOAT", "DOUBLE"))
    for subtype in (audio.subtype, eight_bits.get(audio.subtype)):
        # libsndfile takes a codec of one container in another, and fails
        if (plain or container == audio.container) and sf.check_format(
            container, subtype or "no"
        ):
            return subtype
    return sf.default_subtype(container)


def _check_written(path, frames):
    """Notice what a full disk cut off without an error."""
    written = sf.info(path).frames
    if written != frames:
        raise OSError(f"{written} of {frames} samples were written")


def _reason(error):
    return str(error).strip().rstrip(".:") or type(error).__name__
