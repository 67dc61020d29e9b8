"""Length of MPEG audio, counted frame by frame.

Where the header of an MP3 tells no length (written into a pipe) or that of
the first of two files joined, libsndfile guesses and stops there, silently.
"""

import os
import threading
from contextlib import contextmanager
from itertools import islice

# Kilobits a second by version (1, or 2 and 2.5) and layer, index 1 to 14.
BITRATES = {
    (1, 1): range(32, 449, 32),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
BITRATES[2, 3] = BITRATES[2, 2]
RATES = (44100, 48000, 32000)
DIVISORS = {3: 1, 2: 2, 0: 4}  # of the rates, by the bits of the version
# Samples that a decoder leaves out at the start and the end, as the header
# says, are fewer than this.
MARGIN = 8000


def frames_of(data):
    """Yield (first byte, bytes, samples) of each MPEG frame of a file."""
    place = _after_id3(data)
    while 0 <= (place := data.find(b"\xff", place)) <= len(data) - 4:
        size, samples = _frame(data, place)
        if not size:
            place += 1
            continue
        yield place, size, samples
        place += size


def begins_with_frames(data):
    """Whether two frames follow each other from the first byte on."""
    frames = list(islice(frames_of(data), 2))
    return len(frames) == 2 and frames[0][0] == 0 == frames[1][0] - frames[0][1]


def _after_id3(data):
    if data[:3] != b"ID3":
        return 0
    a, b, c, d = data[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def _frame(data, place):
    """Bytes and samples of the frame at a place; 0 if there is none."""
    _, second, third, _ = data[place : place + 4]
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    bitrate, rate = third >> 4, third >> 2 & 3
    if second < 0xE0 or version == 1 or layer == 4 or rate == 3:
        return 0, 0
    if not 0 < bitrate < 15:
        return 0, 0
    old = version != 3
    kilobits = BITRATES[2 if old else 1, layer][bitrate - 1]
    hertz = RATES[rate] // DIVISORS[version]
    samples = {1: 384, 2: 1152, 3: 576 if old else 1152}[layer]
    slot = 4 if layer == 1 else 1
    slots = samples // 8 * 1000 * kilobits // hertz // slot
    return slot * (slots + (third >> 1 & 1)), samples


def true_length(path, promised):
    """Return the samples of an MP3, whatever its header promises.

    That is what is promised, also if the file is cut off; or, where its
    frames have far more samples or there is no header, so that libsndfile has
    guessed, at least how many they have.
    """
    with open(path, "rb") as file:
        data = file.read()
    counted = sum(samples for _, _, samples in frames_of(data))
    if _begin(data)[1] and counted <= promised + MARGIN:
        return promised
    return max(0, counted - MARGIN)


def has_header(path):
    """Whether the first frame of an MP3 is a header with its length."""
    with open(path, "rb") as file:
        return _begin(file.read())[1]


def _begin(data):
    """Where audio begins, and whether a frame before it is a header."""
    for place, size, _ in islice(frames_of(data), 1):
        first = data[place : place + size]
        if any(name in first for name in (b"Xing", b"Info", b"VBRI")):
            return place + size, True
        return place, False
    return 0, False


@contextmanager
def without_header(path):
    """Open an MP3 as a pipe that begins after the frame that is its header.

    Then the decoder has no length to stop at. Yields a file descriptor.
    """
    with open(path, "rb") as file:
        data = file.read()
    begin, _ = _begin(data)
    reader, writer = os.pipe()

    def feed():
        """Write the frames into the pipe."""
        with os.fdopen(writer, "wb") as pipe:
            try:
                pipe.write(memoryview(data)[begin:])
            except BrokenPipeError:  # closed before its end
                pass

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        yield reader
    finally:
        os.close(reader)
        thread.join()
