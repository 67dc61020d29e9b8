"""Weights of the public BSRNN, renamed and stacked for ours.

The public implementation (GitHub, sungwon23/BSRNN) numbers its layers and
bands from 1 in the names of its parameters and holds every band by itself;
ours hold bands of one width as one tensor.
"""

import re

import torch
from torch import nn

from dbtransform_lobes.models.bands import BandLayout

LAYERS = {"t": "time_layers", "k": "band_layers"}
PARTS = {"norm": "norm", "lstm": "lstm", "fc": "linear"}


def convert_public_state_dict(state_dict):
    """State of the public BSRNN as state of ours, order "sequential".

    The number of layers and of channels is read from the state; the bands
    are those of ``bsrnn_16k``. Every name must be there with its shape and no
    other, else a ValueError lists what differs. Values are copied.

    The public recipe has n_fft = 512, a Hann window of 512 and a hop of 128
    samples at 16 kHz.

    Arguments
    ---------
    state_dict : dict
        ``state_dict()`` of the public generator, names to tensors.

    Returns
    -------
    dict
        For ``BSRNN(num_channels=C, num_layers=N).load_state_dict``.

    Example
    -------
    >>> shapes = public_shapes(num_channels=4, num_layers=1)
    >>> public = {name: torch.randn(s) for name, s in shapes.items()}
    >>> state = convert_public_state_dict(public)
    >>> state["time_layers.0.linear.weight"].shape
    torch.Size([4, 8])
    >>> state["band_split.linears.0.weight"].shape  # bands, C, 2 w
    torch.Size([1, 4, 4])
    """
    num_channels, num_layers = _sizes(state_dict)
    _check(state_dict, public_shapes(num_channels, num_layers))
    return {
        **_convert_layers(state_dict),
        **_convert_bands(state_dict, BandLayout()),
    }


def public_shapes(num_channels, num_layers):
    """Map names of the parameters of the public BSRNN to their shapes.

    The public results are those of 64 channels and 5 layers over time, and as
    many over bands.

    Example
    -------
    >>> shapes = public_shapes(num_channels=64, num_layers=5)
    >>> shapes["lstm_t1.weight_ih_l0"], shapes["fc_k5.weight"]
    ((512, 64), (64, 256))
    """
    c, modules = num_channels, {}
    with torch.device("meta"):  # shapes alone
        for layer in range(1, num_layers + 1):
            for axis, directions in (("t", 1), ("k", 2)):
                hidden = 2 * c * directions
                modules[f"norm_{axis}{layer}"] = nn.GroupNorm(1, c)
                modules[f"lstm_{axis}{layer}"] = nn.LSTM(
                    c, 2 * c, bidirectional=directions == 2
                )
                modules[f"fc_{axis}{layer}"] = nn.Linear(hidden, c)
        for band, width in enumerate(BandLayout().widths, start=1):
            modules[f"band_split.norm{band}"] = nn.GroupNorm(1, 2 * width)
            modules[f"band_split.fc{band}"] = nn.Linear(2 * width, c)
            modules[f"mask_decoder.norm{band}"] = nn.GroupNorm(1, c)
            modules[f"mask_decoder.fc1{band}"] = nn.Linear(c, 4 * c)
            modules[f"mask_decoder.fc2{band}"] = nn.Linear(4 * c, 12 * width)
    return {
        f"{name}.{part}": tuple(parameter.shape)
        for name, module in modules.items()
        for part, parameter in module.named_parameters()
    }


def _sizes(state_dict):
    """Channels and layers of a public state."""
    names = (re.match(r"(norm|lstm|fc)_[tk](\d+)\.", n) for n in state_dict)
    layers = [int(match[2]) for match in names if match]
    if not layers or "norm_t1.weight" not in state_dict:
        raise ValueError(
            "found no norm_t1.weight, expected the state of the public BSRNN; "
            "give the state_dict of its generator, without any prefix"
        )
    return state_dict["norm_t1.weight"].numel(), max(layers)


def _check(state_dict, shapes):
    """Refuse a state unless its names and shapes are those expected."""
    problems = []
    for problem, names in (
        ("missing", shapes.keys() - state_dict.keys()),
        ("unexpected", state_dict.keys() - shapes.keys()),
    ):
        if names:
            problems.append(f"{problem} keys {', '.join(sorted(names))}")
    for name in sorted(shapes.keys() & state_dict.keys()):
        given = tuple(state_dict[name].shape)
        if given != shapes[name]:
            problems.append(f"{name} is {given}, expected {shapes[name]}")
    if problems:
        raise ValueError(
            f"not the state of the public BSRNN: {'; '.join(problems)}; give "
            f"the state_dict of its generator, without any prefix"
        )


def _convert_layers(public):
    """The LSTM layers; only their names change."""
    state = {}
    for name, value in public.items():
        match = re.fullmatch(r"(norm|lstm|fc)_([tk])(\d+)\.(\w+)", name)
        if match:
            module, axis, number, part = match.groups()
            layer = f"{LAYERS[axis]}.{int(number) - 1}"
            state[f"{layer}.{PARTS[module]}.{part}"] = value.clone()
    return state


def _convert_bands(public, layout):
    """Band split and mask decoder; bands of one width are stacked."""
    state = {}

    def stack(ours, name, bands, norm=False):
        """Stack the weights of some bands."""
        for part in ("weight", "bias"):
            value = torch.stack([public[f"{name}{k}.{part}"] for k in bands])
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
