"""CMGAN's generator: literal twins of its parts, composition, shapes."""

import math
import re

import numpy as np
import pytest
import torch

from dbtransform_lobes.models import conformer
from dbtransform_lobes.models.cmgan import (
    CMGAN,
    DenseEncoder,
    DilatedDenseBlock,
    MagnitudeMaskDecoder,
    SubPixelConv,
    TwoStageBlock,
)
from dbtransform_lobes.models.conformer import (
    Conformer,
    ConvolutionModule,
    RelativeAttention,
)
from dbtransform_lobes.models.level import over_signal_level
from tests.twins import (
    array,
    assert_twin,
    randn,
    scramble,
    sigmoid,
    silu,
    softmax,
)

TINY = {
    "n_fft": 16,
    "num_channels": 4,
    "num_blocks": 2,
    "num_heads": 2,
    "kernel_size": 5,
}


def tiny(**changes):
    torch.manual_seed(0)
    return CMGAN(**{**TINY, **changes})


def spectrum(*shape, seed=0, dtype=torch.float64):
    """A random complex spectrum whose frames differ in level."""
    parts = [randn(*shape, seed=seed + i, dtype=dtype) for i in range(2)]
    return torch.complex(*parts) * (1 + torch.arange(shape[-1]) % 3)


def scramble_statistics(module):
    """Random means and variances in every BatchNorm; inference mode."""
    for number, part in enumerate(module.modules()):
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.copy_(randn(part.num_features, seed=number))
            part.running_var.copy_(randn(part.num_features, seed=-number) ** 2)
    return module.eval()


def attention_twin(module, x, clip, sign=1):
    """softmax_j(q_i . (k_j + p[clip(i - j)]) / sqrt(d)) v_j, head by head."""
    x, table = array(x), array(module.positions.weight)
    middle, d = len(table) // 2, table.shape[1]
    channels = x.shape[-1]
    to_key, to_value = np.split(array(module.key_value.weight), 2)
    out = np.zeros_like(x)
    for n in range(len(x)):
        query = x[n] @ array(module.query.weight).T
        key, value = x[n] @ to_key.T, x[n] @ to_value.T
        heads = np.zeros_like(x[n])
        for first in range(0, channels, d):
            head = slice(first, first + d)
            for i in range(len(query)):
                logits = []
                for j in range(len(key)):
                    step = sign * max(-clip, min(clip, i - j))
                    where = key[j, head] + table[middle + step]
                    logits.append(query[i, head] @ where / math.sqrt(d))
                heads[i, head] = softmax(logits) @ value[:, head]
        out[n] = heads @ array(module.out.weight).T + array(module.out.bias)
    return out


@pytest.mark.parametrize("length", [2, 7])
def test_attention_equals_its_twin(length):
    module = scramble(RelativeAttention(4, num_heads=2, max_distance=3))
    x = randn(2, length, 4)
    wrong = [
        attention_twin(module, x, 3, sign=-1),
        attention_twin(module, x, 0),
    ]
    if length > 3:
        wrong.append(attention_twin(module, x, 2))
    assert_twin(module(x), attention_twin(module, x, 3), *wrong)


def test_attention_reaches_512_steps():
    module = RelativeAttention(4, num_heads=2)
    assert module.positions.weight.shape == (1025, 2)
    x = randn(1, 600, 4, dtype=torch.float32)
    assert torch.isfinite(module(x)).all()


@pytest.mark.parametrize("held", [1, 2 * 2 * 7 * 3])
def test_attention_in_blocks_is_the_same(monkeypatch, held):
    module = scramble(RelativeAttention(4, num_heads=2, max_distance=3))
    x = randn(2, 7, 4)
    whole = array(module(x))
    monkeypatch.setattr(conformer, "MAX_LOGITS", held)
    calls = []
    attend = module._attend
    monkeypatch.setattr(
        module, "_attend", lambda *args: calls.append(args) or attend(*args)
    )
    assert_twin(module(x), whole)
    assert len(calls) == (7 if held == 1 else 3)


def layer_norm_twin(norm, row):
    """(x - mean) / sqrt(var + 1e-5) of one step's channels."""
    row = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
    return row * array(norm.weight) + array(norm.bias)


