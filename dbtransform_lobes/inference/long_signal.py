"""Signals of any length at the model's rate, in memory that does not grow.

What a model's frames do not all depend on each other for passes block by
block, with the same result as the whole at once. Other models, such as those
of full attention, enhance segments that are faded into each other.
"""

from itertools import chain

import torch

from dbtransform_lobes.inference.block_stft import block_transforms
from dbtransform_lobes.inference.blocks import regroup
from dbtransform_lobes.models.db_transform import CHUNK_FRAMES

# Signals longer than LONGEST are cut into segments; a multiple of the hop
# apart, their frames are those of the whole signal.
LONGEST_SECONDS = 20
SEGMENT_SECONDS = 16
OVERLAP_SECONDS = 2
FEWEST_FRAMES = 25  # of a block of many channels


def enhance_blocks(model, blocks, length):
    """Enhance channels side by side, each on its own.

    Arguments
    ---------
    model : EnhanceModel
        The enhancer.
    blocks : iterable of numpy.ndarray
        (channels, n), float32, at the model's rate.
    length : int
        Samples of all blocks.

    Yields
    ------
    numpy.ndarray
        (channels, n), as many samples in all, in blocks of other lengths.
    """
    short = length <= LONGEST_SECONDS * model.hparams.sample_rate
    if short or not passes_in_blocks(model):
        yield from _by_segments(model, blocks, length)
    else:
        yield from _by_frames(model, blocks, length)


def passes_in_blocks(model):
    """Whether a model enhances blocks of a signal as it does the whole.

    Arguments
    ---------
    model : EnhanceModel
        The enhancer.

    Returns
    -------
    bool
    """
    try:
        block_transforms(
            model.hparams.compute_stft, model.hparams.compute_istft
        )
    except ValueError:
        return False
    return getattr(model.mods.model, "in_chunks", False)


def segment_bounds(length, sample_rate):
    """First and last samples of the segments of a signal.

    Arguments
    ---------
    length : int
        Samples of the signal.
    sample_rate : int
        In Hz.

    Returns
    -------
    list of tuple
        (start, end) of each; neighbours overlap by 2 s.

    Example
    -------
    >>> segment_bounds(20 * 100, 100)
    [(0, 2000)]
    >>> segment_bounds(21 * 100, 100)
    [(0, 1600), (1400, 2100)]
    """
    segment = SEGMENT_SECONDS * sample_rate
    start, bounds = 0, []
    while length - start > LONGEST_SECONDS * sample_rate:
        bounds.append((start, start + segment))
        start += segment - OVERLAP_SECONDS * sample_rate
    return [*bounds, (start, length)]


def _by_frames(model, blocks, length):
    """Samples -> frames -> the model's ``stream`` -> samples."""
    stft, istft = block_transforms(
        model.hparams.compute_stft, model.hparams.compute_istft
    )
    blocks = iter(blocks)
    first = next(blocks)
    frames = max(FEWEST_FRAMES, CHUNK_FRAMES // len(first))

    def specs():
        """Yield spectra."""
        for block in regroup(chain([first], blocks), frames * stft.hop_length):
            yield stft.push(torch.from_numpy(block).to(model.device))
        yield stft.end()

    def enhanced():
        """Yield enhanced samples."""
        some = (spec for spec in specs() if spec.shape[-1])
        for estimate in model.mods.model.stream(some):
            yield istft.push(estimate)
        yield istft.end(whole)

    whole = length
    for samples in enhanced():
        yield samples[:, :length].cpu().numpy()
        length -= min(length, samples.shape[-1])


def _by_segments(model, blocks, length):
    """Segments with a linear cross-fade, one channel at a time."""
    overlap = OVERLAP_SECONDS * model.hparams.sample_rate
    fade = ((torch.arange(overlap) + 0.5) / overlap).to(model.device)
    blocks, kept, first = iter(blocks), [], 0
    tail = 0
    for start, end in segment_bounds(length, model.hparams.sample_rate):
        have = first + sum(block.shape[-1] for block in kept)
        while have < end:
            kept.append(torch.from_numpy(next(blocks)))
            have += kept[-1].shape[-1]
        kept = [torch.cat(kept, dim=-1)[:, start - first :]]
        segment, first = kept[0][:, : end - start].to(model.device), start
        estimate = torch.cat([model._enhance(each[None]) for each in segment])
        if start > 0:
            estimate[:, :overlap] *= fade
            estimate[:, :overlap] += tail
        if end < length:
            tail = estimate[:, -overlap:] * fade.flip(0)
            estimate = estimate[:, :-overlap]
        yield estimate.cpu().numpy()
