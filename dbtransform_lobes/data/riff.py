"""What libsndfile does not say of a WAV file that is cut off or odd."""

import shlex
import struct
from pathlib import Path

UNKNOWN = 0xFFFFFFFF  # the size that programs write into a pipe


def data_chunks(path):
    """List the data chunks of a WAV file.

    Arguments
    ---------
    path : str
        A file of any kind.

    Returns
    -------
    list of (int, int)
        Bytes that the header of each promises and bytes that follow it in
        the file; empty for other files than WAV and RF64.

    Example
    -------
    >>> data_chunks(__file__)
    []
    """
    found = []
    with open(path, "rb") as file:
        riff = file.read(12)
        if riff[:4] not in (b"RIFF", b"RF64") or riff[8:] != b"WAVE":
            return []
        end, long = Path(path).stat().st_size, None
        while len(head := file.read(8)) == 8:
            name, promised = struct.unpack("<4sI", head)
            begin = file.tell()
            if not (name.isascii() and name.decode().isprintable()):
                break  # samples, not a chunk
            if name == b"ds64":  # of RF64: sizes of 64 bits
                (long,) = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))
            if name == b"data":
                promised = promised if long is None else long
                found.append((promised, end - begin))
            file.seek(begin + promised + promised % 2)
    return found


def wav_fault(path):
    """Say why a WAV file cannot be read as it is, "" if nothing is known.

    Example
    -------
    >>> wav_fault(__file__)
    ''
    """
    chunks = data_chunks(path)
    if len(chunks) > 1:
        why = f"it has {len(chunks)} data chunks, expected one"
    elif chunks and chunks[0][0] == 0 and chunks[0][1] > 0:
        why = (
            f"its header promises no samples, but {chunks[0][1]} bytes "
            "follow: the recording was not finished"
        )
    else:
        return ""
    path = Path(path)
    mended = path.with_name(f"{path.stem}_mended.wav")
    command = shlex.join(("ffmpeg", "-i", str(path), str(mended)))
    return f"{why}; mend it: {command}"


def promised_frames(path, frames):
    """Return the samples that the header of a WAV file promises.

    Arguments
    ---------
    path : str
        A file of any kind.
    frames : int
        Samples that can be read, the answer for other files.

    Returns
    -------
    int
    """
    chunks = data_chunks(path)
    if len(chunks) != 1:
        return frames
    promised, there = chunks[0]
    if promised == UNKNOWN or promised <= there:
        return frames
    return frames * promised // there
