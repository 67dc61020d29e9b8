"""Signals and tiny data sets for the tests, made from a seed."""

import csv
from itertools import product
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from scipy.signal import lfilter

# Formant frequencies in Hz of a few vowels (Peterson and Barney, 1952).
VOWELS = (
    (730, 1090, 2440),
    (270, 2290, 3010),
    (530, 1840, 2480),
    (570, 840, 2410),
    (300, 870, 2240),
)
BANDWIDTHS = (80, 110, 160)


def _resonate(source, frequency, bandwidth, sample_rate):
    """Filter with one two-pole resonator of unit gain at 0 Hz."""
    radius = np.exp(-np.pi * bandwidth / sample_rate)
    angle = 2 * np.pi * frequency / sample_rate
    poles = [1.0, -2 * radius * np.cos(angle), radius**2]
    return lfilter([sum(poles)], poles, source)


def _unit(signal):
    return signal / max(np.sqrt(np.mean(signal**2)), 1e-12)


def _syllable(rng, length, sample_rate):
    """A vowel: a pulse train of moving f0 through three formants."""
    time = np.arange(length) / sample_rate
    start, end = rng.uniform(95, 220) * rng.uniform(0.85, 1.15, size=2)
    f0 = np.linspace(start, end, length) * (1 + 0.01 * np.sin(30 * time))
    phase = np.cumsum(f0) / sample_rate
    source = np.diff(np.floor(phase), prepend=0.0)
    source = lfilter([1.0], [1.0, -0.9], source)
    vowel = VOWELS[rng.integers(len(VOWELS))]
    for frequency, bandwidth in zip(vowel, BANDWIDTHS, strict=True):
        source = _resonate(source, frequency, bandwidth, sample_rate)
    return _unit(source) * np.hanning(length) ** 0.5


def speech_like(seconds, seed=0, sample_rate=16000):
    """Return float64 "speech" (L,): syllables, fricatives and pauses."""
    rng = np.random.default_rng([seed, 1])
    total = round(seconds * sample_rate)
    signal = np.zeros(total)
    position = round(0.05 * sample_rate)
    while position < total:
        if rng.random() < 0.35:  # a fricative around 4 to 6 kHz
            length = round(rng.uniform(0.06, 0.12) * sample_rate)
            noise = rng.standard_normal(length)
            centre = min(rng.uniform(4000, 6000), 0.4 * sample_rate)
            burst = _unit(_resonate(noise, centre, 1500, sample_rate))
            piece = 0.3 * burst * np.hanning(length)
        else:
            length = round(rng.uniform(0.12, 0.3) * sample_rate)
            gain = rng.uniform(0.5, 1.0)
            piece = gain * _syllable(rng, length, sample_rate)
        piece = piece[: total - position]
        signal[position : position + len(piece)] = piece
        pause = rng.uniform(0.15, 0.35) if rng.random() < 0.2 else 0.01
        position += length + round(pause * sample_rate)
    return 0.5 * signal / max(np.max(np.abs(signal)), 1e-12)


def noise_like(seconds, seed=0, sample_rate=16000):
    """Return float64 coloured noise (L,), 1/f-like, with a slow swell."""
    rng = np.random.default_rng([seed, 2])
    total = round(seconds * sample_rate)
    noise = rng.standard_normal(total)
    noise = lfilter([1.0], [1.0, -0.95], noise) + 0.3 * noise
    time = np.arange(total) / sample_rate
    swell = 1 + 0.3 * np.sin(2 * np.pi * (0.7 * time + rng.random()))
    return 0.1 * _unit(noise * swell)


def write_wav(path, signal, sample_rate=16000):
    """Write a 16-bit WAV, making its folder; return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, signal, sample_rate, subtype="PCM_16", format="WAV")
    return path


def voicebank_tree(
    folder,
    sample_rate=48000,
    speakers=("p226", "p287", "p225"),
    utterances=2,
    suffix="",
    seconds=0.5,
):
    """Write a tiny tree of the VoiceBank-DEMAND layout; return its folder."""
    members = [("trainset_28spk", speaker) for speaker in speakers]
    files = product([*members, ("testset", "p232")], range(1, utterances + 1))
    for seed, ((name, speaker), number) in enumerate(files, start=1):
        length = seconds + 0.05 * number
        clean = speech_like(length, seed, sample_rate)
        noisy = clean + noise_like(length, seed, sample_rate)
        file = f"{name}_wav{suffix}/{speaker}_{number:03d}.wav"
        for kind, signal in (("clean", clean), ("noisy", noisy)):
            write_wav(f"{folder}/{kind}_{file}", 0.8 * signal, sample_rate)
    return Path(folder)


def noisy_signal(seconds, sample_rate=16000, channels=1):
    """Noisy "speech", (L, channels), float32, another voice in each."""
    rows = noisy_batch(seconds, *range(channels), sample_rate=sample_rate)
    return rows.T.contiguous().numpy()


def noisy_batch(seconds, *seeds, sample_rate=16000):
    """Noisy "speech" of these seeds, a float32 tensor (B, L)."""
    given = [(seconds, seed, sample_rate) for seed in seeds]
    rows = [speech_like(*each) + noise_like(*each) for each in given]
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def contents(folder):
    """Map the name of every file below a folder to its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def names(folder):
    """Return the names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def snr_db(reference, estimate):
    """Power of a signal over that of an estimate's error, in dB."""
    reference, estimate = np.asarray(reference), np.asarray(estimate)
    error = np.square(reference - estimate).sum() + 1e-20
    return 10 * np.log10(np.square(reference).sum() / error)


def rows_of(path):
    """Return the rows of a csv as dictionaries."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def times(folder, pattern="*"):
    """Map every file below a folder to its time of writing."""
    files = (path for path in Path(folder).rglob(pattern) if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}
