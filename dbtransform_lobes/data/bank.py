"""Recordings held in memory, ready to be cut and mixed by the thousand.

Fourteen hours of speech are 1.6 GB as 16-bit samples. Decoding them once is
two thirds of the time of mixing on the fly.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from dbtransform_lobes.data.audio import read_audio
from dbtransform_lobes.data.recordings import read_recordings

FRAME = 320  # 20 ms at 16 kHz
ACTIVE_DB = 30.0  # a frame this far below the loudest is a pause


def active_level(signal):
    """Return the RMS of the frames that are no pauses.

    Arguments
    ---------
    signal : numpy.ndarray
        Samples (L,).

    Returns
    -------
    float
        RMS of all frames of 20 ms within 30 dB of the loudest one.

    Example
    -------
    >>> tone = np.tile([0.5, -0.5], 1600)
    >>> active_level(np.concatenate((tone, np.zeros(32000))))
    0.5
    """
    short = -len(signal) % FRAME
    frames = np.pad(signal, (0, short)).reshape(-1, FRAME)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    active = power > power.max(initial=0.0) * 10 ** (-ACTIVE_DB / 10)
    return float(np.sqrt(power[active].mean())) if active.any() else 0.0


@dataclass(frozen=True)
class Index:
    """Where the recordings of one kind lie in the samples of a bank.

    Arguments
    ---------
    starts, lengths : numpy.ndarray
        First sample and number of samples of each recording, (N,).
    gains : numpy.ndarray
        What brings the active level of each to 1, (N,).
    groups : list of numpy.ndarray
        Numbers of the recordings of each speaker or type of noise.
    owners : numpy.ndarray
        Group of each recording, (N,).
    shares : numpy.ndarray
        Probability of each recording to be drawn, (N,), its sum 1.
    """

    starts: np.ndarray
    lengths: np.ndarray
    gains: np.ndarray
    groups: list
    owners: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True)
class Bank:
    """Recordings in memory.

    Arguments
    ---------
    samples : torch.Tensor
        All recordings one after the other, int16 (L,).
    speech, noise : Index
        Where they are. A recording's share is its duration times the weight
        of its source; a noise's, so that each type is heard as often.
    rooms : torch.Tensor
        Measured impulse responses with their direct sound at the first
        sample and an energy of 1, (R, L); R may be 0.
    """

    samples: torch.Tensor
    speech: Index
    noise: Index
    rooms: torch.Tensor

    def to(self, device):
        """Move the samples and rooms to a device."""
        return Bank(
            self.samples.to(device),
            self.speech,
            self.noise,
            self.rooms.to(device),
        )


def read_bank(
    collections,
    source_weights=None,
    split="train",
    sample_rate=16000,
    room_seconds=0.5,
):
    """Read collections of recordings into memory.

    Arguments
    ---------
    collections : list of str
        Manifests or folders, see ``read_recordings``.
    source_weights : dict, optional
        ``{source: weight}``: how often the speech of a source is drawn for
        its duration; 1 where nothing is said.
    split : str
        Split that is read.
    sample_rate : int
        In Hz; recordings of other rates are resampled.
    room_seconds : float
        Length that impulse responses are cut to.

    Returns
    -------
    Bank

    Raises
    ------
    ValueError
        If there is no speech or no noise, or a weight names no source.
    """
    items = []
    for collection in collections:
        items += read_recordings(collection, split=split)
    source_weights = source_weights or {}
    unknown = set(source_weights) - {item.source for item in items}
    if unknown:
        raise ValueError(
            f"there are weights of {', '.join(sorted(unknown))}, expected "
            f"sources of the split {split!r}; correct or drop these names"
        )
    weights = [source_weights.get(item.source, 1.0) for item in items]
    samples, levels, rooms = [], [], []
    read = partial(read_audio, sample_rate=sample_rate)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        signals = threads.map(read, [item.path for item in items])
        bar = tqdm(signals, "reading recordings", len(items), unit="file")
        for item, signal in zip(items, bar, strict=True):
            levels.append(active_level(signal))
            if item.kind == "rir":
                rooms.append(signal)
                signal = signal[:0]
            signal = (signal * 32767).round().clip(-32768, 32767)
            samples.append(signal.astype(np.int16))
    bounds = np.cumsum([0] + [len(signal) for signal in samples])
    speech, noise = (
        _index(kind, items, bounds, np.array(levels), np.array(weights))
        for kind in ("speech", "noise")
    )
    rooms = _aligned(rooms, int(room_seconds * sample_rate))
    samples = torch.from_numpy(np.concatenate(samples))
    return Bank(samples, speech, noise, torch.from_numpy(rooms))


def _index(kind, items, bounds, levels, weights):
    right = np.array([item.kind == kind for item in items])
    chosen = np.flatnonzero(right & (levels > 0))
    if not len(chosen):
        raise ValueError(
            f"the collections hold no {kind} that is not silent, expected "
            "speech and noise: add a manifest that has it"
        )
    names, owners = np.unique(
        [items[i].speaker for i in chosen], return_inverse=True
    )
    lengths = np.diff(bounds)[chosen]
    shares = lengths * weights[chosen]
    if kind == "noise":  # rare types as often as common ones
        shares = shares / np.bincount(owners, shares)[owners]
    return Index(
        starts=bounds[chosen],
        lengths=lengths,
        gains=1 / (32767 * levels[chosen]),
        groups=[np.flatnonzero(owners == k) for k in range(len(names))],
        owners=owners,
        shares=shares / shares.sum(),
    )


def _aligned(rooms, length):
    """Cut impulse responses from their direct sound on; energy 1."""
    out = np.zeros((len(rooms), length), dtype=np.float32)
    for row, room in zip(out, rooms, strict=True):
        part = room[np.argmax(np.abs(room)) :][:length]
        row[: len(part)] = part / np.sqrt(np.sum(part**2))
    return out
