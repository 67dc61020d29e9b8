"""Raw PCM through a live stream, as pipes of sox, ffmpeg or arecord have it."""

import time
from dataclasses import dataclass

import numpy as np

from dbtransform_lobes.inference.blocks import Resampler

# Little-endian samples and what full scale is in them.
DTYPES = {"s16": ("<i2", 2**15), "s32": ("<i4", 2**31), "f32": ("<f4", 1)}


@dataclass
class Report:
    """What happened to a stream.

    Arguments
    ---------
    samples : int
        Samples of each channel.
    blocks : int
        Blocks that were read.
    underruns : int
        Blocks that took longer to compute than they last.
    seconds, worst : float
        Time of computing in all, and of the slowest block.
    latency : float
        The longest that a sample waited for others, in seconds, without the
        time of computing.
    repaired : int
        Samples that were not finite, taken as zero.
    lost : int
        Bytes at the end that make no whole sample.
    """

    samples: int = 0
    blocks: int = 0
    underruns: int = 0
    seconds: float = 0.0
    worst: float = 0.0
    latency: float = 0.0
    repaired: int = 0
    lost: int = 0

    def add(self, samples, seconds, sample_rate):
        """Count a block."""
        self.blocks += 1
        self.samples += samples
        self.underruns += seconds > samples / sample_rate
        self.seconds += seconds
        self.worst = max(self.worst, seconds)


def decode(data, dtype, channels):
    """Turn bytes of interleaved samples into (channels, n), float32.

    Arguments
    ---------
    data : bytes
        Whole samples of all channels.
    dtype : str
        "s16", "s32" or "f32", little-endian.
    channels : int
        Number of channels.

    Returns
    -------
    numpy.ndarray

    Example
    -------
    >>> decode(bytes([0, 64, 0, 128]), "s16", channels=2)
    array([[ 0.5],
           [-1. ]], dtype=float32)
    """
    kind, scale = DTYPES[dtype]
    samples = np.frombuffer(data, dtype=kind).reshape(-1, channels).T
    return (samples / scale).astype(np.float32)


def encode(samples, dtype):
    """Turn (channels, n) into bytes; beyond full scale integers are clipped.

    Arguments
    ---------
    samples : numpy.ndarray
        Floating point (channels, n).
    dtype : str
        As in ``decode``.

    Returns
    -------
    bytes

    Example
    -------
    >>> encode(np.array([[0.5], [-1.5]]), "s16")
    b'\\x00@\\x00\\x80'
    """
    kind, scale = DTYPES[dtype]
    samples = samples.T
    if dtype != "f32":
        samples = np.round(samples.astype(np.float64) * scale)
        samples = samples.clip(-scale, scale - 1)
    return samples.astype(kind).tobytes()


def enhance_pcm(enhancer, read, write, sample_rate, channels=1, dtype="s16"):
    """Enhance a stream of bytes until it ends.

    Samples are read a hop at a time and written as soon as they are ready.
    Other sample rates than the model's are resampled to it and back, which
    adds latency; bands above the model's are dropped.

    Arguments
    ---------
    enhancer : StreamingEnhancer
        That has not begun.
    read : callable
        Given a number of bytes, returns up to as many, none at the end.
    write : callable
        Takes bytes; BrokenPipeError if nobody wants more.
    sample_rate : int
        Of the stream, in Hz.
    channels : int
        Interleaved channels, each enhanced on its own.
    dtype : str
        "s16", "s32" or "f32", little-endian.

    Returns
    -------
    Report
    """
    report, stream = Report(), _Resampled(enhancer, sample_rate, channels)
    width = channels * np.dtype(DTYPES[dtype][0]).itemsize
    hop = enhancer.hop_length * sample_rate / enhancer.sample_rate
    try:
        while data := _read_block(read, max(1, round(hop)) * width):
            report.lost = len(data) % width
            noisy = decode(data[: len(data) - report.lost], dtype, channels)
            start = time.perf_counter()
            finite = np.isfinite(noisy)
            report.repaired += noisy.size - int(finite.sum())
            enhanced = stream.feed(np.where(finite, noisy, np.float32(0)))
            seconds = time.perf_counter() - start
            report.add(noisy.shape[-1], seconds, sample_rate)
            report.latency = stream.longest / sample_rate
            write(encode(enhanced, dtype))
        write(encode(stream.flush(), dtype))
    except BrokenPipeError:
        pass  # as when `head` has seen enough
    return report


def _read_block(read, size):
    """Read so many bytes, fewer at the end of the stream."""
    block = b""
    while len(block) < size and (data := read(size - len(block))):
        block += data
    return block


class _Resampled:
    """A StreamingEnhancer for another sample rate."""

    def __init__(self, enhancer, sample_rate, channels):
        rates = sample_rate, enhancer.sample_rate
        self.enhancer, self.channels = enhancer, channels
        self.down = Resampler(*rates, channels)
        self.up = Resampler(*rates[::-1], channels)
        self.received = self.sent = self.longest = 0

    def feed(self, noisy):
        """Take samples and return those that are complete."""
        self.received += noisy.shape[-1]
        self.longest = max(self.longest, self.received - self.sent)
        return self._send(self.up.push(self._enhance(self.down.push(noisy))))

    def flush(self):
        """The rest, so that as much is sent as was received."""
        if not self.received:
            return np.zeros((self.channels, 0), np.float32)
        last = self._enhance(self.down.end())
        last = np.concatenate((last, self.enhancer.flush().T), axis=-1)
        last = np.concatenate((self.up.push(last), self.up.end()), axis=-1)
        missing = self.received - self.sent
        last = np.pad(last, ((0, 0), (0, missing)))
        return self._send(last[:, :missing])

    def _enhance(self, noisy):
        return self.enhancer.feed(noisy.T).T

    def _send(self, enhanced):
        self.sent += enhanced.shape[-1]
        return enhanced
