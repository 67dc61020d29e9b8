"""Where training crops come from: recordings mixed on the fly, or pairs.

A source has ``len(source)`` (its files) and
``source.draw(index, length, rng) -> (name, clean, noise)``. Speech and noise
are returned apart, so that the caller sets level and SNR. It may also have
``source.order(rng)``: the order of one pass over the files.
"""

import json

import numpy as np

from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.augment import (
    babble,
    change_speed,
    clatter,
    random_filter,
    random_room,
)
from dbtransform_lobes.data.mixing import rms, scale_to_dbfs, wrap_noise
from dbtransform_lobes.data.recordings import read_recordings
from dbtransform_lobes.data.shards import shard_order

ATTEMPTS = 8
# A crop whose level is below this is a pause: drawn again.
PAUSE_DBFS = -50.0


def _of_sources(speech, sources):
    if sources is None:
        return speech
    found = {voice.source for voice in speech}
    unknown = sorted(set(sources) - found)
    if unknown or not sources:
        raise ValueError(
            f"sources of speech are {', '.join(unknown) or 'none'}, expected "
            f"some of {', '.join(sorted(found))}"
        )
    return [voice for voice in speech if voice.source in sources]


def is_pause(signal):
    """Whether a crop of a signal levelled to -26 dBFS holds no sound."""
    return rms(signal) < 10 ** (PAUSE_DBFS / 20)


class Recordings:
    """Speech and noise recordings, mixed anew in every example.

    The utterance of an index is used unless only a pause of it is met; half
    of the crops hold another one of the same speaker after it. Noise is one
    or two recordings (a type first, then a file, so that rare types are
    heard), babble of training speakers, or clatter made of noise fragments;
    with random speed, filters and rooms.

    Arguments
    ---------
    recordings : str
        A manifest or folder, see ``read_recordings``.
    split : str
        Split that is read.
    sample_rate : int
        In Hz.
    sources : list of str | None
        Only speech of these sources (for DNS: languages); None takes all.
    babble, clatter : float
        Probabilities of these kinds of noise; recorded noise otherwise.
    second_noise : float
        Probability that another noise is added.
    speech_filter, noise_filter, room : float
        Probabilities of a random filter on the speech (on the target as
        well), on the noise, and of a room around the noise.
    """

    def __init__(
        self,
        recordings,
        split="train",
        sample_rate=16000,
        sources=None,
        babble=0.2,
        clatter=0.2,
        second_noise=0.4,
        speech_filter=0.3,
        noise_filter=0.7,
        room=0.3,
    ):
        self.sample_rate = sample_rate
        self.babble, self.clatter = babble, clatter
        self.second_noise, self.room = second_noise, room
        self.speech_filter, self.noise_filter = speech_filter, noise_filter
        speech = read_recordings(recordings, split=split, kind="speech")
        self.speech = _of_sources(speech, sources)
        self.noise = {}
        for noise in read_recordings(recordings, split=split, kind="noise"):
            self.noise.setdefault(noise.speaker, []).append(noise)
        self.noise_types = sorted(self.noise)
        self.voices = {}
        for voice in self.speech:
            self.voices.setdefault(voice.speaker, []).append(voice)

    def __len__(self):
        return len(self.speech)

    def order(self, rng):
        """Order of one pass over the speech; spreads shards over ranks."""
        return shard_order([voice.path for voice in self.speech], rng)

    def draw(self, index, length, rng):
        """Return (name, clean (length,), noise (length,)); see the module."""
        name, clean = self._speech(index, length, rng)
        noise = self._any_noise(name, length, rng)
        if rng.random() < self.second_noise:
            second = self._any_noise(name, length, rng)
            noise = noise + second * 10 ** (rng.uniform(-15, 0) / 20)
        return name, clean, noise

    def _piece(self, recording, length, rng, speed=1.0):
        """A random part of a recording that is not a pause, levelled."""
        wanted = int(length * speed) + 2
        total = int(recording.seconds * self.sample_rate)
        piece = None
        for _ in range(ATTEMPTS):
            start = int(rng.integers(max(total - wanted, 0) + 1))
            piece = read_audio(recording.path, start, wanted, self.sample_rate)
            if speed != 1.0:
                piece = change_speed(piece, speed)
            if rms(piece) > 0:
                break
        else:
            return np.zeros(length)
        return scale_to_dbfs(piece)[:length]

    def _speech(self, index, length, rng):
        for attempt in range(ATTEMPTS):
            if attempt:
                index = rng.integers(len(self.speech))
            first = self.speech[index]
            speed = rng.uniform(0.9, 1.1)
            clean = self._piece(first, length, rng, speed)
            if len(clean) < length or rng.random() < 0.5:
                clean = self._append(clean, first, length, rng, speed)
            if not is_pause(clean):
                break
        if rng.random() < self.speech_filter:
            clean = random_filter(clean, rng, max_db=6.0)
        return first.path, clean

    def _append(self, clean, first, length, rng, speed):
        """Join another utterance of the same speaker after a cut or pause."""
        others = self.voices[first.speaker]
        cut = int(rng.uniform(0.3, 0.7) * length)
        pause = np.zeros(int(rng.uniform(0.0, 0.3) * self.sample_rate))
        parts = [clean[:cut], pause]
        while sum(map(len, parts)) < length:
            other = others[rng.integers(len(others))]
            parts.append(self._piece(other, length, rng, speed))
        return np.concatenate(parts)[:length]

    def _any_noise(self, name, length, rng):
        kind = rng.random()
        if kind < self.babble:
            noise = self._babble(name, length, rng)
        elif kind < self.babble + self.clatter:
            noise = self._clatter(length, rng)
        else:
            noise = self._recorded(length, rng)
        if rng.random() < self.noise_filter:
            noise = random_filter(noise, rng)
        if rng.random() < self.room:
            noise = random_room(noise, rng)
        return scale_to_dbfs(noise) if rms(noise) > 0 else noise

    def _noise_file(self, rng):
        kind = self.noise_types[rng.integers(len(self.noise_types))]
        return self.noise[kind][rng.integers(len(self.noise[kind]))]

    def _recorded(self, length, rng):
        speed = np.exp(rng.uniform(np.log(0.7), np.log(1.4)))
        piece = self._piece(self._noise_file(rng), length, rng, speed)
        return wrap_noise(piece, int(rng.integers(len(piece))), length)

    def _babble(self, name, length, rng):
        voices = []
        for _ in range(rng.integers(4, 11)):
            voice = self.speech[rng.integers(len(self.speech))]
            if voice.path == name:
                continue
            piece = self._piece(voice, length, rng, rng.uniform(0.85, 1.15))
            voices.append(
                wrap_noise(piece, int(rng.integers(len(piece))), length)
            )
        return babble(voices, rng) if voices else self._recorded(length, rng)

    def _clatter(self, length, rng):
        fragments = []
        for _ in range(4):
            size = int(rng.uniform(0.02, 0.2) * self.sample_rate)
            piece = self._piece(self._noise_file(rng), size, rng)
            if rms(piece) > 0:
                fragments.append(piece)
        if not fragments:
            return self._recorded(length, rng)
        return clatter(fragments, length, rng, self.sample_rate)


