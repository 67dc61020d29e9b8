"""Raw PCM through a live stream, as pipes of sox, ffmpeg or arecord have it."""

import time
from dataclasses import dataclass

import numpy as np

# Little-endian samples and what full scale is in them.
DTYPES = {"s16": ("<i2", 2**15), "s32": ("<i4", 2**31), "f32": ("<f4", 1)}


@dataclass
class Report:
    """What happened to a stream."""

    samples: int = 0  # of each channel
    blocks: int = 0  # that were read
    underruns: int = 0  # blocks that took longer to compute than they last
    seconds: float = 0.0  # of computing in all
    worst: float = 0.0  # seconds of the slowest block
    latency: float = 0.0  # longest wait of a sample for others, in seconds
    repaired: int = 0  # samples that were not finite, taken as zero
    lost: int = 0  # bytes at the end that make no whole sample


def decode(data, dtype, channels):
    """Turn bytes of interleaved samples into (channels, n), float32."""
    kind, scale = DTYPES[dtype]
    samples = np.frombuffer(data, dtype=kind).reshape(-1, channels).T
    return (samples / scale).astype(np.float32)


def encode(samples, dtype):
    """Turn (channels, n) into bytes; beyond full scale integers are clipped."""
    kind, scale = DTYPES[dtype]
    samples = samples.T
    if dtype != "f32":
        samples = np.round(samples.astype(np.float64) * scale)
        samples = samples.clip(-scale, scale - 1)
    return samples.astype(kind).tobytes()


def enhance_pcm(enhancer, read, write, channels=1, dtype="s16"):
    """Enhance a stream of bytes until it ends; return a Report.

    Samples are read a hop at a time and written as soon as they are ready, by
    a StreamingEnhancer of the rate of the stream. ``read(size)`` returns up to
    ``size`` bytes, none at the end; ``write`` raises BrokenPipeError if nobody
    wants more. ``dtype`` is a key of DTYPES, channels are interleaved.
    """
    report, sent, rate = Report(), 0, enhancer.sample_rate
    width = channels * np.dtype(DTYPES[dtype][0]).itemsize
    try:
        while data := _read_block(read, enhancer.hop_length * width):
            report.lost = len(data) % width
            noisy = decode(data[: len(data) - report.lost], dtype, channels)
            start = time.perf_counter()
            report.repaired += int((~np.isfinite(noisy)).sum())
            noisy = np.nan_to_num(noisy, posinf=0, neginf=0)
            enhanced = enhancer.feed(noisy.T).T
            seconds = time.perf_counter() - start
            report.blocks += 1
            report.samples += noisy.shape[-1]
            report.seconds += seconds
            report.worst = max(report.worst, seconds)
            report.underruns += seconds > noisy.shape[-1] / rate
            waited = (report.samples - sent) / rate
            report.latency = max(report.latency, waited)
            sent += enhanced.shape[-1]
            write(encode(enhanced, dtype))
        if report.samples:
            write(encode(enhancer.flush().T, dtype))
    except BrokenPipeError:
        pass  # as when `head` has seen enough
    return report


def _read_block(read, size):
    """Read so many bytes, fewer at the end of the stream."""
    block = b""
    while len(block) < size and (data := read(size - len(block))):
        block += data
    return block
