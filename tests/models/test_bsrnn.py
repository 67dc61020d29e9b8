"""BSRNN: literal recurrences, composition, and the public weights."""

import numpy as np
import pytest
import torch
from torch import nn

from dbtransform_lobes.models.bsrnn import BSRNN, ChannelNorm, ResidualLSTM
from dbtransform_lobes.models.bsrnn_checkpoint import (
    convert_public_state_dict,
    public_shapes,
)
from dbtransform_lobes.models.level import over_signal_level
from dbtransform_lobes.models.spectrum import real_parts
from tests.twins import (
    array,
    assert_twin,
    mask_of,
    randn,
    scramble,
    sigmoid,
)

TINY = {
    "n_fft": 32,
    "band_widths": [1, 1, 2, 2, 3, 4, 4],
    "num_channels": 4,
    "num_layers": 2,
}
ORDERS = ["sequential", "interleaved"]
each_order = pytest.mark.parametrize("order", ORDERS)
PUBLIC_WIDTHS = [2] + 10 * [3] + 12 * [8] + 7 * [16] + [17]


def tiny(order="sequential", **changes):
    torch.manual_seed(0)
    return BSRNN(**{**TINY, "order": order, **changes})


def spectrum(*shape, seed=0, dtype=torch.float64):
    """A random complex spectrum whose frames differ in level."""
    parts = [randn(*shape, seed=seed + i, dtype=dtype) for i in range(2)]
    return torch.complex(*parts) * (1 + torch.arange(shape[-1]) % 3)


def lstm_twin(weights, x, suffix="", backwards=False):
    """c = f c + i g, h = o tanh(c), one step of x (steps, C) at a time."""
    w_x, w_h = (
        weights[f"weight_ih_l0{suffix}"],
        weights[f"weight_hh_l0{suffix}"],
    )
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
    return np.concatenate(
        [lstm_twin(weights, x), lstm_twin(weights, x, "_reverse", True)], -1
    )


def norm_twin(x, weight, bias, channel_axis):
    """(x - mean) / sqrt(var + 1e-5) of all values of one signal."""
    shape = [1] * x.ndim
    shape[channel_axis] = -1
    x = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return x * weight.reshape(shape) + bias.reshape(shape)


def numbers(module):
    """The parameters of a module by name."""
    return {name: array(value) for name, value in module.named_parameters()}


def test_norm_has_one_mean_for_all_bands_of_a_signal():
    norm = scramble(ChannelNorm(4))
    x = randn(3, 2, 5, 4) * torch.arange(1, 4).view(3, 1, 1, 1)
    w = numbers(norm)
    expected, wrong = np.zeros((2, *x.shape))
    for b in range(2):
        values = array(x)[:, b]
        expected[:, b] = norm_twin(values, w["weight"], w["bias"], 2)
        for k in range(3):  # one mean for each band
            wrong[k, b] = norm_twin(values[k], w["weight"], w["bias"], 1)
    assert_twin(norm(x), expected, wrong)


def layer_twin(layer, z, axis, recurrence):
    """z + W recurrence(norm(z)) + b of z (K, B, T, C) by loops."""
    z, w = array(z), numbers(layer.lstm)
    weight, bias = array(layer.linear.weight), array(layer.linear.bias)
    gain, offset = array(layer.norm.weight), array(layer.norm.bias)
    out = z.copy()
    for b in range(z.shape[1]):
        x = norm_twin(z[:, b], gain, offset, 2)
        if axis == "time":
            for k in range(len(z)):
                out[k, b] += recurrence(w, x[k]) @ weight.T + bias
        else:
            for t in range(z.shape[2]):
                out[:, b, t] += recurrence(w, x[:, t]) @ weight.T + bias
    return out


def test_layer_over_time_equals_its_twin():
    layer = scramble(ResidualLSTM(4, "time"))
    z = randn(3, 2, 5, 4)

    def backwards(weights, x):
        return lstm_twin(weights, x, backwards=True)

    assert_twin(
        layer(z),
        layer_twin(layer, z, "time", lstm_twin),
        layer_twin(layer, z, "time", backwards),
        layer_twin(layer, z, "bands", lstm_twin),
    )


def test_layer_over_bands_equals_its_twin():
    layer = scramble(ResidualLSTM(4, "bands"))
    z = randn(3, 2, 5, 4)

    def swapped(weights, x):
        return np.roll(both_ways(weights, x), 8, axis=-1)

    assert_twin(
        layer(z),
        layer_twin(layer, z, "bands", both_ways),
        layer_twin(layer, z, "bands", swapped),
        layer_twin(layer, z, "time", both_ways),
    )


def model_twin(model, spec, order):
    """Split; layers one after the other; mask; 3-tap filter by loops."""
    z = array(model.band_split(real_parts(over_signal_level(spec)[0])))
    layers = [(layer, "time", lstm_twin) for layer in model.time_layers]
    others = [(layer, "bands", both_ways) for layer in model.band_layers]
    if order == "sequential":
        layers = layers + others
    else:
        layers = [layers[0], others[0], layers[1], others[1]]
    for layer, axis, recurrence in layers:
        z = layer_twin(layer, torch.from_numpy(z), axis, recurrence)
    return filter_twin(
        array(mask_of(model.mask_decoder(torch.from_numpy(z)))), array(spec)
    )


