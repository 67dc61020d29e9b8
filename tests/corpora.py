"""Tiny trees of the layout of the DNS Challenge and of TIMIT."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile as sf

from dbtransform_lobes.data.recordings import read_recordings
from tests.signals import noise_like, speech_like, write_wav

CLEAN = (
    "read_speech/book_00000_chp_0009_reader_06709_0.wav",
    "read_speech/book_00000_chp_0009_reader_06709_1.wav",
    "read_speech/book_00001_chp_0002_reader_00001_0.wav",
    "german_speech/M-AILABS/de_DE/female/ramona/buch/wavs/ramona_01.wav",
    "german_speech/M-AILABS/de_DE/female/ramona/lied/wavs/ramona_02.wav",
    "french_speech/commonvoice_1.wav",
    "vctk_wav48_silence_trimmed/p225/p225_001_mic1.wav",
    "vctk_wav48_silence_trimmed/p232/p232_001_mic1.wav",
    "vctk_wav48_silence_trimmed/p257/p257_001_mic2.wav",
)
NOISE = ("---1_cCGK4M_0.wav", "door_Freesound_validated_1.wav", "fan_2.wav")
ROOMS = (
    "SLR26/simulated_rirs_16k/smallroom/Room001/Room001-00001.wav",
    "SLR28/RIRS_NOISES/real_rirs_isotropic_noises/air_type1_air_booth_0.wav",
)
NO_ROOMS = (
    "SLR28/RIRS_NOISES/real_rirs_isotropic_noises/RVB2014_type1_noise_1.wav",
    "SLR28/RIRS_NOISES/pointsource_noises/noise-free-sound-0000.wav",
)
SPEAKERS = {"TRAIN": ("FCJF0", "MDAB1", "MTRR0"), "TEST": ("FELC0", "MRJR0")}


def room(seed=0, sample_rate=16000, delay=0.01, seconds=0.2):
    """A decaying impulse response (L,) whose direct path comes late."""
    rng = np.random.default_rng([seed, 3])
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    tail = 0.2 * rng.standard_normal(len(time)) * 10 ** (-3 * time / seconds)
    tail[0] = 1.0
    return 0.5 * np.concatenate([np.zeros(round(delay * sample_rate)), tail])


def dns_tree(folder, sample_rate=16000, seconds=1.2, suffix=""):
    """Write a tree of the DNS Challenge; return its folder."""
    folder = Path(folder)
    data = folder / f"datasets{suffix}"
    for seed, name in enumerate(CLEAN):
        signal = speech_like(seconds + 0.1 * (seed % 3), seed, sample_rate)
        write_wav(data / f"clean{suffix}" / name, signal, sample_rate)
    for seed, name in enumerate(NOISE):
        signal = noise_like(seconds, seed, sample_rate)
        write_wav(data / f"noise{suffix}" / name, signal, sample_rate)
    for seed, name in enumerate(ROOMS + NO_ROOMS):
        path = data / "impulse_responses" / name
        write_wav(path, room(seed, sample_rate), sample_rate)
    for place, name in enumerate(("no_reverb", "with_reverb")):
        for number in range(2):
            seed = 100 + 10 * place + number
            clean = speech_like(seconds, seed, sample_rate)
            noisy = 0.8 * clean + noise_like(seconds, seed, sample_rate)
            test = folder / "datasets/test_set/synthetic" / name
            path = test / f"clean/clean_fileid_{number}.wav"
            write_wav(path, 0.8 * clean, sample_rate)
            path = test / f"noisy/book_snr{number}_tl-21_fileid_{number}.wav"
            write_wav(path, noisy, sample_rate)
    return folder


def timit_tree(folder):
    """Write TIMIT/{TRAIN,TEST}/DRn/SPEAKER/*.WAV; return the folder."""
    seed = 0
    for split, speakers in SPEAKERS.items():
        for region, speaker in enumerate(speakers, start=1):
            path = Path(folder) / split / f"DR{region}" / speaker
            path.mkdir(parents=True)
            for sentence in ("SA1", "SI648", "SX37"):
                seed += 1
                signal, file = speech_like(1.1, seed), path / f"{sentence}.WAV"
                sf.write(file, signal, 16000, "PCM_16", format="NIST")
    return Path(folder)


def heard(save, key="speaker"):
    """Map split and kind to the speakers, or paths, of a manifest."""
    found = defaultdict(set)
    for item in read_recordings(save / "manifest.csv"):
        found[item.split, item.kind].add(getattr(item, key))
    return found


def noise_tree(folder, types=("babble", "car", "factory", "white")):
    """Write a folder of noises, a folder for each type but white."""
    for seed, name in enumerate(types):
        place = Path(folder, "" if name == "white" else name)
        write_wav(place / f"{name}.wav", noise_like(2.0, seed))
    return Path(folder)
