"""Frequency-adaptive multi-scale fusion."""

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.multi_scale_fusion import (
    PRIORS,
    MultiScaleFusion,
)
from tests.twins import array, assert_twin, randn, scramble, silu, softmax

CENTRES = (100.0, 400.0, 900.0, 3000.0, 5000.0)
RANGE_OF_BAND = (0, 0, 1, 2, 2)
WINDOWS = ((3, 4, 7), (2, 3, 4), (1, 2, 5))


def convolve_twin(x, kernel, bias, back):
    """y[t, c] = b[c] + sum_i sum_j W[c, i, j] x[t - back + j, i]."""
    frames, channels = x.shape
    out = np.zeros((frames, channels))
    for t, c in np.ndindex(frames, channels):
        value = bias[c]
        for i, j in np.ndindex(kernel.shape[1:]):
            frame = t - back + j
            source = i if kernel.shape[1] > 1 else c
            if 0 <= frame < frames:
                value += kernel[c, i, j] * x[frame, source]
        out[t, c] = value
    return out


def fusion_twin(
    module, x, windows, back=lambda size: size // 2, weights=None, flip=False
):
    """sum_i softmax(w_k)_i conv_i(z_k), each band in its range's windows.

    A kernel of s taps reaches s // 2 frames back; zeros outside; then SiLU
    and a pointwise map, where there are such.
    """
    out = np.zeros_like(x)
    for k, b in np.ndindex(x.shape[:2]):
        sizes = windows[RANGE_OF_BAND[k]]
        blend = weights or softmax(array(module.logits)[k])
        total = np.zeros(x.shape[2:])
        for share, size in zip(blend, sizes, strict=True):
            kernel = array(module.kernels[str(size)])
            kernel = kernel[..., ::-1] if flip else kernel
            bias = array(module.biases[str(size)])
            total += share * convolve_twin(x[k, b], kernel, bias, back(size))
        total = silu(total) if module.activation else total
        if module.pointwise is not None:
            weight = array(module.pointwise.weight)
            total = np.array(
                [weight @ row + array(module.pointwise.bias) for row in total]
            )
        out[k, b] = total
    return out


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize("separable", [False, True])
def test_fusion_equals_its_twin(separable, activation):
    module = scramble(
        MultiScaleFusion(4, CENTRES, WINDOWS, separable, activation)
    )
    x = randn(5, 2, 9, 4)
    twin = fusion_twin(module, array(x), WINDOWS)
    swapped = (WINDOWS[2], WINDOWS[1], WINDOWS[0])
    wrong = [
        # Even kernels on the other side, all taps in the past, in reverse.
        fusion_twin(module, array(x), WINDOWS, lambda size: (size - 1) // 2),
        fusion_twin(module, array(x), WINDOWS, lambda size: size - 1),
        fusion_twin(module, array(x), WINDOWS, flip=True),
        fusion_twin(module, array(x), WINDOWS, weights=[1 / 3] * 3),
        fusion_twin(module, array(x), swapped),
    ]
    module.activation = not activation
    wrong.append(fusion_twin(module, array(x), WINDOWS))
    module.activation = activation
    assert_twin(module(x), twin, *wrong)


@pytest.mark.parametrize("separable", [False, True])
def test_default_windows_equal_the_twin(separable):
    module = scramble(MultiScaleFusion(2, CENTRES, separable=separable))
    x = randn(5, 1, 12, 2)
    twin = fusion_twin(module, array(x), ((8, 16, 32), (4, 8, 16), (2, 4, 8)))
    assert_twin(module(x), twin)


def test_folded_kernel_is_the_blend_of_the_three():
    module = scramble(MultiScaleFusion(3, CENTRES, WINDOWS, separable=False))
    sizes = WINDOWS[0]
    kernel, bias = module.fold(slice(0, 2), sizes)
    assert kernel.shape == (2, 3, 3, 7)
    expected, shifted = np.zeros((2, 2, 3, 3, 7))
    expected_bias = np.zeros((2, 3))
    for k in range(2):
        blend = softmax(array(module.logits)[k])
        for share, size in zip(blend, sizes, strict=True):
            own = array(module.kernels[str(size)])
            expected_bias[k] += share * array(module.biases[str(size)])
            for c, i, j in np.ndindex(own.shape):
                # Tap j looks at frame t - size // 2 + j.
                expected[k, c, i, 3 - size // 2 + j] += share * own[c, i, j]
                shifted[k, c, i, j] += share * own[c, i, j]
    assert_twin(kernel, expected, shifted)
    assert_twin(bias, expected_bias)


@pytest.mark.parametrize("separable", [False, True])
def test_output_is_as_long_as_the_input(separable):
    module = MultiScaleFusion(2, BandLayout().centres, separable=separable)
    for frames in range(1, 21):
        out = module(torch.randn(31, 1, frames, 2))
        assert out.shape == (31, 1, frames, 2)
        assert torch.isfinite(out).all()


def test_reach_of_an_even_kernel():
    """A click at frame 10 is heard from size // 2 - 1 before to size // 2."""
    module = MultiScaleFusion(1, CENTRES, ((4,) * 3,) * 3, separable=False)
    x = torch.zeros(5, 1, 21, 1)
    x[:, :, 10] = 1
    heard = (module(x) - module(0 * x)).abs()[:, 0, :, 0] > 1e-6
    for band in heard:
        assert band.nonzero().flatten().tolist() == [9, 10, 11, 12]


def test_blend_starts_at_the_prior():
    module = MultiScaleFusion(2, BandLayout().centres)
    weights = module.fusion_weights()
    assert weights.shape == (31, 3)
    ranges = [0] * 6 + [1] * 9 + [2] * 16
    for k, number in enumerate(ranges):
        prior = torch.tensor(PRIORS[number])
        assert torch.allclose(weights[k], prior, rtol=0, atol=1e-6)
    assert PRIORS == ((0.1, 0.3, 0.6), (0.3, 0.4, 0.3), (0.6, 0.3, 0.1))


def test_one_kernel_for_each_length_and_only_these():
    module = MultiScaleFusion(2, BandLayout().centres)
    assert set(module.kernels) == {"2", "4", "8", "16", "32"}
    # A change of the longest is heard below 500 Hz alone.
    x = torch.randn(31, 1, 40, 2)
    before = module(x)
    with torch.no_grad():
        module.kernels["32"].add_(1.0)
    moved = (module(x) - before).abs().amax((1, 2, 3)) > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(6))


def test_the_blend_learns():
    module = MultiScaleFusion(2, CENTRES, WINDOWS)
    module(torch.randn(5, 1, 9, 2)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert (module.logits.grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize(
    "centres", [[900.0, 3000.0], [3000.0], [100.0, 3000.0]]
)
def test_ranges_without_bands_are_left_out(centres):
    module = MultiScaleFusion(2, centres)
    x = torch.randn(len(centres), 1, 7, 2)
    out = module(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    unused = [n for n, p in module.named_parameters() if p.grad is None]
    assert unused == []


@pytest.mark.parametrize(
    "windows",
    [
        ((8, 16, 32), (4, 8, 16)),
        ((8, 16), (4, 8, 16), (2, 4, 8)),
        ((8, 16, 32), (4, 8, 16), (0, 4, 8)),
        ((8, 16, 32), (4, 0, 16), (2, 4, 8)),
        ((8, 16, -1), (4, 8, 16), (2, 4, 8)),
    ],
)
def test_impossible_windows_are_refused(windows):
    with pytest.raises(ValueError, match="expected three positive kernel"):
        MultiScaleFusion(2, CENTRES, windows)