def filter_twin(mask, spec):
    """Y[f, t] = sum_{tau=-1..1} M[f, t, tau] X[f, t + tau], zero outside."""
    out = np.zeros_like(spec)
    for b, f, t in np.ndindex(spec.shape):
        for tau in (-1, 0, 1):
            if 0 <= t + tau < spec.shape[-1]:
                out[b, f, t] += mask[b, f, t, tau + 1] * spec[b, f, t + tau]
    return out


@pytest.mark.parametrize("order, other", [ORDERS, ORDERS[::-1]])
def test_model_equals_its_twin_and_order_matters(order, other):
    model = scramble(tiny(order))
    spec = spectrum(2, 17, 4)
    assert_twin(
        model(spec),
        model_twin(model, spec, order),
        model_twin(model, spec, other),
    )


def test_size_is_that_of_the_public_implementation():
    bands, bins, c = 31, 257, 64
    split = 4 * bins + 2 * bins * c + bands * c
    time = 2 * c + 4 * 2 * c * (c + 2 * c + 2) + 2 * c * c + c
    both = 2 * c + 2 * 4 * 2 * c * (c + 2 * c + 2) + 4 * c * c + c
    decoder = bands * (2 * c + 4 * c * c + 4 * c) + 12 * bins * (4 * c + 1)
    total = split + 5 * time + 5 * both + decoder
    assert total == 2_963_024
    for order in ORDERS:
        model = BSRNN(order=order)
        assert sum(p.numel() for p in model.parameters()) == total


@each_order
@pytest.mark.parametrize("frames", [1, 2, 50])
def test_shape_and_type_are_those_of_the_input(order, frames):
    model = tiny(order)
    for batch in (1, 3):
        spec = spectrum(batch, 17, frames, dtype=torch.float32)
        out = model(spec)
        assert out.shape == spec.shape
        assert out.dtype == torch.complex64
        assert torch.isfinite(torch.view_as_real(out)).all()
        assert out.abs().max() > 0


def test_default_layout_takes_257_bins():
    model = BSRNN(num_channels=4, num_layers=1)
    spec = spectrum(2, 257, 3, dtype=torch.float32)
    assert model(spec).shape == spec.shape
    assert model.layout.num_bands == 31


def test_expansion_is_the_width_of_the_decoder():
    for expansion in (1, 4):
        model = tiny(decoder_expansion=expansion)
        expand = model.mask_decoder.expand
        assert expand.weight.shape[1:] == (4 * expansion, 4)


@each_order
def test_silence_stays_silent(order):
    model = tiny(order)
    spec = torch.zeros(2, 17, 9, dtype=torch.complex64)
    out = model(spec)
    assert torch.equal(out, spec)
    target = spectrum(2, 17, 9, dtype=torch.float32)
    (out - target).abs().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@each_order
def test_gradients_reach_every_parameter(order):
    model = tiny(order)
    spec = spectrum(2, 17, 12, dtype=torch.float32)
    target = spectrum(2, 17, 12, seed=7, dtype=torch.float32)
    (model(spec) - target).abs().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@each_order
def test_items_of_a_batch_do_not_see_each_other(order):
    model = scramble(tiny(order))
    spec = spectrum(3, 17, 11)
    spec[1] *= 100
    together = model(spec)
    for item in range(3):
        alone = model(spec[item : item + 1])[0]
        assert_twin(together[item], array(alone))
    assert (together[0] - together[2]).abs().max() > 1e-2


@each_order
def test_bfloat16_comes_close(order):
    model = tiny(order)
    spec = spectrum(2, 17, 20, dtype=torch.float32)
    exact = model(spec)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(spec)
    except RuntimeError as error:  # oneDNN, without AVX-512
        if "LSTM forward propagation primitive" not in str(error):
            raise
        pytest.skip("this processor has no LSTM in bfloat16")
    assert out.dtype == torch.complex64
    assert not torch.equal(out, exact)
    error = (out - exact).abs().square().mean()
    assert error < 0.05**2 * exact.abs().square().mean()


