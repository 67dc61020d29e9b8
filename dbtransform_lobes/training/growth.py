"""A model that begins as the function of a smaller one."""

import torch

from dbtransform_lobes.models.db_transform import DBTransform
from dbtransform_lobes.models.feed_forward import FeedForward

LAST = ("output", "reduce", "pointwise")  # maps that blocks end with


def grown(model, state):
    """Return the state dict of a smaller model, filled up for this one.

    A ``DBTransform`` of pre-norm blocks may have more layers and wider
    feed-forward parts than the model of ``state``: the last map of every
    further block (of this package) and of every further hidden channel begins
    with zeros. What else differs is left as it is given.

    Example
    -------
    >>> from functools import partial
    >>> from dbtransform_lobes.models.bands import BandLayout
    >>> blocks = ({"wide": partial(FeedForward, expansion=n)} for n in (1, 2))
    >>> small, large = (DBTransform(BandLayout(), 8, each) for each in blocks)
    >>> filled = grown(large, small.state_dict())
    >>> noisy = torch.randn(1, 257, 10, dtype=torch.complex64)
    >>> _ = large.load_state_dict(filled)
    >>> torch.allclose(large(noisy), small(noisy), atol=1e-5)
    True
    """
    if not isinstance(model, DBTransform):
        return state
    state, own = dict(state), model.state_dict()
    for name, part in model.named_modules():
        if isinstance(part, FeedForward) and f"{name}.reduce.weight" in state:
            narrow = {n: state[f"{name}.{n}"] for n in part.state_dict()}
            wide = _widened(part, narrow)
            state |= {f"{name}.{n}": weight for n, weight in wide.items()}
    given = {name.split(".")[1] for name in state if name[:7] == "blocks."}
    for number, residual in enumerate(model.blocks):
        last = [name for name in LAST if getattr(residual.block, name, None)]
        if str(number) in given or not last:
            continue
        prefix = f"blocks.{number}."
        state |= {n: own[n] for n in own if n.startswith(prefix)}
        for kind in ("weight", "bias"):
            key = f"{prefix}block.{last[0]}.{kind}"
            state[key] = torch.zeros_like(own[key])
    return state


def _widened(part, narrow):
    """Fill the weights of a feed-forward part with those of a narrower one."""
    wide = {name: weight.clone() for name, weight in part.state_dict().items()}
    new, old = (each["reduce.weight"].shape[-1] for each in (wide, narrow))
    shapes = [each["expand.weight"].shape for each in (wide, narrow)]
    if new <= old or len({(*s[:-2], s[-1]) for s in shapes}) > 1:
        return narrow  # as large, or of other channels or bands
    rows = [*range(old), *range(new, new + old)]  # gates and values
    wide["expand.weight"][..., rows, :] = narrow["expand.weight"]
    wide["expand.bias"][..., rows] = narrow["expand.bias"]
    wide["reduce.weight"][..., :old] = narrow["reduce.weight"]
    wide["reduce.weight"][..., old:] = 0
    wide["reduce.bias"] = narrow["reduce.bias"]
    return wide
