"""What all models and blocks have in common: shapes, gradients, bf16, ..."""

import re
from itertools import product

import pytest
import torch

from tests.models.tiny import (
    BASELINES,
    BLOCKS,
    any_model,
    block,
    each_model,
    tiny,
)
from tests.twins import (
    array,
    assert_gradients,
    assert_twin,
    close_in_bf16,
    randn,
    scramble,
    spectrum,
)

# Biases in front of a norm, which subtracts them again.
ANNULLED = re.compile(
    r"encoder\.layers\.(0|4)\.bias"
    r"|.*\.layers\.\d\.1\.bias"  # of the dense blocks
    r"|mask_decoder\.layers\.2\.bias"
    r"|.*\.depthwise\.bias"
)


def lose(model, spec, seed=7):
    """Let a squared error towards another spectrum flow back."""
    target = spectrum(*spec.shape, seed=seed).to(spec.dtype)
    (model(spec) - target).abs().square().mean().backward()


@pytest.mark.parametrize("frames", [1, 2, 3, 50])
@each_model
def test_shape_and_type_are_those_of_the_input(name, frames):
    model = any_model(name)
    for batch, training in product((1, 3), (True, False)):
        spec = spectrum(batch, 17, frames, dtype=torch.float32)
        out = model.train(training)(spec)
        assert out.shape == spec.shape
        assert out.dtype == torch.complex64
        assert torch.isfinite(torch.view_as_real(out)).all()
        assert out.abs().max() > 0


each_block = pytest.mark.parametrize("name", BLOCKS)


@each_block
def test_output_of_a_block_is_as_long_as_the_input(name):
    module = block(name)
    for frames in (*range(1, 10), 31, 32, 33):
        module.zero_grad()
        out = module(torch.randn(7, 1, frames, 8))
        assert out.shape == (7, 1, frames, 8)
        assert torch.isfinite(out).all()
        out.sum().backward()
        assert_gradients(module, least=-1)  # all are finite


@each_model
@torch.no_grad()
def test_no_model_knows_the_gain_of_a_signal(name):
    """From -150 to 120 dB; weak bands as well."""
    model, spec = any_model(name).eval(), torch.randn(1, 17, 20).cfloat()
    spec[:, 7:] *= 1e-3
    expected = model(spec)
    assert (expected - spec).abs().max() > 1e-2
    for gain in (10**-7.5, 1e-3, 1e6):
        error = (model(gain * spec) / gain - expected).abs()
        assert (error < 1e-4 * expected.abs().amax((1, 2))).all()
        assert error[:, 7:].max() < 1e-4 * expected[:, 7:].abs().max()


@each_model
def test_silence_has_finite_gradients_and_stays_silent(name):
    model = any_model(name)
    spec = torch.zeros(2, 17, 9, dtype=torch.complex64, requires_grad=True)
    assert torch.equal(model(spec), spec)
    lose(model, spec)
    assert torch.isfinite(spec.grad.abs()).all()
    assert_gradients(model, least=-1)  # all are finite


@each_model
def test_gradients_reach_every_parameter(name):
    model = any_model(name).double()
    lose(model, spectrum(2, 17, 40))
    names = [key for key, _ in model.named_parameters() if name == "cmgan"]
    annulled = list(filter(ANNULLED.fullmatch, names))
    assert_gradients(model, without=annulled)
    assert len(annulled) == (3 + 3 * 4 + 2 * 2 if name == "cmgan" else 0)
    for key in annulled:
        assert model.get_parameter(key).grad.abs().max() < 1e-12


@each_block
def test_gradients_reach_every_parameter_of_a_block(name):
    module = scramble(block(name))
    out = module(randn(7, 2, 9, 8))
    (out - randn(7, 2, 9, 8, seed=1)).square().sum().backward()
    # A norm takes 1 - lambda away, but for what is added to its level.
    vector = "vector" in name and "differential=False" in name
    assert_gradients(module, 0 if vector else 1e-6, bands=7)


@each_model
@torch.no_grad()
def test_items_of_a_batch_do_not_see_each_other(name):
    model = any_model(name).double().eval()
    spec = spectrum(3, 17, 11)
    spec[1] *= 100
    together = model(spec)
    for item in range(3):
        alone = model(spec[item : item + 1])[0]
        assert_twin(together[item], array(alone), array(spec[item]))
    assert (together[0] - together[2]).abs().max() > 1e-2


@each_model
def test_training_equals_inference(name):
    model = any_model(name).double()
    model.train(name != "cmgan")  # whose dropout and BatchNorm differ
    spec = spectrum(1, 17, 12)
    training = model(spec)
    with torch.no_grad():
        assert_twin(model.eval()(spec), array(training), array(spec))


@pytest.mark.parametrize("grad", [True, False])
@each_block
def test_blocks_in_bfloat16_come_close(name, grad):
    module, x = block(name, num_channels=16), torch.randn(7, 2, 20, 16)
    with torch.set_grad_enabled(grad):
        assert close_in_bf16(module, x).shape == x.shape


@pytest.mark.parametrize("grad", [True, False])
@each_model
def test_bfloat16_comes_close(name, grad):
    model, cmgan = any_model(name), name == "cmgan"
    spec = spectrum(2, 17, 20, dtype=torch.float32)
    model.train(not cmgan)
    try:
        with torch.set_grad_enabled(grad):
            share = 0.1 if cmgan else 0.05
            out = close_in_bf16(model, spec, share)
    except RuntimeError as error:  # oneDNN, without AVX-512
        if "LSTM forward propagation primitive" not in str(error):
            raise
        pytest.skip("this processor has no LSTM in bfloat16")
    assert out.dtype == torch.complex64
    if grad:
        out.abs().sum().backward()
        assert_gradients(model, least=-1)


BAD_INPUT = [
    ((1, 17, 4), torch.float32, "torch.float32, expected a complex"),
    ((1, 16, 4), torch.cfloat, r"\(1, 16, 4\), expected \(batch, 17 bins, at"),
    ((17, 4), torch.cfloat, r"\(17, 4\), expected \(batch, 17 bins"),
    ((1, 1, 17, 4), torch.cfloat, r"\(1, 1, 17, 4\), expected \(batch, 17"),
    ((1, 17, 0), torch.cfloat, r"\(1, 17, 0\), expected .*at least 1 frame"),
]


@pytest.mark.parametrize("shape, dtype, message", BAD_INPUT)
@pytest.mark.parametrize("name", ["default", "step", *BASELINES])
def test_bad_input_is_refused(name, shape, dtype, message):
    model = tiny(causal=True) if name == "step" else any_model(name)
    spec = torch.zeros(shape, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        if name == "step":
            model.step(spec, model.initial_state())
        else:
            model(spec)
