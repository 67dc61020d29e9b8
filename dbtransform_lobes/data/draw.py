"""Draws the mixtures of a data set at random, and tries each of them."""

import itertools
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dbtransform_lobes.data.files import collect, raise_problems
from dbtransform_lobes.data.mixing import rms, wrap_noise
from dbtransform_lobes.data.mixtures import Mixture, render, safe_name
from dbtransform_lobes.data.recordings import SPLITS

BABBLE_TALKERS = (4, 10)
MIN_OTHER_SPEAKERS = 3
# A noise excerpt this much below its recording is drawn again: scaling a gap
# between two barks to 0 dB SNR would blow up the recorder's hiss.
MAX_DROP_DB = 30.0
MAX_DRAWS = 50


def relative_path(path, root):
    """Return a path relative to a folder, with slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def draw_mixtures(available, root, arguments, read):
    """Plan and try every mixture of every split."""
    lengths = (
        arguments["hours"],
        arguments["valid_hours"],
        arguments["test_hours"],
    )
    mixtures, problems = [], []
    for split, hours in zip(SPLITS, lengths, strict=True):
        if hours:
            drawer = collect(
                problems, _Drawer, available, root, split, arguments
            )
            if drawer:
                mixtures += drawer.draw(hours, read, problems)
    raise_problems("the recordings cannot be mixed", problems)
    return mixtures


class _Drawer:
    """Draws the mixtures of one split."""

    def __init__(self, available, root, split, arguments):
        self.root = root
        self.split = split
        self.seed = arguments["seed"]
        self.babble = arguments["babble"]
        test = split == "test"
        self.snrs = arguments["test_snrs" if test else "snrs"]
        members = [r for r in available if r.split == split]
        self.speech = [r for r in members if r.kind == "speech"]
        self.noises = [r for r in members if r.kind == "noise"]
        seconds = np.array([item.seconds for item in self.noises])
        self.shares = seconds / np.sum(seconds)
        self.talkers = {}
        for item in self.speech:
            self.talkers.setdefault(item.speaker, []).append(item)
        self._check()

    def _check(self):
        option = "--hours" if self.split == "train" else f"--{self.split}_hours"
        if not self.speech or (not self.noises and self.babble < 1):
            raise ValueError(
                f"split {self.split} has {len(self.speech)} speech and "
                f"{len(self.noises)} noise recordings, expected at least one "
                f"of each; add recordings or give {option} 0"
            )
        if self.babble and len(self.talkers) <= MIN_OTHER_SPEAKERS:
            raise ValueError(
                f"split {self.split} has {len(self.talkers)} speakers, "
                f"expected {MIN_OTHER_SPEAKERS + 1} or more for babble; add "
                "speakers or give --babble 0"
            )

    def draw(self, hours, read, problems):
        """Draw and try mixtures until they fill the hours."""
        mixtures, seconds, index = [], 0.0, 0
        speeches = self._speech()
        with tqdm(desc=f"planning {self.split}", unit="file") as bar:
            while seconds < hours * 3600:
                speech = next(speeches)
                item = collect(problems, self._item, index, speech, read)
                if item:
                    collect(problems, render, item, read)
                    mixtures.append(item)
                seconds += speech.seconds
                index += 1
                bar.update()
        return mixtures

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
        paths = [relative_path(item.path, self.root) for item in sources]
        length = len(read(relative_path(speech.path, self.root)))
        offsets = [draw_offset(rng, read(path), length) for path in paths]
        return Mixture(
            file=f"{safe_name(speech.speaker)}_{index:03d}.wav",
            split=self.split,
            speech=relative_path(speech.path, self.root),
            noise=tuple(paths),
            offset=tuple(offsets),
            snr_db=snr,
            seed=" ".join(map(str, seed)),
        )

    def _others(self, rng, speaker):
        """Utterances of 4 to 10 other talkers; a talker serves again only
        where there are too few."""
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
