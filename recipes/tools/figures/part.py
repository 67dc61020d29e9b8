"""The part of a recording that is looked at."""

from dataclasses import dataclass

import numpy as np

from dbtransform_lobes.data.audio import audio_info, read_audio
from dbtransform_lobes.inference.signal_path import check_sample_rate

DEFAULT_SECONDS, MOST_SECONDS = 10, 30
# Files of one recording may differ by what a codec adds.
TOLERANCE_SECONDS = 0.1


@dataclass(frozen=True)
class Part:
    """From where to where, of how much, in seconds; and what the file has."""

    start: float
    stop: float
    total: float
    sample_rate: int
    channels: int

    def read(self, path):
        """Read the samples (L,) of a file, channels averaged, float32."""
        first = round(self.start * self.sample_rate)
        count = max(1, round((self.stop - self.start) * self.sample_rate))
        signal = read_audio(path, first, count, self.sample_rate)
        return signal.astype(np.float32)


def find_part(path, seconds=None):
    """Return the part of an audio file, its first 10 s by default.

    Example
    -------
    >>> import tempfile
    >>> from dbtransform_lobes.data.audio import write_audio
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_audio(f"{folder}/a.wav", np.zeros(32000))
    ...     part = find_part(f"{folder}/a.wav", (0.5, 9))
    >>> part.start, part.stop, part.total
    (0.5, 2.0, 2.0)
    """
    info = audio_info(path)
    check_sample_rate(info.samplerate)
    total = info.frames / info.samplerate
    start, stop = seconds or (0.0, DEFAULT_SECONDS)
    if not 0 <= start < min(stop, total):
        raise ValueError(
            f"{path}: seconds {start:g} to {stop:g} were asked for, expected "
            f"a start before the end and within the {total:g} s of the file"
        )
    stop = min(stop, total)
    if stop - start > MOST_SECONDS:
        raise ValueError(
            f"{path}: {stop - start:g} s were asked for, expected at most "
            f"{MOST_SECONDS} s: more is not readable in a figure"
        )
    return Part(start, stop, total, info.samplerate, info.channels)


def check_same_length(path, part):
    """Raise an error if a file, of any rate, is not of the same recording."""
    info = audio_info(path)
    total = info.frames / info.samplerate
    if abs(total - part.total) > TOLERANCE_SECONDS:
        raise ValueError(
            f"{path}: lasts {total:g} s, expected the {part.total:g} s of the "
            "noisy file; give the file of the same recording"
        )
