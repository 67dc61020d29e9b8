"""BSRNN: the public implementation, band by band, and its weights."""

from itertools import product

import pytest
import torch
from torch import nn

from dbtransform_lobes.models.bsrnn import BSRNN
from dbtransform_lobes.models.bsrnn_checkpoint import convert_public_state_dict
from dbtransform_lobes.models.level import over_signal_level
from tests.formulas import filter_twin
from tests.twins import array, assert_twin, scramble, spectrum

ORDERS = {"sequential": "ttkk", "interleaved": "tktk"}
PUBLIC_WIDTHS = [2] + 10 * [3] + 12 * [8] + 7 * [16] + [17]


def along(lstm, x):
    """From the first step of (B, L, C) to the last; if both ways, then back."""
    return lstm(x)[0]


def backwards(lstm, x):
    """From the last step to the first."""
    return lstm(x.flip(1))[0].flip(1)


def swapped(lstm, x):
    """Backwards beside forwards."""
    return torch.cat(lstm(x)[0].chunk(2, dim=-1)[::-1], dim=-1)


def by_band(norm, z):
    """What the norm of the layers is not; z (B, C, T, K)."""
    return torch.stack([norm(band) for band in z.unbind(-1)], dim=-1)


class Public(nn.Module):
    """The public implementation: its names, its loops, random weights."""

    def __init__(self, c, layers, seed=0):
        super().__init__()
        for i, axis in product(range(1, layers + 1), "tk"):
            lstm = nn.LSTM(
                c, 2 * c, batch_first=True, bidirectional=axis == "k"
            )
            width = 2 * c if axis == "t" else 4 * c
            self.add_module(f"norm_{axis}{i}", nn.GroupNorm(1, c))
            self.add_module(f"lstm_{axis}{i}", lstm)
            self.add_module(f"fc_{axis}{i}", nn.Linear(width, c))
        self.band_split, self.mask_decoder = nn.ModuleDict(), nn.ModuleDict()
        for i, width in enumerate(PUBLIC_WIDTHS, start=1):
            self.band_split[f"norm{i}"] = nn.GroupNorm(1, 2 * width)
            self.band_split[f"fc{i}"] = nn.Linear(2 * width, c)
            self.mask_decoder[f"norm{i}"] = nn.GroupNorm(1, c)
            self.mask_decoder[f"fc1{i}"] = nn.Linear(c, 4 * c)
            self.mask_decoder[f"fc2{i}"] = nn.Linear(4 * c, 12 * width)
        scramble(self, seed)

    def forward(
        self, spec, order="ttkk", t=along, k=along, normalise=nn.Module.__call__
    ):
        """What it computes of complex (B, F, T), or a wrong form of that."""
        z = self.split(spec)
        for place, axis in enumerate(order):
            name = f"{axis}{1 + order[:place].count(axis)}"
            x = normalise(getattr(self, f"norm_{name}"), z)
            x = (x if axis == "t" else x.mT).transpose(1, 3)  # steps, C last
            run = t if axis == "t" else k
            y = run(getattr(self, f"lstm_{name}"), x.flatten(0, 1))
            y = getattr(self, f"fc_{name}")(y).view(x.shape).transpose(1, 3)
            z = z + (y if axis == "t" else y.mT)
        return filter_twin(array(self.mask(z)), array(spec))

    def split(self, spec):
        """(B, F, T) to (B, C, T, K); re and im of a bin are neighbours."""
        bands = []
        for i, band in enumerate(spec.split(PUBLIC_WIDTHS, dim=1), start=1):
            x = torch.view_as_real(band).movedim(-1, 2).flatten(1, 2)
            x = self.band_split[f"norm{i}"](x)
            bands.append(self.band_split[f"fc{i}"](x.mT).mT)
        return torch.stack(bands, dim=-1)

    def mask(self, z):
        """(B, C, T, K) to complex (B, F, T, 3): bin, tap, then re and im."""
        bins = []
        for i, width in enumerate(PUBLIC_WIDTHS, start=1):
            x = self.mask_decoder[f"norm{i}"](z[..., i - 1]).mT
            x = self.mask_decoder[f"fc1{i}"](x).tanh()
            value, gate = self.mask_decoder[f"fc2{i}"](x).chunk(2, dim=-1)
            taps = (value * gate.sigmoid()).unflatten(-1, (width, 3, 2))
            bins.append(torch.view_as_complex(taps).transpose(1, 2))
        return torch.cat(bins, dim=1)


@pytest.mark.parametrize("order, other", [ORDERS, list(ORDERS)[::-1]])
def test_public_weights_give_the_public_output(order, other):
    """Also in the order of the paper, which has the same weights."""
    public = Public(c=3, layers=2)
    state = public.state_dict()
    model = BSRNN(num_channels=3, num_layers=2, order=order).double()
    before = {name: value.clone() for name, value in state.items()}
    model.load_state_dict(convert_public_state_dict(state), strict=True)
    letters = ORDERS[order]
    # The public model does not normalise the level itself.
    spec, _ = over_signal_level(spectrum(2, 257, 4))
    assert_twin(
        model(spec),
        public(spec, letters),
        public(spec, ORDERS[other]),
        public(spec, letters, t=backwards),
        public(spec, letters, k=swapped),
        public(spec, letters, normalise=by_band),
        Public(3, 2, seed=9)(spec, letters),
    )
    # Training the model must not change the state that was converted.
    scramble(model, seed=5)
    assert all(torch.equal(before[name], state[name]) for name in state)


def test_public_names_and_shapes_at_the_public_size():
    state = Public(c=64, layers=5).state_dict()
    assert len(state) == 410
    converted = convert_public_state_dict(state)
    assert sum(value.numel() for value in converted.values()) == 2_963_024
    for order in ORDERS:
        BSRNN(order=order).load_state_dict(converted, strict=True)


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("mask_decoder.fc131.bias", None, "fc131.bias' is missing"),
        ("a", (1,), "a are unknown, expected"),
        ("fc_k2.bias", None, "Missing .*band_layers.1.linear.bias"),
        ("fc_t3.bias", (2,), "Unexpected .*time_layers.2.linear.bias"),
        ("fc_t1.weight", (2, 3), "mismatch for time_layers.0.linear.weight"),
        ("band_split.fc31.weight", (2, 32), "mismatch for band_split.linears"),
    ],
)
def test_other_layers_and_shapes_are_refused(name, shape, message):
    state = Public(c=2, layers=2).state_dict()
    state.pop(name, None)
    if shape:
        state[name] = torch.ones(shape)
    model = BSRNN(num_channels=2, num_layers=2)
    with pytest.raises((ValueError, RuntimeError), match=message):
        model.load_state_dict(convert_public_state_dict(state))


def test_states_of_other_names_are_refused():
    state = Public(c=2, layers=2).state_dict()
    prefixed = {f"module.{name}": part for name, part in state.items()}
    for other, message in (
        (prefixed, ".* without any prefix"),
        ({}, "expected"),
    ):
        with pytest.raises(ValueError, match=f"is missing, {message}"):
            convert_public_state_dict(other)
