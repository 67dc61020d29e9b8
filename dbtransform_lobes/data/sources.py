"""Sources of training examples: recordings mixed on the fly, or pairs of files.

A source has ``len(source)`` (its files), ``source.order(rng)``, the files of
one pass, and ``source.draw(index, length, rng) -> (name, clean, noisy)``,
which depends on its arguments alone. It may have ``source.files``, a list of
what of its files decides on the examples, wherever they lie.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
from tqdm import tqdm

from dbtransform_lobes.data import effects, levels
from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.files import read_text
from dbtransform_lobes.data.recordings import (
    KINDS,
    by_speaker,
    read_recordings,
)
from dbtransform_lobes.data.shards import shard_order

ATTEMPTS = 8
# A crop whose level is below this is a pause: drawn again.
PAUSE_DBFS = -50.0
CLEAN_SNR_DB = (25.0, 45.0)
FADE_SECONDS = 0.01


def _is_pause(signal):
    """Tell whether a crop of a signal levelled to -26 dBFS is a pause."""
    return levels.rms(signal) < 10 ** (PAUSE_DBFS / 20)


def _fade(speech, sample_rate):
    """Fade the ends of what was cut: hard ones weigh most in every loss."""
    # Training on hard ends drew a model away from whole recordings.
    return effects.fade_edges(speech, int(FADE_SECONDS * sample_rate))


def _add_noise(speech, noise, snr_db, rng):
    """Add noise at an SNR of a range; as it is for None or beside silence."""
    if snr_db is not None and levels.rms(speech) > 0 and levels.rms(noise) > 0:
        noise = levels.scale_noise_to_snr(speech, noise, rng.uniform(*snr_db))
    return speech + noise


@dataclass
class Recordings:
    """Mix recordings of speech and noise anew in every example.

    The utterance of an index is used unless only a pause of it is met; half of
    the crops hold another one of the same speaker after it. Noise is one or
    two recordings (a type first, then a file, so that rare types are heard),
    babble of other speakers, or clatter made of noise fragments. The mixture
    goes through a channel: band limit and jump of the level (on the target as
    well: a model cannot bring back what is not there), codec and clipping (not
    on it). ValueError if there is no speech or no noise, a source is unknown
    or an option out of range.

    Arguments
    ---------
    recordings : str | list of str
        Manifests or folders, see ``read_recordings``.
    split, sample_rate
        Split that is read; rate in Hz.
    sources : list of str | None
        Only speech of these sources (for DNS: languages); None takes all.
    source_weights : dict | None
        ``{source: weight}`` draws speech in proportion to duration and
        weight (0 or more), 1 where nothing is said; without any all is visited
        once in each pass.
    snr_db : tuple of float | None
        Range of the SNR, in dB, reverberation counted as speech; None keeps
        that of the recordings, levelled.
    clean_share, noise_share : float
        Shares of nearly clean examples (25 to 45 dB) and of those without
        speech. What follows are probabilities.
    babble, clatter : float
        Of these kinds of noise; recorded noise otherwise.
    second_noise : float
        Of another noise, up to 15 dB below the first.
    speed : float
        Of a random speed of a recording, by which it loses its highest
        frequencies: a model that never hears them takes them for noise.
    speech_filter, noise_filter : float
        Of a random filter on the speech (and target) and on the noise.
    room, reverberation : float
        Of a room around the noise and around the speech.
    simulated_rooms : float
        Of a simulated room; 1 where there are no recorded ones.
    early_ms : float | None
        What the target keeps of a room, see ``effects.reverberate``.
    band_limit, codec, clipping, level_jump : float
        Of these in the channel.
    in_memory : bool
        Read speech and noise once, as 16-bit samples, which workers share: an
        hour takes 115 MB at 16 kHz. To cut compressed files is slow.
    """

    recordings: str | list
    split: str = "train"
    sample_rate: int = 16000
    sources: list | None = None
    source_weights: dict | None = None
    snr_db: tuple | None = (-5.0, 20.0)
    clean_share: float = 0.0
    noise_share: float = 0.0
    babble: float = 0.2
    clatter: float = 0.2
    second_noise: float = 0.4
    speed: float = 0.5
    speech_filter: float = 0.3
    noise_filter: float = 0.7
    room: float = 0.3
    reverberation: float = 0.0
    simulated_rooms: float = 0.0
    early_ms: float | None = None
    band_limit: float = 0.0
    codec: float = 0.0
    clipping: float = 0.0
    level_jump: float = 0.0
    in_memory: bool = False

    def __post_init__(self):
        if not isinstance(self.recordings, (list, tuple)):
            self.recordings = [self.recordings]
        items = []
        for collection in self.recordings:
            items += read_recordings(collection, split=self.split)
        speech, noise, self.rooms = (
            [item for item in items if item.kind == kind] for kind in KINDS
        )
        self.noise = by_speaker(noise)
        if not speech or not noise:
            raise ValueError(
                f"{', '.join(map(str, self.recordings))}: {len(speech)} "
                f"recordings of speech and {len(self.noise)} types of noise in "
                f"the split {self.split}, expected at least one of each"
            )
        known = {item.source for item in speech}
        wanted = known if self.sources is None else self.sources
        self.speech = [item for item in speech if item.source in wanted]
        self.voices = by_speaker(self.speech)
        self._check_options(known, wanted)
        heard = *self.speech, *noise, *self.rooms
        self.files = [(item.speaker, item.seconds) for item in heard]
        self.memory = {}
        if self.in_memory:
            paths = [item.path for item in (*self.speech, *noise)]
            with ThreadPoolExecutor() as threads:
                read = threads.map(self._decode, paths)
                read = tqdm(read, "reading recordings", len(paths), unit="file")
                self.memory = dict(zip(paths, read, strict=True))

    def _check_options(self, known, wanted):
        if self.snr_db is not None:
            levels.check_range("snr_db", self.snr_db)
        for name in (each.name for each in fields(self) if each.type is float):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected 0 to 1"
                )
        unknown = sorted({*wanted, *(self.source_weights or ())} - known)
        if unknown or not wanted:
            raise ValueError(
                f"sources of speech are {', '.join(unknown) or 'none'}, "
                f"expected some of {', '.join(sorted(known))}"
            )
        weights = self._weights()
        if not (0 <= min(weights) <= max(weights) < np.inf and any(weights)):
            raise ValueError(
                f"source_weights are {self.source_weights}, expected finite "
                "numbers of 0 or more that leave some speech"
            )

    def _weights(self):
        weights = self.source_weights or {}
        return [weights.get(item.source, 1) for item in self.speech]

    def _decode(self, path):
        signal = read_audio(path, sample_rate=self.sample_rate)
        return (32768 * signal).round().clip(-32768, 32767).astype(np.int16)

    def _read(self, path, start, length):
        if path in self.memory:
            return self.memory[path][start : start + length] / 32768
        return read_audio(path, start, length, self.sample_rate)

    def __len__(self):
        return len(self.speech)

    def order(self, rng):
        """Draw the indices of one pass; spreads shards over ranks."""
        if not self.source_weights:
            return shard_order([item.path for item in self.speech], rng)
        seconds = [item.seconds for item in self.speech]
        shares = np.multiply(self._weights(), seconds)
        return rng.choice(len(self), len(self), p=shares / shares.sum())

    def draw(self, index, length, rng):
        """Return (name, clean (length,), noisy (length,)); see the module."""
        first, clean = self._speech(index, length, rng)
        if rng.random() < self.noise_share:
            clean = np.zeros(length)
        noise = self._any_noise(first.speaker, length, rng)
        if rng.random() < self.second_noise:
            second = self._any_noise(first.speaker, length, rng)
            noise = noise + second * 10 ** (rng.uniform(-15, 0) / 20)
        wet = clean
        if rng.random() < self.reverberation:
            wet, clean = self._in_room(clean, rng, self.early_ms)
        nearly_clean = rng.random() < self.clean_share
        snr_db = CLEAN_SNR_DB if nearly_clean else self.snr_db
        noisy = _add_noise(wet, noise, snr_db, rng)
        return first.path, *self._channel(clean, noisy, rng)

    def _piece(self, recording, length, rng, speed=1.0):
        """Cut a random part of a recording that is not silent, levelled."""
        wanted = int(length * speed) + 2
        total = int(recording.seconds * self.sample_rate)
        for _ in range(ATTEMPTS):
            start = int(rng.integers(max(total - wanted, 0) + 1))
            piece = self._read(recording.path, start, wanted)
            if speed != 1.0:
                piece = effects.change_speed(piece, speed)
            if levels.rms(piece) > 0:
                return levels.scale_to_dbfs(piece)[:length]
        return np.zeros(length)

    def _speed(self, rng, slowest, fastest):
        if rng.random() >= self.speed:
            return 1.0
        return np.exp(rng.uniform(np.log(slowest), np.log(fastest)))

    def _speech(self, index, length, rng):
        for attempt in range(ATTEMPTS):
            if attempt:
                index = rng.integers(len(self.speech))
            first = self.speech[index]
            speed = self._speed(rng, 0.9, 1.1)
            clean = self._piece(first, length, rng, speed)
            if len(clean) < length or rng.random() < 0.5:
                clean = self._append(clean, first, length, rng, speed)
            if not _is_pause(clean):
                break
        clean = _fade(clean, self.sample_rate)
        if rng.random() < self.speech_filter:
            rate = self.sample_rate
            clean = effects.random_filter(clean, rng, 6.0, sample_rate=rate)
        return first, clean

    def _append(self, clean, first, length, rng, speed):
        """Join another utterance of the same speaker after a cut or pause."""
        cut = int(rng.uniform(0.3, 0.7) * length)
        pause = np.zeros(int(rng.uniform(0.0, 0.3) * self.sample_rate))
        parts = [_fade(clean[:cut], self.sample_rate), pause]
        while sum(map(len, parts)) < length:
            other = _choose(self.voices[first.speaker], rng)
            piece = self._piece(other, length, rng, speed)
            parts.append(_fade(piece, self.sample_rate))
        return np.concatenate(parts)[:length]

    def _any_noise(self, speaker, length, rng):
        kind = rng.random()
        if kind < self.babble:
            noise = self._babble(speaker, length, rng)
        elif kind < self.babble + self.clatter:
            noise = self._clatter(length, rng)
        else:
            noise = self._recorded(length, rng)
        if rng.random() < self.noise_filter:
            noise = effects.random_filter(
                noise, rng, sample_rate=self.sample_rate
            )
        if rng.random() < self.room:
            noise, _ = self._in_room(noise, rng)
        return levels.scale_to_dbfs(noise) if levels.rms(noise) > 0 else noise

    def _noise_file(self, rng):
        return _choose(self.noise[_choose(sorted(self.noise), rng)], rng)

    def _recorded(self, length, rng):
        speed = self._speed(rng, 0.7, 1.4)
        piece = self._piece(self._noise_file(rng), length, rng, speed)
        return _wrapped(piece, length, rng)

    def _babble(self, speaker, length, rng):
        voices = []
        for _ in range(rng.integers(4, 11)):
            voice = _choose(self.speech, rng)
            if voice.speaker == speaker:
                continue
            speed = self._speed(rng, 0.85, 1.15)
            piece = self._piece(voice, length, rng, speed)
            voices.append(_wrapped(piece, length, rng))
        if not voices:
            return self._recorded(length, rng)
        return effects.babble(voices, rng)

    def _clatter(self, length, rng):
        fragments = []
        for _ in range(4):
            size = int(rng.uniform(0.02, 0.2) * self.sample_rate)
            piece = self._piece(self._noise_file(rng), size, rng)
            if levels.rms(piece) > 0:
                fragments.append(piece)
        if not fragments:
            return self._recorded(length, rng)
        return effects.clatter(fragments, length, rng, self.sample_rate)

    def _in_room(self, signal, rng, early_ms=None):
        """Return the reverberant signal and its early part."""
        if self.rooms and rng.random() >= self.simulated_rooms:
            path = _choose(self.rooms, rng).path
            rir = read_audio(path, sample_rate=self.sample_rate)
            if not rir.any():  # a damaged file is not to end a training
                return signal, signal
        else:
            rir = effects.simulated_room(rng, self.sample_rate)
        return effects.reverberate(signal, rir, early_ms, self.sample_rate)

    def _channel(self, clean, noisy, rng):
        """Return target and mixture as a receiver gets them."""
        if levels.rms(noisy) == 0:
            return clean, noisy
        rate = self.sample_rate
        if rng.random() < self.band_limit:
            low = rng.choice([0.0, rng.uniform(50, 300)])
            high = rng.uniform(0.2, 0.45) * rate
            noisy = effects.limit_band(noisy, low, high, rate)
            clean = effects.limit_band(clean, low, high, rate)
        if rng.random() < self.level_jump:
            both = np.stack((clean, noisy))
            clean, noisy = effects.jump_level(both, rng, sample_rate=rate)
        if rng.random() < self.codec:
            codec, level = _choose(effects.CODECS, rng), rng.uniform(0.4, 0.95)
            noisy = effects.transcode(noisy, codec, level, rate)
        if rng.random() < self.clipping:
            share = np.exp(rng.uniform(np.log(0.1), 0.0))
            noisy = effects.clip_peaks(noisy, share)
        return clean, noisy


def _choose(items, rng):
    return items[rng.integers(len(items))]


def _wrapped(noise, length, rng):
    return levels.wrap_noise(noise, int(rng.integers(len(noise))), length)


def read_pairs(manifest, data_root):
    """Read a manifest of pairs, {id: {"noisy_wav", "clean_wav", "length"}}.

    It is JSON, with lengths in s; in its paths ``data_root`` replaces
    ``{data_root}``. ValueError if it is otherwise or has no pair.
    """
    text, pairs = read_text(manifest), {}
    try:
        for name, entry in sorted(json.loads(text).items()):
            pairs[name] = {"length": float(entry["length"])}
            for key in ("noisy_wav", "clean_wav"):
                path = entry[key].replace("{data_root}", str(data_root))
                pairs[name][key] = path
        if not pairs:
            raise ValueError("no pair is in it")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{manifest}: expected JSON of the form "
            f'{{id: {{"noisy_wav", "clean_wav", "length"}}}} ({error!r})'
        ) from error
    return pairs


class Pairs:
    """Cut crops from pairs of files, such as those of VoiceBank-DEMAND.

    The manifest and ``data_root`` are as of ``read_pairs``; ``snr_db`` is a
    range in dB that the noise is brought to, None keeps it. Where a pair is not
    of one length, ``draw`` raises a ValueError.
    """

    def __init__(self, manifest, data_root, sample_rate=16000, snr_db=None):
        if snr_db is not None:
            levels.check_range("snr_db", snr_db)
        self.sample_rate, self.snr_db = sample_rate, snr_db
        self.items = []
        for name, entry in read_pairs(manifest, data_root).items():
            paths = entry["noisy_wav"], entry["clean_wav"]
            length = int(entry["length"] * sample_rate)
            self.items.append((name, *paths, length))
        self.files = [(name, length) for name, *_, length in self.items]

    def __len__(self):
        return len(self.items)

    def order(self, rng):
        """Draw the indices of one pass."""
        return rng.permutation(len(self))

    def draw(self, index, length, rng):
        """Return (name, clean (length,), noisy (length,)); see the module."""
        name, noisy_path, clean_path, total = self.items[index]
        for _ in range(ATTEMPTS):
            start = int(rng.integers(max(total - length, 0) + 1))
            clean = read_audio(clean_path, start, length, self.sample_rate)
            if not _is_pause(clean):
                break
        noisy = read_audio(noisy_path, start, length, self.sample_rate)
        if len(noisy) != len(clean):
            raise ValueError(
                f"{noisy_path} and {clean_path} differ in length, expected as "
                "many samples; leave the pair out of the manifest"
            )
        noise, clean = noisy - clean, _fade(clean, self.sample_rate)
        noisy = _add_noise(clean, noise, self.snr_db, rng)
        pad = (0, length - len(clean))
        return name, np.pad(clean, pad), np.pad(noisy, pad)
