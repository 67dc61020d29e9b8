"""Mixtures of a data set: drawn at random or read from a csv, and rendered."""

import itertools
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dbtransform_lobes.data import files
from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.levels import mix, rms, scale_to_dbfs, wrap_noise
from dbtransform_lobes.data.recordings import SPLITS, by_speaker

SAMPLE_RATE = 16000
# Several noises (babble) share one csv field, with this between them.
SEPARATOR = "|"
MIXTURE_COLUMNS = "file split speech noise offset snr_db seed".split()
TEST_COLUMNS = "id speech noise noise_offset_s snr_db".split()
BABBLE_TALKERS = (4, 10)
MIN_OTHER_SPEAKERS = 3
# A noise excerpt this much below its recording is drawn again: scaling a gap
# between two barks to 0 dB SNR would blow up the recorder's hiss.
MAX_DROP_DB = 30.0
MAX_DRAWS = 50


@dataclass(frozen=True)
class Mixture:
    """One item of a data set; paths are whole."""

    file: str  # name of the clean and of the noisy file
    split: str  # "train", "valid" or "test"
    speech: str
    noise: tuple  # paths; two or more (babble) are levelled and summed
    offset: tuple  # first sample of every noise, at 16 kHz
    snr_db: float
    seed: str = ""  # that it was drawn from, "" when it was given


def render(mixture, read):
    """Return the clean and the noisy signal (L,) of a mixture, float64.

    ``read`` gives the samples of a path. ValueError if speech or noise is
    silent or unreadable.
    """
    speech = read(mixture.speech)
    parts = [
        wrap_noise(read(path), offset, len(speech))
        for path, offset in zip(mixture.noise, mixture.offset, strict=True)
    ]
    try:
        if len(parts) > 1:
            parts = [scale_to_dbfs(part) for part in parts]
        return mix(speech, sum(parts), mixture.snr_db)
    except ValueError as error:
        names = f"{mixture.speech} with {SEPARATOR.join(mixture.noise)}"
        raise ValueError(f"{mixture.file}: {names}: {error}") from error


def read_test_mixtures(path, root=""):
    """Read a csv of ``TEST_COLUMNS``, a list of Mixture named ``<id>.wav``.

    Its paths are relative to the folder ``root``.
    """
    rows = files.read_table(path, TEST_COLUMNS)
    problems = []
    items = [
        files.collect(problems, _test_mixture, row, Path(root), line=line)
        for line, row in enumerate(rows, start=2)
    ]
    names = Counter(item.file for item in items if item)
    problems += [f"{name}: twice" for name, n in names.items() if n > 1]
    files.raise_problems(f"{path}: wrong rows", problems)
    return items


def _test_mixture(row, root):
    name = row["id"] or ""
    if safe_name(name) != name:
        raise ValueError(
            f"id is {name!r}, expected letters, digits, '-', '_' and '.'"
        )
    offset, snr = float(row["noise_offset_s"]), float(row["snr_db"])
    if not (math.isfinite(offset) and math.isfinite(snr)) or offset < 0:
        raise ValueError(
            f"noise_offset_s is {offset} and snr_db is {snr}, expected "
            "finite numbers and an offset of 0 or more"
        )
    speech, noise = (str(root / row[name]) for name in ("speech", "noise"))
    first = round(offset * SAMPLE_RATE)
    return Mixture(f"{name}.wav", "test", speech, (noise,), (first,), snr)


def mixtures_text(mixtures, root):
    """Return the csv of a plan, its paths relative to a folder."""
    rows = []
    for item in mixtures:
        noise = SEPARATOR.join(relative_path(path, root) for path in item.noise)
        offset = SEPARATOR.join(map(str, item.offset))
        speech = relative_path(item.speech, root)
        own = {"speech": speech, "noise": noise, "offset": offset}
        rows.append({**vars(item), **own})
    return files.table_text(MIXTURE_COLUMNS, rows)


def cached_reader():
    """Return a reader of files that keeps the last 128."""
    return lru_cache(maxsize=128)(partial(read_audio, sample_rate=SAMPLE_RATE))


def safe_name(label):
    """Make a label fit for a file name."""
    return re.sub(r"[^\w.-]+", "-", label).lstrip(".") or "x"


