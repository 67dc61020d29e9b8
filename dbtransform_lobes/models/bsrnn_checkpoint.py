"""Weights of the public BSRNN, renamed and stacked for ours.

The public implementation (GitHub, sungwon23/BSRNN) numbers its layers and
bands from 1 in the names of its parameters and holds every band by itself;
ours hold bands of one width as one tensor.
"""

import re

import torch

from dbtransform_lobes.models.bands import BandLayout

LAYER = re.compile(r"(norm|lstm|fc)_([tk])(\d+)\.(\w+)")
AXES = {"t": "time_layers", "k": "band_layers"}
PARTS = {"norm": "norm", "lstm": "lstm", "fc": "linear"}


def convert_public_state_dict(state_dict):
    """Return the state of the public BSRNN as state of ours.

    The public recipe has 64 channels, 5 layers in the order "sequential",
    n_fft = 512, a Hann window of 512 and a hop of 128 samples at 16 kHz. A
    ValueError tells of weights of a band that are missing and of unknown
    ones; ``load_state_dict`` tells of the rest.

    Arguments
    ---------
    state_dict : dict
        ``state_dict()`` of the public generator, names to tensors; it is not
        changed, and shares no memory with what is returned.

    Returns
    -------
    dict
        For ``BSRNN(num_channels=C, num_layers=N).load_state_dict``.

    Example
    -------
    >>> convert_public_state_dict({"norm_t1.bias": torch.zeros(64)})
    Traceback (most recent call last):
    ValueError: 'band_split.norm1.weight' is missing, expected the state of \
the public BSRNN; give the state_dict of its generator, without any prefix
    """
    state, bands = {}, {}
    for name, value in state_dict.items():
        match = LAYER.fullmatch(name)
        if match:
            part, axis, number, kind = match.groups()
            layer = f"{AXES[axis]}.{int(number) - 1}"
            state[f"{layer}.{PARTS[part]}.{kind}"] = value.clone()
        else:
            bands[name] = value
    try:
        state |= _convert_bands(bands, BandLayout())
    except KeyError as error:
        raise _unfit(f"{error} is missing") from error
    if bands:
        raise _unfit(f"{', '.join(bands)} are unknown")
    return state


def _unfit(problem):
    return ValueError(
        f"{problem}, expected the state of the public BSRNN; give the "
        "state_dict of its generator, without any prefix"
    )


def _convert_bands(public, layout):
    """Take the weights of all bands out of ``public``; stack equal widths."""
    state = {}

    def stack(ours, name, bands, norm=False):
        """Stack the weights of some bands."""
        for part in ("weight", "bias"):
            each = [public.pop(f"{name}{k}.{part}") for k in bands]
            value = torch.stack(each)
            # The gains of a BandNorm are (n, 1, 1, C).
            state[f"{ours}.{part}"] = value[:, None, None] if norm else value

    split, decoder = "band_split", "mask_decoder"
    for number, run in enumerate(layout.runs):
        bands = range(run.bands.start + 1, run.bands.stop + 1)
        stack(f"{split}.norms.{number}", f"{split}.norm", bands, norm=True)
        stack(f"{split}.linears.{number}", f"{split}.fc", bands)
        stack(f"{decoder}.heads.{number}", f"{decoder}.fc2", bands)
    bands = range(1, layout.num_bands + 1)
    stack(f"{decoder}.norm", f"{decoder}.norm", bands, norm=True)
    stack(f"{decoder}.expand", f"{decoder}.fc1", bands)
    return state
