"""Blocks that look around in time, for whole signals, chunks and streams.

A long signal passes through a model chunk by chunk: what a chunk needs of
its neighbours is handed on, nothing is computed twice, and all intermediate
tensors stay as small as a chunk.
"""

from collections import deque

import torch
from torch import nn


def join(parts):
    """Join tuples of tensors along time, the last axis but one.

    Arguments
    ---------
    parts : sequence of tuple of torch.Tensor
        Tensors (..., T, C), as many in each tuple.

    Returns
    -------
    tuple of torch.Tensor

    Example
    -------
    >>> (joined,) = join([(torch.ones(2, 1),), (torch.zeros(1, 1),)])
    >>> joined.mT
    tensor([[1., 1., 0.]])
    """
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
    """Two iterators over the same items, each held while it is still wanted.

    ``itertools.tee`` holds on to dozens of items that both have passed.

    Arguments
    ---------
    items : iterable
        The items.

    Returns
    -------
    iterator
    iterator

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

    Arguments
    ---------
    chunks : iterable of (object, tuple of torch.Tensor)
        What a chunk needs for itself, and what it shares: (..., T, C).
    back, ahead : int
        Frames that are looked back and ahead.

    Yields
    ------
    own : object
        As given.
    shared : tuple of torch.Tensor
        That of the chunk with up to ``back`` frames before it and up to
        ``ahead`` frames after it: fewer at the ends of the signal.
    start : int
        Frames before the chunk.

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


class TimeBlock(nn.Module):
    """A block that looks ``back`` and ``ahead`` by so many frames.

    Subclasses set both (None: all frames, then only whole signals pass) and
    give ``prepare`` and ``combine``; from these follow ``forward`` for whole
    signals, ``stream`` for chunks and ``step`` for live streams.
    """

    back, ahead = None, None

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
        raise NotImplementedError

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
        raise NotImplementedError

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

    def cache_shapes(self, batch, frames=0):
        """Return the shapes of the cache of ``step``.

        Arguments
        ---------
        batch : int
            Streams side by side.
        frames : int
            Frames of a call of an exported stream, which a block may want to
            hold as well.

        Returns
        -------
        tuple of tuple of int
        """
        raise NotImplementedError

    def step(self, x, cache, first):
        """Map the next frames of a live stream (``ahead`` is 0).

        Arguments
        ---------
        x : torch.Tensor
            (K, B, T, C).
        cache : tuple of torch.Tensor
            What the last ``back`` frames share; it is not changed.
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
        shared = join([cache, shared])
        kept = cut(shared, slice(frames, None))
        # Copies: a view would hold on to all of a long chunk.
        kept = tuple(each.clone() for each in kept)
        if isinstance(first, torch.Tensor):
            return self.combine(own, shared, self.back), kept
        start = min(first, self.back)
        seen = cut(shared, slice(self.back - start, None))
        return self.combine(own, seen, start), kept
