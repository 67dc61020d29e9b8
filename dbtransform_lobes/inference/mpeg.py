"""Length of MPEG audio, counted frame by frame.

Where the header of an MP3 tells no length (written into a pipe) or that of
the first of two files joined, libsndfile guesses and stops there, silently.
"""

import io
import mmap
import os
import shutil
import threading
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice

from mutagen.mp3 import HeaderNotFoundError, MPEGFrame

# Samples that a decoder leaves out at the start and the end, as the header
# says, are fewer than this.
MARGIN = 8000


def frames_of(data):
    """Yield (first byte, bytes, samples) of each MPEG frame of a file."""
    place = 0
    if data[:3] == b"ID3":
        a, b, c, d = data[6:10]
        place = 10 + (a << 21 | b << 14 | c << 7 | d)
    while 0 <= (place := data.find(b"\xff", place)) <= len(data) - 4:
        size, samples = _frame(data[place : place + 4])
        if not size:
            place += 1
            continue
        yield place, size, samples
        place += size


def begins_with_frames(data):
    """Whether two frames follow each other from the first byte on."""
    frames = list(islice(frames_of(data), 2))
    return len(frames) == 2 and frames[0][0] == 0 == frames[1][0] - frames[0][1]


@lru_cache
def _frame(header):
    """Return bytes and samples of the frame of a header; 0 if it is none."""
    try:
        frame = MPEGFrame(io.BytesIO(header))
    except HeaderNotFoundError:
        return 0, 0
    half = frame.layer == 3 and frame.version > 1
    samples = 384 if frame.layer == 1 else 576 if half else 1152
    slot = 4 if frame.layer == 1 else 1
    slots = samples // 8 * frame.bitrate // frame.sample_rate // slot
    return slot * (slots + frame.padding), samples


def true_length(path, promised):
    """Return the samples of an MP3, and where to read from for all of them.

    The latter is None if those promised are all. They are not where frames
    have far more, or without a header, so that libsndfile has guessed: then
    at least how many there are, and the byte behind a header.
    """
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        place, size, _ = next(frames_of(data), (0, 0, 0))
        first = data[place : place + size]
        counted = sum(samples for _, _, samples in frames_of(data))
    header = any(name in first for name in (b"Xing", b"Info", b"VBRI"))
    if header and counted <= promised + MARGIN:
        return promised, None
    return max(0, counted - MARGIN), place + size * header


@contextmanager
def piped(path, begin):
    """Open a file from a byte on as a pipe, a file descriptor.

    Then the decoder has no length to stop at.
    """
    reader, writer = os.pipe()

    def feed():
        """Write the frames into the pipe, until it is closed."""
        with suppress(BrokenPipeError), os.fdopen(writer, "wb") as pipe:
            with open(path, "rb") as file:
                file.seek(begin)
                shutil.copyfileobj(file, pipe)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()
