"""What libsndfile does not say of a file that is cut off or odd."""

import mmap
import shlex
import struct
from pathlib import Path

import numpy as np
from mutagen import MutagenError
from mutagen.flac import FLAC
from mutagen.ogg import OggPage

UNKNOWN = 0xFFFFFFFF  # the size that programs write into a pipe
UNKNOWN_OF_SOX = range(0x7F000000, 0x80000000)  # by format
# Containers of soundfile whose length is compared with what they say.
CHECKED = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
# Those that begin with eight bytes which samples are not.
SIGNED = ("FLAC", "OGG", "RF64")
# Chunks of WAV: of the format, fillers, tags that are copied as such.
COPIED = (
    b"fmt |data|fact|ds64|PEAK|LIST|JUNK|junk|PAD |FLLR|id3 |ID3 |"
    b"INAM|ICOP|ISFT|IART|ICMT|ICRD|IPRD|ITRK|IGNR"
).split(b"|")


def _chunks(path):
    """Yield (name, first byte, bytes promised) of the chunks of a WAV file.

    Those in LIST INFO are among them; of other files there are none.
    """
    with open(path, "rb") as file:
        riff = file.read(12)
        if riff[:4] not in (b"RIFF", b"RF64", b"RIFX") or riff[8:] != b"WAVE":
            return
        order, long = ">" if riff[:4] == b"RIFX" else "<", None
        while len(head := file.read(8)) == 8:
            name, promised = struct.unpack(f"{order}4sI", head)
            begin = file.tell()
            if not (name.isascii() and name.decode().isprintable()):
                return  # samples, not a chunk
            if name == b"ds64":  # of RF64: sizes of 64 bits
                (long,) = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))
            if name == b"data":
                promised = promised if long is None else long
            yield name, begin, promised
            inside = name == b"LIST" and file.read(4) == b"INFO"
            file.seek(begin + (4 if inside else promised + promised % 2))


def _data_chunks(path):
    """List the bytes promised and those there of the data chunks of a WAV file.

    The latter are those up to the end, unless whole chunks fill what follows.
    """
    found, end = [], Path(path).stat().st_size
    for name, begin, promised in _chunks(path):
        if name == b"data":
            found.append((promised, end - begin))
        place = begin + promised + promised % 2
        if found and place in (end, end + promised % 2):
            found[-1] = (found[-1][0], min(found[-1]))
    return found


def rare_chunks(path):
    """List the names of chunks of a WAV file that soundfile does not copy."""
    names = dict.fromkeys(name for name, *_ in _chunks(path))
    return [name.decode().strip() for name in names if name not in COPIED]


def wav_fault(path):
    """Say why a WAV file cannot be read as it is, "" if nothing is known."""
    chunks = _data_chunks(path)
    if len(chunks) > 1:
        why = f"it has {len(chunks)} data chunks, expected one"
    elif chunks and chunks[0][0] == 0 and chunks[0][1] > 0:
        why = (
            f"its header promises no samples, but {chunks[0][1]} bytes "
            "follow: the recording was not finished"
        )
    else:
        return ""
    return f"{why}; {mending(path)}"


def mending(path):
    """Say how to write a file anew with a right header."""
    path = Path(path)
    mended = path.with_name(f"{path.stem}_mended.wav")
    return f"mend it: {shlex.join(('ffmpeg', '-i', str(path), str(mended)))}"


def promised_frames(path, frames, container):
    """Return the samples that the header of a file promises.

    ``frames`` can be read. It is exact for WAV, but within some samples where
    these come in blocks; None if nothing is said, or nobody looks.
    """
    if container not in CHECKED:
        return None
    promised, there = (_data_chunks(path) or [(0, 0)])[-1]
    if promised == UNKNOWN or promised in UNKNOWN_OF_SOX:
        return None if promised > there else frames
    if not promised > there > 0:
        return frames
    return -(-frames * promised // there)  # rounded up: one sample may lack


def check_single(path, container):
    """Refuse damaged Ogg, and joined files: their first bytes come again."""
    if container not in SIGNED:
        return
    with open(path, "rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with whole as content:
            place = content.find(content[:8], 8)
    if place >= 0:
        raise ValueError(
            f"{path}: another file begins at byte {place} of it, expected one; "
            f"cut it there, or {mending(path)}"
        )
    lacks_end(path)


def lacks_end(path):
    """Tell whether an Ogg file stops in its last page; refuse a damaged one."""
    page = None
    with open(path, "rb") as file:
        while True:
            place, before = file.tell(), page
            try:
                page = OggPage(file)
                file.seek(place)
                whole = file.read(page.size) == page.write()  # with its CRC
            except (EOFError, MutagenError):
                # of another format, after the end, or cut off
                if before is None or before.last or not file.read(1):
                    return before is not None and not before.last
                whole = False
            if not whole:
                raise ValueError(
                    f"{path}: is damaged at byte {place}, and what follows may "
                    f"not be read; get it again, or {mending(path)}"
                )


def flac_samples(block, bits):
    """Return the bytes that float32 samples (n, channels) of a FLAC were."""
    block = np.ascontiguousarray(block * 2.0 ** (bits - 1))
    samples = block.astype("<i4").view(np.uint8).reshape(-1, 4)
    return samples[:, : bits // 8].tobytes()


def flac_checksum(path):
    """Return the MD5 of the samples of a FLAC (RFC 9639), 0 if none is told.

    libsndfile decodes as many as the header says, and does not compare.
    """
    try:
        return FLAC(path).info.md5_signature
    except MutagenError:
        return 0