def relative_path(path, root):
    """Return a path relative to a folder, with slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def draw_mixtures(available, arguments):
    """Plan and try every mixture of ``mix_dataset``, a list of Mixture."""
    read = cached_reader()
    mixtures, problems = [], []
    for split, prefix in zip(SPLITS, ("", "valid_", "test_"), strict=True):
        if hours := arguments[f"{prefix}hours"]:
            given = available, split, arguments
            drawer = files.collect(problems, _Drawer, *given)
            if drawer:
                mixtures += drawer.draw(hours, read, problems)
    files.raise_problems("the recordings cannot be mixed", problems)
    return mixtures


class _Drawer:
    """Draws the mixtures of a split from its recordings."""

    def __init__(self, available, split, arguments):
        self.split = split
        self.seed, self.babble = arguments["seed"], arguments["babble"]
        self.snrs = arguments["test_snrs" if split == "test" else "snrs"]
        members = [r for r in available if r.split == split]
        self.speech = [r for r in members if r.kind == "speech"]
        self.noises = [r for r in members if r.kind == "noise"]
        seconds = np.array([item.seconds for item in self.noises])
        self.shares = seconds / np.sum(seconds)
        self.talkers = by_speaker(self.speech)
        option = "--hours" if self.split == "train" else f"--{self.split}_hours"
        if not self.speech or (not self.noises and self.babble < 1):
            raise ValueError(
                f"split {self.split} has {len(self.speech)} speech and "
                f"{len(self.noises)} noise recordings, expected at least one "
                f"of each; add recordings, put some into folders {split}/ (or "
                f"this split into manifest.csv), or give {option} 0"
            )
        if self.babble and len(self.talkers) <= MIN_OTHER_SPEAKERS:
            raise ValueError(
                f"split {self.split} has {len(self.talkers)} speakers, "
                f"expected {MIN_OTHER_SPEAKERS + 1} or more for babble; add "
                "speakers or give --babble 0"
            )

    def draw(self, hours, read, problems):
        """Draw and try mixtures until they fill the hours."""
        mixtures, seconds = [], 0.0
        speeches = tqdm(self._speech(), f"planning {self.split}", unit="file")
        for index, speech in enumerate(speeches):
            if seconds >= hours * 3600:
                return mixtures
            item = files.collect(problems, self._item, index, speech, read)
            if item:
                files.collect(problems, render, item, read)
                mixtures.append(item)
            seconds += speech.seconds

    def _seed(self, index):
        return [self.seed, SPLITS.index(self.split), index]

    def _speech(self):
        """Yield an endless row of shuffled passes over the speech."""
        for turn in itertools.count():
            # The last 1 keeps the stream apart from those of the items.
            rng = np.random.default_rng([*self._seed(turn), 1])
            for place in rng.permutation(len(self.speech)):
                yield self.speech[place]

    def _item(self, index, speech, read):
        seed = self._seed(index)
        rng = np.random.default_rng(seed)
        snr = float(self.snrs[rng.integers(len(self.snrs))])
        if rng.random() < self.babble:
            sources = self._others(rng, speech.speaker)
        else:
            sources = [rng.choice(self.noises, p=self.shares)]
        paths = [item.path for item in sources]
        length = len(read(speech.path))
        offsets = [draw_offset(rng, read(path), length) for path in paths]
        return Mixture(
            file=f"{safe_name(speech.speaker)}_{index:03d}.wav",
            split=self.split,
            speech=speech.path,
            noise=tuple(paths),
            offset=tuple(offsets),
            snr_db=snr,
            seed=" ".join(map(str, seed)),
        )

    def _others(self, rng, speaker):
        """Choose utterances of 4 to 10 others, again where there are fewer."""
        others = [name for name in self.talkers if name != speaker]
        low, high = BABBLE_TALKERS
        count = int(rng.integers(low, high + 1))
        count = max(low, min(count, len(others)))
        order = rng.permutation(len(others))
        talkers = [others[order[k % len(others)]] for k in range(count)]
        return [
            self.talkers[name][rng.integers(len(self.talkers[name]))]
            for name in talkers
        ]


def draw_offset(rng, noise, length):
    """Draw a first sample whose excerpt is not a gap in the recording."""
    floor = rms(noise) * 10 ** (-MAX_DROP_DB / 20)
    offset = 0
    for _ in range(MAX_DRAWS):
        offset = int(rng.integers(len(noise)))
        if rms(wrap_noise(noise, offset, length)) > floor:
            break
    return offset
