"""Signals that come in blocks of any length, time along the last axis."""

import numpy as np
import soxr


def align(*streams):
    """Cut the blocks of several streams at the same samples.

    Arguments
    ---------
    *streams : iterable of array
        Blocks (..., n) of any length; all streams are equally long in total.

    Yields
    ------
    tuple of array
        A part of each stream, of one length.

    Example
    -------
    >>> one, two = np.split(np.arange(5), [3]), np.split(10 * np.arange(5), [1])
    >>> for a, b in align(one, two):
    ...     print(a, b)
    [0] [0]
    [1 2] [10 20]
    [3 4] [30 40]
    """
    streams = [filter(_length, stream) for stream in streams]
    waiting = [None] * len(streams)
    while True:
        for number, stream in enumerate(streams):
            if waiting[number] is None:
                waiting[number] = next(stream, None)
        ended = [block is None for block in waiting]
        if any(ended):
            assert all(ended), "the streams differ in length"
            return
        size = min(map(_length, waiting))
        yield tuple(block[..., :size] for block in waiting)
        rests = [block[..., size:] for block in waiting]
        waiting = [rest if _length(rest) else None for rest in rests]


def regroup(blocks, size):
    """Make all blocks but the last one ``size`` samples long.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        (..., n), of any length.
    size : int
        Samples of a block.

    Yields
    ------
    numpy.ndarray
        (..., size); the last one may be shorter.

    Example
    -------
    >>> for block in regroup([np.arange(5), np.arange(2)], 3):
    ...     print(block)
    [0 1 2]
    [3 4 0]
    [1]
    """
    parts, waiting = [], 0
    for block in blocks:
        parts.append(block)
        waiting += _length(block)
        if waiting < size:
            continue
        joined = np.concatenate(parts, axis=-1)
        stop = waiting - waiting % size
        for start in range(0, stop, size):
            yield joined[..., start : start + size]
        parts, waiting = [joined[..., stop:]], waiting % size
    if waiting:
        yield np.concatenate(parts, axis=-1)


class Resampler:
    """Resamples channels side by side, the same as the whole at once.

    Arguments
    ---------
    sample_rate, new_rate : float
        In Hz. If they are equal, the samples pass.
    channels : int
        Number of channels.

    Example
    -------
    >>> resampler = Resampler(8000, 16000, channels=2)
    >>> parts = [resampler.push(np.zeros((2, 4000), np.float32))]
    >>> parts.append(resampler.end())
    >>> np.concatenate(parts, axis=-1).shape
    (2, 8000)
    """

    def __init__(self, sample_rate, new_rate, channels):
        self.channels = channels
        self.stream = None
        if sample_rate != new_rate:
            self.stream = soxr.ResampleStream(sample_rate, new_rate, channels)

    def push(self, block, last=False):
        """Take samples (channels, n); return those that are ready."""
        if self.stream is None:
            return block
        block = np.ascontiguousarray(block.T, dtype=np.float32)
        return self.stream.resample_chunk(block, last).T

    def end(self):
        """Return the samples that are left."""
        return self.push(np.zeros((self.channels, 0), np.float32), last=True)


def resample_blocks(blocks, sample_rate, new_rate, channels, length):
    """Resample a signal that comes in blocks.

    Arguments
    ---------
    blocks : iterable of numpy.ndarray
        (channels, n), float32.
    sample_rate, new_rate : float
        In Hz.
    channels : int
        Number of channels.
    length : int
        Samples to return in all: what is beyond them is cut off, what is
        missing is zero.

    Yields
    ------
    numpy.ndarray
        (channels, n).

    Example
    -------
    >>> blocks = np.ones((3, 1, 100), np.float32)
    >>> halved = resample_blocks(blocks, 16000, 8000, 1, length=150)
    >>> sum(block.shape[1] for block in halved)
    150
    """
    resampler = Resampler(sample_rate, new_rate, channels)

    def resampled():
        """Yield resampled blocks."""
        for block in blocks:
            yield resampler.push(block)
        yield resampler.end()

    for block in resampled():
        yield block[:, :length]
        length -= min(length, block.shape[1])
    yield np.zeros((channels, length), np.float32)


def _length(block):
    return block.shape[-1]