def linear_twin(linear, row):
    return array(linear.weight) @ row + array(linear.bias)


def convolution_twin(module, x, shift=0, swap=False):
    """Norm, GLU, one channel at a time along the steps, norm, SiLU."""
    x = array(x)
    kernels = array(module.depthwise.weight)[:, 0]
    side, batch_norm = kernels.shape[1] // 2, module.batch_norm
    scale = np.sqrt(array(batch_norm.running_var) + 1e-5)
    out = np.zeros_like(x)
    for n in range(len(x)):
        gated = []
        for row in x[n]:
            row = linear_twin(module.expand, layer_norm_twin(module.norm, row))
            value, gate = np.split(row, 2)[:: -1 if swap else 1]
            gated.append(value * sigmoid(gate))
        for i in range(len(x[n])):
            row = array(module.depthwise.bias).copy()
            for tap in range(kernels.shape[1]):
                j = i + tap - side + shift
                if 0 <= j < len(gated):
                    row += kernels[:, tap] * gated[j]
            row = (row - array(batch_norm.running_mean)) / scale
            row = row * array(batch_norm.weight) + array(batch_norm.bias)
            out[n, i] = linear_twin(module.reduce, silu(row))
    return out


def test_convolution_module_equals_its_twin():
    module = scramble_statistics(scramble(ConvolutionModule(4, 5)))
    x = randn(2, 7, 4)
    assert_twin(
        module(x),
        convolution_twin(module, x),
        convolution_twin(module, x, shift=1),
        convolution_twin(module, x, swap=True),
    )


def feed_forward_twin(part, x):
    """W_2 silu(W_1 norm(x) + b_1) + b_2, step by step."""
    norm, expand, _, _, reduce, _ = part
    out = np.zeros_like(x)
    for n, i in np.ndindex(x.shape[:2]):
        row = linear_twin(expand, layer_norm_twin(norm, x[n, i]))
        out[n, i] = linear_twin(reduce, silu(row))
    return out


def conformer_twin(module, x, step=0.5):
    """Half a feed-forward, attention, convolution, half of another, norm."""
    x = array(x)
    norm, attention, _ = module.attention
    x = x + step * feed_forward_twin(module.first, x)
    rows = np.apply_along_axis(lambda r: layer_norm_twin(norm, r), -1, x)
    x = x + attention_twin(attention, torch.from_numpy(rows), 512)
    x = x + convolution_twin(module.convolution, torch.from_numpy(x))
    x = x + step * feed_forward_twin(module.last, x)
    return np.apply_along_axis(lambda r: layer_norm_twin(module.norm, r), -1, x)


def test_conformer_equals_its_twin():
    module = scramble_statistics(scramble(Conformer(4, 2, 5)))
    x = randn(2, 6, 4)
    assert_twin(
        module(x),
        conformer_twin(module, x),
        conformer_twin(module, x, step=1),
    )


def dense_twin(block, x, newest_first=True, sign=-1):
    """Every layer by loops over frames, bins and taps; x (C, T, F)."""
    for i, layer in enumerate(block.layers):
        _, conv, norm, prelu = layer
        out = taps_twin(conv, x, (sign * 2**i, 0), (-1, 0, 1))
        out = prelu_twin(prelu, instance_norm_twin(norm, out))
        x = np.concatenate([out, x] if newest_first else [x, out])
    return out


def taps_twin(conv, x, frames, bins, stride=1, size=None):
    """y[t, f] = b + sum W[a, c] x[t + frames[a], stride f + bins[c]]."""
    weight, (_, num_frames, num_bins) = array(conv.weight), x.shape
    out = np.zeros((len(weight), num_frames, size or num_bins))
    out += array(conv.bias)[:, None, None]
    for t, f in np.ndindex(out.shape[1:]):
        for a, c in np.ndindex(weight.shape[2:]):
            row, column = t + frames[a], stride * f + bins[c]
            if 0 <= row < num_frames and 0 <= column < num_bins:
                out[:, t, f] += weight[:, :, a, c] @ x[:, row, column]
    return out


