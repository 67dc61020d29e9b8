"""Composition of a model from factories that YAML names."""

import inspect


def build(factory, **common):
    """Call a factory with the common arguments that it asks for.

    So a model hands its sizes to its parts, and each part's YAML holds what
    is the part's own alone.

    Arguments
    ---------
    factory : callable
        A class, or a ``functools.partial`` of one, as ``!name:`` in YAML
        makes it.
    **common
        Arguments that are passed on if the signature names them; those that
        the partial holds already win.

    Returns
    -------
    object
        What the factory makes.

    Example
    -------
    >>> import torch
    >>> from functools import partial
    >>> build(partial(torch.nn.Linear, out_features=3), in_features=2, \
out_features=8, causal=True)
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
