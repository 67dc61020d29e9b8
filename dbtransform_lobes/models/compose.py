"""Composition of a model from numbers and factories that YAML names."""

import inspect


def check_positive(**numbers):
    """Raise a ValueError for a number of layers or the like below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}, expected at least 1")


def check_choice(name, given, choices):
    """Raise a ValueError for what is none of the choices."""
    if given not in choices:
        raise ValueError(
            f"{name} is {given!r}, expected one of {', '.join(choices)}"
        )


def check_heads(num_channels, num_heads, parts=1):
    """Raise a ValueError for channels that do not give so many parts a head."""
    check_positive(num_heads=num_heads)
    if num_channels % (parts * num_heads):
        raise ValueError(
            f"num_channels is {num_channels}, expected a multiple of "
            f"{'' if parts == 1 else f'{parts} '}num_heads = "
            f"{parts * num_heads}"
        )


def hidden_channels(part, expansion, num_channels):
    """Return expansion times C, refusing none at all."""
    hidden = int(expansion * num_channels)
    if hidden < 1:
        raise ValueError(
            f"{part} expansion is {expansion}, expected at least "
            f"1 / num_channels = 1 / {num_channels}"
        )
    return hidden


def build(factory, **common):
    """Call a factory with the common arguments that it asks for.

    So a model hands its sizes to its parts, and each part's YAML holds what
    is the part's own alone. ``factory`` is a class, or a ``functools.partial``
    of one, as ``!name:`` in YAML makes it, whose own arguments win.

    Example
    -------
    >>> import torch
    >>> from functools import partial
    >>> linear = partial(torch.nn.Linear, out_features=3)
    >>> build(linear, in_features=2, out_features=8, causal=True)
    Linear(in_features=2, out_features=3, bias=True)
    """
    # Of the class: a partial of wrong arguments has no signature.
    asked = inspect.signature(getattr(factory, "func", factory)).parameters
    given = getattr(factory, "keywords", {})
    return factory(
        **{
            name: value
            for name, value in common.items()
            if name in asked and name not in given
        }
    )