def instance_norm_twin(norm, x):
    """(x - mean) / sqrt(var + 1e-5) of one channel's frames and bins."""
    out = np.zeros_like(x)
    for c, (gain, bias) in enumerate(
        zip(array(norm.weight), array(norm.bias), strict=True)
    ):
        scale = np.sqrt(x[c].var() + 1e-5)
        out[c] = (x[c] - x[c].mean()) / scale * gain + bias
    return out


def prelu_twin(prelu, x):
    """x where positive, else slope x; one slope for each x[c]."""
    slopes = array(prelu.weight).reshape(-1, *(x.ndim - 1) * [1])
    return np.where(x > 0, x, slopes * x)


def test_dense_block_equals_its_twin():
    block = scramble(DilatedDenseBlock(3))
    x = randn(2, 3, 9, 4)
    expected, order, future = (
        np.stack([dense_twin(block, signal, *form) for signal in array(x)])
        for form in ((True, -1), (False, -1), (True, 1))
    )
    assert_twin(block(x), expected, order, future)


def test_dense_block_sees_15_frames_back_and_4_bins_aside():
    block = DilatedDenseBlock(3)
    for layer in block.layers:
        layer[2] = torch.nn.Identity()  # its statistics see everything
    x = randn(1, 3, 32, 16, dtype=torch.float32)
    x.requires_grad_()
    block(x)[0, :, 20, 8].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert seen.min(0).values.tolist() == [20 - 15, 8 - 4]
    assert seen.max(0).values.tolist() == [20, 8 + 4]


def sub_pixel_twin(module, x):
    """Bin 2 f + r of channel c is channel r C + c of the convolution."""
    both = taps_twin(module.convolution, x, (0,), (-1, 0, 1))
    channels, frames, bins = x.shape
    out = np.zeros((channels, frames, 2 * bins))
    for c, f, r in np.ndindex(channels, bins, 2):
        out[c, :, 2 * f + r] = both[r * channels + c, :, f]
    return out


def test_sub_pixel_convolution_equals_its_twin():
    module = scramble(SubPixelConv(3))
    x = randn(2, 3, 4, 5)
    expected = np.stack([sub_pixel_twin(module, signal) for signal in array(x)])
    halves = np.concatenate([expected[..., ::2], expected[..., 1::2]], -1)
    assert_twin(module(x), expected, halves)


def encoder_twin(encoder, x):
    """1x1, dense block, every other bin; x (3, T, F)."""
    first, norm, prelu, dense, last, last_norm, last_prelu = encoder.layers
    x = instance_norm_twin(norm, taps_twin(first, x, (0,), (0,)))
    x = dense_twin(dense, prelu_twin(prelu, x))
    half = (x.shape[-1] + 1) // 2
    x = taps_twin(last, x, (0,), (-1, 0, 1), stride=2, size=half)
    return prelu_twin(last_prelu, instance_norm_twin(last_norm, x))


def test_encoder_equals_its_twin():
    encoder = scramble(DenseEncoder(3))
    x = randn(2, 3, 4, 9)
    expected = np.stack([encoder_twin(encoder, signal) for signal in array(x)])
    assert expected.shape == (2, 3, 4, 5)
    assert_twin(encoder(x), expected)


def two_stage_twin(block, x):
    """Each bin's frames, then each frame's bins, a sequence at a time."""
    out = x.clone()
    for b, f in np.ndindex(len(x), x.shape[3]):
        sequence = out[b, :, :, f].T[None]
        out[b, :, :, f] += block.time(sequence)[0].T
    for b, t in np.ndindex(len(x), x.shape[2]):
        sequence = out[b, :, t].T[None]
        out[b, :, t] += block.bins(sequence)[0].T
    return out


@torch.no_grad()
def test_two_stage_block_is_time_then_bins():
    block = scramble_statistics(scramble(TwoStageBlock(4, 2, 5)))
    x = randn(2, 4, 3, 5)
    swapped = two_stage_twin(block, x.transpose(2, 3)).transpose(2, 3)
    assert_twin(block(x), array(two_stage_twin(block, x)), array(swapped))


