"""Weights of the public BSRNN, renamed and stacked for ours.

The public implementation (GitHub, sungwon23/BSRNN) numbers its layers and
bands from 1 in the names of its parameters and holds every band by itself;
ours hold bands of one width as one tensor.
"""

import re

import torch

from dbtransform_lobes.models.bands import BandLayout

LSTM_PARTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
LSTM_COLUMNS = {"weight_ih_l0": 1, "weight_hh_l0": 2}  # times C
AFFINE_PARTS = ("weight", "bias")


def convert_public_state_dict(state_dict):
    """State of the public BSRNN as state of ours, order "sequential".

    The number of layers and of channels is read from the state; the bands
    are those of ``bsrnn_16k``. The mapping is strict: every name must be
    there with its shape and no other. Nothing is computed, values are copied.

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

    Raises
    ------
    ValueError
        If names are missing or unexpected, or shapes differ, with a list.

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
        **_convert_layers(state_dict, num_layers),
        **_convert_bands(state_dict, BandLayout()),
    }


def public_shapes(num_channels, num_layers):
    """Names and shapes of the parameters of the public BSRNN.

    Arguments
    ---------
    num_channels : int
        C; 64 in the public results.
    num_layers : int
        LSTMs over time, and as many over bands; 5 in the public results.

    Returns
    -------
    dict
        Name to shape, a tuple of int.

    Example
    -------
    >>> shapes = public_shapes(num_channels=64, num_layers=5)
    >>> shapes["lstm_t1.weight_ih_l0"], shapes["fc_k5.weight"]
    ((512, 64), (64, 256))
    """
    c, shapes = num_channels, {}

    def norm(name, size):
        """Note the shapes of a norm."""
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    def linear(name, size, out):
        """Note the shapes of a linear map."""
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, size), (out,)

    for layer in range(1, num_layers + 1):
        for axis, directions in (("t", 1), ("k", 2)):
            norm(f"norm_{axis}{layer}", c)
            for part in _lstm_parts(axis):
                columns = LSTM_COLUMNS.get(part.removesuffix("_reverse"))
                shapes[f"lstm_{axis}{layer}.{part}"] = (
                    (8 * c, columns * c) if columns else (8 * c,)
                )
            linear(f"fc_{axis}{layer}", directions * 2 * c, c)
    for band, width in enumerate(BandLayout().widths, start=1):
        norm(f"band_split.norm{band}", 2 * width)
        linear(f"band_split.fc{band}", 2 * width, c)
        norm(f"mask_decoder.norm{band}", c)
        linear(f"mask_decoder.fc1{band}", c, 4 * c)
        linear(f"mask_decoder.fc2{band}", 4 * c, 12 * width)
    return shapes


def _lstm_parts(axis):
    """Parameters of an LSTM: over time forwards, over bands both ways."""
    if axis == "t":
        return LSTM_PARTS
    return LSTM_PARTS + tuple(f"{part}_reverse" for part in LSTM_PARTS)


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


def _convert_layers(public, num_layers):
    """The LSTM layers; only their names change."""
    state = {}
    for ours, axis in (("time_layers", "t"), ("band_layers", "k")):
        for layer in range(num_layers):
            for module, name, parts in (
                ("norm", "norm", AFFINE_PARTS),
                ("lstm", "lstm", _lstm_parts(axis)),
                ("linear", "fc", AFFINE_PARTS),
            ):
                for part in parts:
                    value = public[f"{name}_{axis}{layer + 1}.{part}"]
                    state[f"{ours}.{layer}.{module}.{part}"] = value.clone()
    return state


def _convert_bands(public, layout):
    """Band split and mask decoder; bands of one width are stacked."""
    state = {}

    def stack(ours, name, bands, norm=False):
        """Stack the weights of some bands."""
        for part in AFFINE_PARTS:
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