@pytest.mark.parametrize(
    "shape, dtype, message",
    [
        ((1, 17, 4), torch.float32, "torch.float32, expected a complex"),
        ((1, 16, 4), torch.complex64, r"\(1, 16, 4\), expected \(batch, 17"),
        ((17, 4), torch.complex64, r"\(17, 4\), expected \(batch, 17"),
        ((1, 1, 17, 4), torch.complex64, r"expected \(batch, 17 bins"),
        ((1, 17, 0), torch.complex64, "at least 1 frame"),
    ],
)
def test_bad_input_is_refused(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_layers": 0}, "num_layers is 0, expected at least 1"),
        ({"num_channels": 0}, "num_channels is 0, expected at least 1"),
        ({"order": "random"}, "'random', expected 'sequential' or 'inter"),
        ({"decoder_expansion": 0}, "expansion is 0, expected"),
        ({"n_fft": 64}, r"sum to 17, expected n_fft // 2 \+ 1 = 33"),
        ({"band_widths": "mel"}, "unknown band layout 'mel', expected"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="'frames', expected 'time' or 'ba"):
        ResidualLSTM(4, "frames")


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
        rows = norm_twin(np.array(rows), norm["weight"], norm["bias"], 0)
        bands.append(fc["weight"] @ rows + fc["bias"][:, None])
        first += width
    return np.stack(bands, axis=-1)


def public_layers(state, z, axes, layers):
    """z (C, T, K) + fc(lstm(norm(z))), all layers of each axis in turn."""
    for axis in axes:
        for i in range(1, layers + 1):
            norm = public_part(state, f"norm_{axis}{i}")
            lstm = public_part(state, f"lstm_{axis}{i}")
            fc = public_part(state, f"fc_{axis}{i}")
            x, out = norm_twin(z, norm["weight"], norm["bias"], 0), z.copy()
            for n in range(z.shape[2 if axis == "t" else 1]):
                sequence = x[:, :, n] if axis == "t" else x[:, n, :]
                run = lstm_twin if axis == "t" else both_ways
                y = fc["weight"] @ run(lstm, sequence.T).T + fc["bias"][:, None]
                where = np.s_[:, :, n] if axis == "t" else np.s_[:, n, :]
                out[where] += y
            z = out
    return z


def public_mask(state, z):
    """(C, T, K) to complex (F, T, 3): bin, tap, then real and imaginary."""
    bins = []
    for i, width in enumerate(PUBLIC_WIDTHS, start=1):
        norm = public_part(state, f"mask_decoder.norm{i}")
        fc1 = public_part(state, f"mask_decoder.fc1{i}")
        fc2 = public_part(state, f"mask_decoder.fc2{i}")
        x = norm_twin(z[:, :, i - 1], norm["weight"], norm["bias"], 0)
        x = np.tanh(fc1["weight"] @ x + fc1["bias"][:, None])
        x = fc2["weight"] @ x + fc2["bias"][:, None]
        x = x[: 6 * width] * sigmoid(x[6 * width :])
        for row in range(0, 6 * width, 6):
            taps = [x[row + 2 * n] + 1j * x[row + 2 * n + 1] for n in range(3)]
            bins.append(np.stack(taps, axis=-1))
    return np.stack(bins)


def public_forward(state, spec, layers, axes="tk"):
    """What the public implementation computes of (B, F, T)."""
    masks = []
    for signal in spec:
        z = public_layers(state, public_split(state, signal), axes, layers)
        masks.append(public_mask(state, z))
    return filter_twin(np.stack(masks), spec)


def test_public_weights_give_the_public_output():
    state = public_state(c=3, layers=2)
    model = BSRNN(num_channels=3, num_layers=2).double()
    before = {name: value.clone() for name, value in state.items()}
    model.load_state_dict(convert_public_state_dict(state), strict=True)
    # The public model does not normalise the level itself.
    spec, _ = over_signal_level(spectrum(2, 257, 4))
    assert_twin(
        model(spec),
        public_forward(state, array(spec), 2),
        public_forward(state, array(spec), 2, axes="kt"),
        public_forward(public_state(3, 2, seed=9), array(spec), 2),
    )
    # Training the model must not change the state that was converted.
    scramble(model, seed=5)
    assert all(torch.equal(before[name], state[name]) for name in state)


def test_public_names_and_shapes_at_the_public_size():
    shapes = public_shapes(num_channels=64, num_layers=5)
    state = public_state(c=64, layers=5)
    assert shapes == {name: tuple(v.shape) for name, v in state.items()}
    assert len(shapes) == 410
    converted = convert_public_state_dict(state)
    assert sum(value.numel() for value in converted.values()) == 2_963_024
    BSRNN().load_state_dict(converted, strict=True)


def changed_state(change):
    state = public_state(c=2, layers=2)
    change(state)
    return state


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda s: (s.pop("fc_k2.bias"), s.pop("mask_decoder.fc131.bias")),
            r"missing keys fc_k2\.bias, mask_decoder\.fc131\.bias; give",
        ),
        (
            lambda s: s.update({"window": torch.ones(2), "a": torch.ones(1)}),
            "unexpected keys a, window; give",
        ),
        (
            lambda s: (s.pop("norm_t2.weight"), s.update(b=torch.ones(1))),
            r"missing keys norm_t2\.weight; unexpected keys b; give",
        ),
        (
            lambda s: s.update({"fc_t1.weight": torch.ones(2, 3)}),
            r"fc_t1\.weight is \(2, 3\), expected \(2, 4\)",
        ),
        (
            lambda s: s.update({"band_split.fc31.weight": torch.ones(2, 32)}),
            r"fc31\.weight is \(2, 32\), expected \(2, 34\)",
        ),
        (
            lambda s: s.update(
                {f"module.{name}": s.pop(name) for name in list(s)}
            ),
            "found no norm_t1.weight, .* without any prefix",
        ),
        (lambda s: s.clear(), "found no norm_t1.weight, expected the state"),
    ],
)
def test_other_states_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        convert_public_state_dict(changed_state(change))