def mask_twin(decoder, x):
    """(C, T, F') to a gain (T, F), a last slope for each bin."""
    dense, sub_pixel, conv, norm, prelu, final = decoder.layers
    x = sub_pixel_twin(sub_pixel, dense_twin(dense, x))
    x = taps_twin(conv, x, (0,), (0, 1), size=x.shape[-1] - 1)
    x = taps_twin(
        final, prelu_twin(prelu, instance_norm_twin(norm, x)), [0], [0]
    )
    return prelu_twin(decoder.slopes, x[0].T).T


def complex_twin(decoder, x):
    """(C, T, F') to (2, T, F)."""
    dense, sub_pixel, norm, prelu, conv = decoder.layers
    x = sub_pixel_twin(sub_pixel, dense_twin(dense, x))
    x = prelu_twin(prelu, instance_norm_twin(norm, x))
    return taps_twin(conv, x, (0,), (0, 1), size=x.shape[-1] - 1)


def model_twin(model, spec, exponent):
    """Polar form: mask |X|^e exp(i phase) + complex part, then |.|^(1/e)."""
    out = []
    for signal in array(spec):
        level = over_signal_level(torch.from_numpy(signal)[None])[1].item()
        magnitude = np.abs(signal.T / level) ** exponent  # (T, F)
        phase = np.angle(signal.T)
        real, imag = magnitude * np.cos(phase), magnitude * np.sin(phase)
        x = encoder_twin(model.encoder, np.stack([magnitude, real, imag]))
        x = torch.from_numpy(x)[None]
        for block in model.blocks:
            x = two_stage_twin(block, x)
        x = array(x[0])
        real, imag = complex_twin(model.complex_decoder, x)
        gained = mask_twin(model.mask_decoder, x) * magnitude
        estimate = gained * np.exp(1j * phase) + real + 1j * imag
        power = np.abs(estimate) ** (1 / exponent)
        out.append(level * (power * np.exp(1j * np.angle(estimate))).T)
    return np.stack(out)


@torch.no_grad()
def test_model_equals_its_twin():
    model = scramble_statistics(scramble(tiny(), scale=0.3))
    spec = spectrum(2, 9, 4)
    expected = model_twin(model, spec, 0.3)
    # 1e-12 is added to powers under the root, for the gradient at silence.
    assert_twin(
        model(spec), expected, model_twin(model, spec, 0.5), tolerance=1e-8
    )


def test_size_is_that_of_the_paper():
    """1.83 M parameters, counted part by part with C = 64."""
    c = 64
    dense = sum((i * c * 6 + 1) * c + 3 * c for i in (1, 2, 3, 4))
    feed_forward = 2 * c + 8 * c * c + 5 * c
    attention = 2 * c + 4 * c * c + c + 1025 * c // 4
    convolution = 2 * c + 4 * c * (c + 1) + 2 * c * 34 + c * (2 * c + 1)
    block = 2 * (2 * feed_forward + attention + convolution + 2 * c)
    encoder = 4 * c + 3 * c + dense + (3 * c + 1) * c + 3 * c
    sub_pixel = 2 * c * (3 * c + 1)
    mask = dense + sub_pixel + (2 * c + 1) + 3 + 2
    both = dense + sub_pixel + 3 * c + 2 * (2 * c + 1)
    total = encoder + 4 * block + mask + 201 + both
    assert total == 1_834_833
    model = CMGAN()
    assert sum(p.numel() for p in model.parameters()) == total
    assert model.num_bins == 201
    wider = sum(p.numel() for p in CMGAN(n_fft=512).parameters())
    assert wider == total + 257 - 201


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frames", [1, 2, 50])
def test_shape_and_type_are_those_of_the_input(training, frames):
    model = tiny().train(training)
    for batch in (1, 3):
        spec = spectrum(batch, 9, frames, dtype=torch.float32)
        out = model(spec)
        assert out.shape == spec.shape
        assert out.dtype == torch.complex64
        assert torch.isfinite(torch.view_as_real(out)).all()
        assert out.abs().max() > 0


