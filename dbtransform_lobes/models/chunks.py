"""Blocks that look around in time, for whole signals, chunks and streams.

A network is written once, as ``run(apply, x)``, where ``apply(part, x)`` is
one of ``Whole`` (whole signals), ``Chunked`` (long signals chunk by chunk,
where no intermediate tensor is larger than a chunk and nothing is computed
twice) and ``Live`` (the next frames of a live stream).
"""

from abc import ABC, abstractmethod
from collections import deque
from itertools import chain

import torch
from torch import nn


def join(parts):
    """Join tuples of tensors along time, their last axis but one."""
    return tuple(torch.cat(each, dim=-2) for each in zip(*parts, strict=True))


def cut(tensors, frames):
    """Frames of each tensor of a tuple, as views."""
    return tuple(tensor[..., frames, :] for tensor in tensors)


def length(tensors):
    """Return the number of frames of a tuple of tensors."""
    return tensors[0].shape[-2]


def fork(items):
    """Return two iterators over the same items, each held while wanted.

    ``itertools.tee`` holds on to dozens of items that both have passed.

    Example
    -------
    >>> one, two = fork("abc")
    >>> next(one), next(two), list(one), list(two)
    ('a', 'a', ['b', 'c'], ['b', 'c'])
    """
    items, queues = iter(items), (deque(), deque())

    def branch(own):
        """Yield items of the own queue, fetching them for both."""
        while True:
            if not own:
                try:
                    item = next(items)
                except StopIteration:
                    return
                for queue in queues:
                    queue.append(item)
                del item
            yield own.popleft()

    return tuple(map(branch, queues))


class Whole:
    """Apply parts to a whole signal."""

    def __call__(self, part, *inputs):
        """Return what the part makes of the signal."""
        return part(*inputs)

    def fork(self, x):
        """Return the signal for two parts."""
        return x, x


class Chunked:
    """Apply parts to iterators over the chunks of a signal."""

    def __call__(self, part, *inputs):
        """Return an iterator over the chunks that come out."""
        if hasattr(part, "run"):
            return part.run(self, *inputs)
        if isinstance(part, TimeBlock):
            return part.stream(*inputs)
        return map(part, *inputs)

    def fork(self, chunks):
        """Return the chunks for two parts."""
        return fork(chunks)


class Live(Whole):
    """Apply parts to the next frames of a live stream, the first of a number.

    The caches given and left are those of the ``TimeBlock`` parts, in their
    order in the network, see ``TimeBlock.step``.
    """

    def __init__(self, caches, first):
        self.given, self.first = iter(caches), first
        self.caches = []  # for the next frames

    def __call__(self, part, *inputs):
        """Return what the part makes of the frames; keeps its cache."""
        if hasattr(part, "run"):
            return part.run(self, *inputs)
        if not isinstance(part, TimeBlock):
            return part(*inputs)
        y, cache = part.step(*inputs, next(self.given), self.first)
        self.caches.append(cache)
        return y


class TimeBlock(nn.Module, ABC):
    """A block that looks ``back`` and ``ahead`` by so many frames.

    Subclasses set both (None: all frames, then only whole signals pass) and
    give ``prepare`` and ``combine``; from these follow ``forward`` for whole
    signals, ``stream`` for chunks and ``step`` for live streams. See
    ``RunningLevel`` for an example.
    """

    back, ahead = None, None

    @abstractmethod
    def prepare(self, x, first=0):
        """Split frames into their own part and the context of others.

        Arguments
        ---------
        x : torch.Tensor
            (K, B, T, C).
        first : int
            Number of the first frame in the signal.

        Returns
        -------
        own : object
            For ``combine``.
        shared : tuple of torch.Tensor
            (..., T, C) each.
        """

    @abstractmethod
    def combine(self, own, shared, start=0):
        """Map frames, given their context.

        Arguments
        ---------
        own : object
            Of ``prepare``.
        shared : tuple of torch.Tensor
            Of ``prepare``, with what is seen of other frames.
        start : int
            Frames before the first of these.

        Returns
        -------
        torch.Tensor
            (K, B, T, C).
        """

    def forward(self, x):
        """Map a whole signal (K, B, T, C) to (K, B, T, C)."""
        return self.combine(*self.prepare(x))

    def stream(self, chunks):
        """Map chunks (K, B, T, C) of one signal, each as soon as it can be.

        Example
        -------
        >>> from dbtransform_lobes.models.level import RunningLevel
        >>> level, bins = RunningLevel(back=2), torch.randn(1, 10, 257, 2)
        >>> chunks = list(level.stream(bins.split([7, 1, 2], dim=1)))
        >>> torch.allclose(torch.cat(chunks, dim=1), level(bins))
        True
        """
        # Own parts and lengths of the chunks that wait for what follows them,
        # and what is shared from so many frames before the first of these on.
        waiting, seen, start, first = deque(), (), 0, 0
        for x in chain(chunks, [None]):
            if x is not None:
                own, shared = self.prepare(x, first)
                waiting.append((own, length(shared)))
                seen = join([seen, shared]) if seen else shared
                first += length(shared)
            while waiting:
                end = start + waiting[0][1]
                if x is not None and end + self.ahead > length(seen):
                    break
                own, _ = waiting.popleft()
                known = cut(seen, slice(0, end + self.ahead))
                yield self.combine(own, known, start)
                passed = max(end - self.back, 0)
                seen, start = cut(seen, slice(passed, None)), end - passed

    def step(self, x, cache, first):
        """Map the next frames of a live stream (``ahead`` is 0).

        Arguments
        ---------
        x : torch.Tensor
            (K, B, T, C).
        cache : tuple of torch.Tensor | None
            What the last ``back`` frames share, which is not changed; None
            where a stream begins. A ValueError tells of that of another block
            or batch.
        first : int | torch.Tensor
            Number of the first frame of x in the stream; frames before the
            stream are not looked at. A tensor (1,) where a stream is
            exported, whose shapes are fixed: those frames are zeros then.

        Returns
        -------
        torch.Tensor
            (K, B, T, C).
        tuple of torch.Tensor
            The next cache.
        """
        own, shared = self.prepare(x, first)
        frames = length(shared)
        shared = join([cache_or_zeros(shared, self.back, cache), shared])
        kept = cut(shared, slice(frames, None))
        # Copies: a view would hold on to all of a long chunk.
        kept = tuple(each.clone() for each in kept)
        if isinstance(first, torch.Tensor):
            return self.combine(own, shared, self.back), kept
        start = min(first, self.back)
        seen = cut(shared, slice(self.back - start, None))
        return self.combine(own, seen, start), kept


def cache_or_zeros(shared, frames, cache):
    """Return the cache if it has so many frames of what is shared, zeros for
    None."""
    shapes = [(*x.shape[:-2], frames, x.shape[-1]) for x in shared]
    if cache is None:
        pairs = zip(shared, shapes, strict=True)
        return tuple(x.new_zeros(shape) for x, shape in pairs)
    given = [tuple(each.shape) for each in cache]
    if given != shapes:
        raise ValueError(
            f"the state has a cache of shapes {given}, expected {shapes}: it "
            "is that of other streams or of another model; begin with "
            "initial_state()"
        )
    return cache
