"""Blocks that look around in time, for whole signals, chunks and streams.

A network is written once, as ``run(apply, x)``, where ``apply(part, x)`` is
one of ``Whole`` (whole signals), ``Chunked`` (long signals chunk by chunk,
where no intermediate tensor is larger than a chunk and nothing is computed
twice) and ``Live`` (the next frames of a live stream).
"""

from abc import ABC, abstractmethod
from collections import deque

import torch
from torch import nn


def join(parts):
    """Join tuples of tensors along time, their last axis but one."""
    if len(parts) == 1:
        return parts[0]
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


def with_context(chunks, back, ahead):
    """Give every chunk what its neighbours share with it.

    A chunk is ``own``, what it needs for itself, and ``shared``, a tuple of
    tensors (..., T, C). Yielded are ``own``, ``shared`` with up to ``back``
    frames before and ``ahead`` frames after it, fewer at the ends of the
    signal, and the number of those before.

    Example
    -------
    >>> frames = torch.arange(6).view(6, 1)
    >>> chunks = [("a", (frames[:3],)), ("b", (frames[3:],))]
    >>> for own, (shared,), start in with_context(chunks, back=2, ahead=1):
    ...     print(own, shared.flatten().tolist(), start)
    a [0, 1, 2, 3] 0
    b [1, 2, 3, 4, 5] 2
    """
    waiting, before = deque(), []

    def after():
        """What follows the first chunk that waits, and how much is missing."""
        parts, missing = [], ahead
        for _, shared in list(waiting)[1:]:
            parts.append(cut(shared, slice(0, missing)))
            missing -= length(parts[-1])
        return parts, missing

    def emit(following):
        """Return the first chunk that waits, in its context."""
        own, shared = waiting.popleft()
        start = length(before[0]) if before else 0
        end = start + length(shared)
        seen = join([*before, shared, *following])
        before[:] = [cut(seen, slice(max(end - back, 0), end))]
        return own, seen, start

    for chunk in chunks:
        waiting.append(chunk)
        following, missing = after()
        while waiting and missing <= 0:
            yield emit(following)
            following, missing = after() if waiting else ([], 1)
    while waiting:
        yield emit(after()[0])


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
        """Map chunks (K, B, T, C) of one signal, each as soon as it can be."""
        prepared = self._prepare_all(chunks)
        for each in with_context(prepared, self.back, self.ahead):
            yield self.combine(*each)

    def _prepare_all(self, chunks):
        first = 0
        for x in chunks:
            own, shared = self.prepare(x, first)
            yield own, shared
            first += length(shared)

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