@pytest.mark.parametrize("n_fft", [4, 400, 512])
def test_any_odd_number_of_bins(n_fft):
    model = tiny(n_fft=n_fft)
    spec = spectrum(1, n_fft // 2 + 1, 2, dtype=torch.float32)
    assert model(spec).shape == spec.shape


def test_more_frames_than_the_table_of_positions_has():
    model = tiny(num_blocks=1).eval()
    spec = spectrum(1, 9, 530, dtype=torch.float32)
    with torch.no_grad():
        assert torch.isfinite(torch.view_as_real(model(spec))).all()


@torch.no_grad()
def test_items_of_a_batch_do_not_see_each_other():
    model = scramble_statistics(scramble(tiny(), scale=0.3))
    spec = spectrum(3, 9, 6)
    spec[1] *= 100
    together = model(spec)
    for item in range(3):
        alone = model(spec[item : item + 1])[0]
        assert_twin(together[item], array(alone), array(spec[item]))
    assert (together[0] - together[2]).abs().max() > 1e-2


ANNULLED = re.compile(
    r"encoder\.layers\.(0|4)\.bias"
    r"|.*\.layers\.\d\.1\.bias"  # of the dense blocks
    r"|mask_decoder\.layers\.2\.bias"
    r"|.*\.depthwise\.bias"
)


def test_gradients_reach_every_parameter():
    """But biases in front of a norm, which subtracts them again."""
    model = tiny().double()
    spec, target = spectrum(2, 9, 12), spectrum(2, 9, 12, seed=7)
    (model(spec) - target).abs().square().mean().backward()
    annulled = 0
    for name, parameter in model.named_parameters():
        highest = parameter.grad.abs().max()
        if ANNULLED.fullmatch(name):
            assert highest < 1e-12, name
            annulled += 1
        else:
            assert 1e-9 < highest < math.inf, name
    assert annulled == 3 + 3 * 4 + 2 * 2


def test_silence_has_finite_gradients():
    model = tiny()
    spec = torch.zeros(2, 9, 5, dtype=torch.complex64, requires_grad=True)
    target = spectrum(2, 9, 5, dtype=torch.float32)
    (model(spec) - target).abs().square().mean().backward()
    assert torch.isfinite(torch.view_as_real(spec.grad)).all()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_dropout_is_of_training_alone():
    model = tiny(dropout=0.5)
    spec = spectrum(1, 9, 8, dtype=torch.float32)
    with torch.no_grad():
        assert not torch.equal(model(spec), model(spec))
        model.eval()
        assert torch.equal(model(spec), model(spec))


def test_mask_starts_without_negative_gains():
    decoder = MagnitudeMaskDecoder(4, num_bins=9)
    mask = decoder(randn(2, 4, 20, 5, dtype=torch.float32))
    assert mask.shape == (2, 1, 20, 9)
    assert mask.min() >= 0 and mask.max() > 0


def test_bfloat16_comes_close():
    model = tiny().eval()
    spec = spectrum(2, 9, 20, dtype=torch.float32)
    with torch.no_grad():
        exact = model(spec)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(spec)
    assert out.dtype == torch.complex64
    assert not torch.equal(out, exact)
    error = (out - exact).abs().square().mean()
    assert error < 0.1**2 * exact.abs().square().mean()


@pytest.mark.parametrize(
    "shape, dtype, message",
    [
        ((1, 9, 4), torch.float32, "torch.float32, expected a complex"),
        ((1, 8, 4), torch.complex64, r"\(1, 8, 4\), expected \(batch, 9 bins"),
        ((9, 4), torch.complex64, r"\(9, 4\), expected \(batch, 9 bins"),
        ((1, 9, 0), torch.complex64, "at least 1 frame"),
    ],
)
def test_bad_input_is_refused(shape, dtype, message):
    with pytest.raises(ValueError, match=message):
        tiny()(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_fft": 402}, "n_fft is 402, expected a multiple of 4"),
        ({"n_fft": 0}, "n_fft is 0, expected a multiple of 4"),
        ({"num_channels": 0}, "num_channels is 0, expected at least 1"),
        ({"num_blocks": 0}, "num_blocks is 0, expected at least 1"),
        ({"num_heads": 3}, "num_channels is 4, expected a multiple of"),
        ({"num_heads": 0}, "num_heads = 0, which must be at least 1"),
        ({"kernel_size": 4}, "kernel_size is 4, expected an odd number"),
        ({"compression": 0}, "compression is 0, expected 0 < "),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
