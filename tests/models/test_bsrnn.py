"""BSRNN: literal recurrences, composition, and the public weights."""

import numpy as np
import pytest
import torch
from torch import nn

from dbtransform_lobes.models.bsrnn import BSRNN
from dbtransform_lobes.models.bsrnn_checkpoint import convert_public_state_dict
from dbtransform_lobes.models.level import over_signal_level
from tests.formulas import filter_twin, sigmoid, standardise
from tests.twins import array, assert_twin, scramble, spectrum

ORDERS = {"sequential": "ttkk", "interleaved": "tktk"}
PUBLIC_WIDTHS = [2] + 10 * [3] + 12 * [8] + 7 * [16] + [17]


def lstm_twin(weights, x, suffix="", backwards=False):
    """c = f c + i g, h = o tanh(c), one step of x (steps, C) at a time."""
    w_x, w_h = (weights[f"weight_{to}_l0{suffix}"] for to in ("ih", "hh"))
    bias = weights[f"bias_ih_l0{suffix}"] + weights[f"bias_hh_l0{suffix}"]
    hidden, cell = np.zeros((2, w_h.shape[1]))
    out = np.zeros((len(x), w_h.shape[1]))
    steps = range(len(x))
    for t in reversed(steps) if backwards else steps:
        i, f, g, o = np.split(w_x @ x[t] + w_h @ hidden + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        out[t] = hidden
    return out


def both_ways(weights, x):
    """Forwards beside backwards."""
    backwards = lstm_twin(weights, x, "_reverse", backwards=True)
    return np.concatenate([lstm_twin(weights, x), backwards], axis=-1)


def swapped(weights, x):
    """Backwards beside forwards."""
    return np.roll(both_ways(weights, x), len(x[0]) * 2, axis=-1)


def backwards_twin(weights, x):
    """From the last step to the first."""
    return lstm_twin(weights, x, backwards=True)


def norm_twin(x, parts):
    """All channels, frames (and bands) of a signal as one; x (C, ...)."""
    shape = (-1, *(x.ndim - 1) * [1])
    weight, bias = (parts[name].reshape(shape) for name in ("weight", "bias"))
    return standardise(x) * weight + bias


def norm_by_band(x, parts):
    """What the norm of the layers is not."""
    bands = np.moveaxis(x, 2, 0)
    return np.stack([norm_twin(band, parts) for band in bands], axis=2)


def public_state(c, layers, seed=0):
    """Random state with the names and shapes of the public implementation."""
    modules = {}
    for i in range(1, layers + 1):
        modules[f"norm_t{i}"] = nn.GroupNorm(1, c)
        modules[f"lstm_t{i}"] = nn.LSTM(c, 2 * c)
        modules[f"fc_t{i}"] = nn.Linear(2 * c, c)
        modules[f"norm_k{i}"] = nn.GroupNorm(1, c)
        modules[f"lstm_k{i}"] = nn.LSTM(c, 2 * c, bidirectional=True)
        modules[f"fc_k{i}"] = nn.Linear(4 * c, c)
    for i, width in enumerate(PUBLIC_WIDTHS, start=1):
        modules[f"band_split.norm{i}"] = nn.GroupNorm(1, 2 * width)
        modules[f"band_split.fc{i}"] = nn.Linear(2 * width, c)
        modules[f"mask_decoder.norm{i}"] = nn.GroupNorm(1, c)
        modules[f"mask_decoder.fc1{i}"] = nn.Linear(c, 4 * c)
        modules[f"mask_decoder.fc2{i}"] = nn.Linear(4 * c, 12 * width)
    return {
        f"{name}.{part}": value.detach()
        for number, (name, module) in enumerate(modules.items())
        for part, value in scramble(module, seed + number).named_parameters()
    }


def public_part(state, name):
    """The parameters of one module of the public implementation."""
    return {
        part.removeprefix(f"{name}."): array(value)
        for part, value in state.items()
        if part.startswith(f"{name}.")
    }


def public_split(state, spec):
    """(F, T) of one signal to (C, T, K); re and im of a bin are neighbours."""
    first, bands = 0, []
    for i, width in enumerate(PUBLIC_WIDTHS, start=1):
        rows = []
        for bin_ in spec[first : first + width]:
            rows += [bin_.real, bin_.imag]
        norm = public_part(state, f"band_split.norm{i}")
        fc = public_part(state, f"band_split.fc{i}")
        rows = norm_twin(np.array(rows), norm)
        bands.append(fc["weight"] @ rows + fc["bias"][:, None])
        first += width
    return np.stack(bands, axis=-1)


def public_layers(
    state,
    z,
    order="ttkk",
    over_time=lstm_twin,
    over_bands=both_ways,
    normalise=norm_twin,
):
    """z (C, T, K) + fc(lstm(norm(z))), layer by layer."""
    for place, axis in enumerate(order):
        i = 1 + order[:place].count(axis)
        lstm = public_part(state, f"lstm_{axis}{i}")
        fc = public_part(state, f"fc_{axis}{i}")
        x = normalise(z, public_part(state, f"norm_{axis}{i}"))
        run = over_time if axis == "t" else over_bands
        x = np.moveaxis(x, 2 if axis == "t" else 1, 0)  # sequences (n, C, L)
        y = np.array([fc["weight"] @ run(lstm, part.T).T for part in x])
        y = y + fc["bias"][:, None]
        z = z + np.moveaxis(y, 0, 2 if axis == "t" else 1)
    return z


def public_mask(state, z):
    """(C, T, K) to complex (F, T, 3): bin, tap, then real and imaginary."""
    bins = []
    for i, width in enumerate(PUBLIC_WIDTHS, start=1):
        norm = public_part(state, f"mask_decoder.norm{i}")
        fc1 = public_part(state, f"mask_decoder.fc1{i}")
        fc2 = public_part(state, f"mask_decoder.fc2{i}")
        x = norm_twin(z[:, :, i - 1], norm)
        x = np.tanh(fc1["weight"] @ x + fc1["bias"][:, None])
        x = fc2["weight"] @ x + fc2["bias"][:, None]
        x = x[: 6 * width] * sigmoid(x[6 * width :])
        for row in range(0, 6 * width, 6):
            taps = [x[row + 2 * n] + 1j * x[row + 2 * n + 1] for n in range(3)]
            bins.append(np.stack(taps, axis=-1))
    return np.stack(bins)


def public_forward(state, spec, order="ttkk", **wrong):
    """What the public implementation computes of (B, F, T)."""
    masks = []
    for signal in spec:
        z = public_layers(state, public_split(state, signal), order, **wrong)
        masks.append(public_mask(state, z))
    return filter_twin(np.stack(masks), spec)


@pytest.mark.parametrize("order, other", [ORDERS, list(ORDERS)[::-1]])
def test_public_weights_give_the_public_output(order, other):
    """Also in the order of the paper, which has the same weights."""
    state = public_state(c=3, layers=2)
    model = BSRNN(num_channels=3, num_layers=2, order=order).double()
    before = {name: value.clone() for name, value in state.items()}
    model.load_state_dict(convert_public_state_dict(state), strict=True)
    letters = ORDERS[order]
    # The public model does not normalise the level itself.
    spec, _ = over_signal_level(spectrum(2, 257, 4))
    assert_twin(
        model(spec),
        public_forward(state, array(spec), letters),
        public_forward(state, array(spec), ORDERS[other]),
        public_forward(state, array(spec), letters, over_time=backwards_twin),
        public_forward(state, array(spec), letters, over_bands=swapped),
        public_forward(state, array(spec), letters, normalise=norm_by_band),
        public_forward(public_state(3, 2, seed=9), array(spec), letters),
    )
    # Training the model must not change the state that was converted.
    scramble(model, seed=5)
    assert all(torch.equal(before[name], state[name]) for name in state)


def test_public_names_and_shapes_at_the_public_size():
    state = public_state(c=64, layers=5)
    assert len(state) == 410
    converted = convert_public_state_dict(state)
    assert sum(value.numel() for value in converted.values()) == 2_963_024
    for order in ORDERS:
        BSRNN(order=order).load_state_dict(converted, strict=True)


def changed_state(changes):
    """The state with other tensors; without those that are None."""
    state = {**public_state(c=2, layers=2), **changes}
    return {name: part for name, part in state.items() if part is not None}


def test_other_states_are_refused():
    prefixed = {f"module.{n}": part for n, part in changed_state({}).items()}
    no_bias = changed_state({"mask_decoder.fc131.bias": None})
    for state, message in (
        (no_bias, "fc131.bias' is missing"),
        (changed_state({"a": torch.ones(1)}), "a are unknown, expected"),
        (prefixed, "is missing, .* without any prefix"),
        ({}, "is missing, expected the state"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_public_state_dict(state)


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("fc_k2.bias", None, "Missing .*band_layers.1.linear.bias"),
        ("fc_t3.bias", (2,), "Unexpected .*time_layers.2.linear.bias"),
        ("fc_t1.weight", (2, 3), "mismatch for time_layers.0.linear.weight"),
        ("band_split.fc31.weight", (2, 32), "mismatch for band_split.linears"),
    ],
)
def test_other_layers_and_shapes_are_refused(name, shape, message):
    state = changed_state({name: torch.ones(shape) if shape else None})
    model = BSRNN(num_channels=2, num_layers=2)
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(convert_public_state_dict(state))