class Pairs:
    """Noisy and clean files of a manifest, as VoiceBank-DEMAND has them.

    Arguments
    ---------
    manifest : str
        JSON {id: {"noisy_wav", "clean_wav", "length"}}.
    data_root : str
        Replaces ``{data_root}`` in the paths.
    sample_rate : int
        In Hz.
    """

    def __init__(self, manifest, data_root, sample_rate=16000):
        with open(manifest, encoding="utf-8") as file:
            entries = json.load(file)
        self.sample_rate = sample_rate
        self.items = [
            (
                name,
                entry["noisy_wav"].replace("{data_root}", str(data_root)),
                entry["clean_wav"].replace("{data_root}", str(data_root)),
                int(entry["length"] * sample_rate),
            )
            for name, entry in sorted(entries.items())
        ]

    def __len__(self):
        return len(self.items)

    def draw(self, index, length, rng):
        """Return (name, clean (length,), noise (length,)); see the module."""
        name, noisy_path, clean_path, total = self.items[index]
        for _ in range(ATTEMPTS):
            start = int(rng.integers(max(total - length, 0) + 1))
            clean = read_audio(clean_path, start, length, self.sample_rate)
            if rms(clean) > 0 and not is_pause(clean):
                break
        noisy = read_audio(noisy_path, start, length, self.sample_rate)
        pad = (0, length - len(clean))
        return name, np.pad(clean, pad), np.pad(noisy - clean, pad)
