"""Frequency-adaptive multi-scale fusion."""

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.bands import BandLayout
from dbtransform_lobes.models.multi_scale_fusion import (
    FORMS,
    PRIORS,
    AdaptiveBlend,
    MultiScaleFusion,
    band_groups,
)
from tests.twins import (
    affine,
    array,
    assert_twin,
    randn,
    scramble,
    sigmoid,
    silu,
    softmax,
)

CENTRES = (100.0, 400.0, 900.0, 3000.0, 5000.0)
RANGE_OF_BAND = (0, 0, 1, 2, 2)
WINDOWS = ((3, 4, 7), (2, 3, 4), (1, 2, 5))

each_form = pytest.mark.parametrize("form", FORMS)
each_kind = pytest.mark.parametrize("separable", [False, True])


def all_back(size):
    """Frames that a causal kernel reaches back."""
    return size - 1


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


def static_twin(module, k, b):
    """softmax(w_k)."""
    return softmax(array(module.logits)[k])


def equal_twin(module, k, b):
    """What the blend is not."""
    return [1 / 3] * 3


def adaptive_twin(x, share=sigmoid, ddof=0, parts=(0, 1, 2)):
    """b alpha + (1 - b) softmax(w_k), b = sigmoid of a number of the band.

    alpha = softmax(Linear([mean over time, std over time, embedding])).
    """

    def blend(module, k, b):
        adaptive, frames = module.adaptive, len(x[k, b])
        mean = sum(x[k, b]) / frames
        square = sum((row - mean) ** 2 for row in x[k, b]) / (frames - ddof)
        spread = np.sqrt(square + 1e-8)
        features = [mean, spread, array(adaptive.embedding)[k]]
        features = [
            part if i in parts else 0 * part for i, part in enumerate(features)
        ]
        alpha = softmax(affine(adaptive.linear, k, np.concatenate(features)))
        static = softmax(array(module.logits)[k])
        own = share(array(adaptive.logit)[k, 0, 0])
        return [
            own * a + (1 - own) * w for a, w in zip(alpha, static, strict=True)
        ]

    return blend


def fusion_twin(
    module,
    x,
    windows,
    back=lambda size: size // 2,
    weigh=static_twin,
    flip=False,
):
    """sum_i blend_i conv_i(z_k), each band in its range's windows.

    A kernel of s taps reaches s // 2 frames back (s - 1 when causal); zeros
    outside; then SiLU and a pointwise map, where there are such.
    """
    out = np.zeros_like(x)
    for k, b in np.ndindex(x.shape[:2]):
        sizes = windows[RANGE_OF_BAND[k]]
        blend = weigh(module, k, b)
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
        MultiScaleFusion(
            4,
            CENTRES,
            windows=WINDOWS,
            separable=separable,
            activation=activation,
        )
    )
    x = randn(5, 2, 9, 4)
    twin = fusion_twin(module, array(x), WINDOWS)
    swapped = (WINDOWS[2], WINDOWS[1], WINDOWS[0])
    wrong = [
        # Even kernels on the other side, all taps in the past, in reverse.
        fusion_twin(module, array(x), WINDOWS, lambda size: (size - 1) // 2),
        fusion_twin(module, array(x), WINDOWS, lambda size: size - 1),
        fusion_twin(module, array(x), WINDOWS, flip=True),
        fusion_twin(module, array(x), WINDOWS, weigh=equal_twin),
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
    module = scramble(
        MultiScaleFusion(3, CENTRES, windows=WINDOWS, separable=False)
    )
    sizes = WINDOWS[0]
    kernel, bias = module.fold(module.fusion_weights()[:2], sizes)
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


@pytest.mark.parametrize("activation", [False, True])
@each_kind
def test_adaptive_fusion_equals_its_twin(separable, activation):
    module = MultiScaleFusion(
        3, CENTRES, "adaptive", WINDOWS, separable, activation
    )
    scramble(module, scale=1)
    x = randn(5, 2, 9, 3)
    wrong = [
        adaptive_twin(array(x), share=lambda logit: 1),
        adaptive_twin(array(x), share=lambda logit: 1 - sigmoid(logit)),
        adaptive_twin(array(x), ddof=1),
        adaptive_twin(array(x), parts=(0, 2)),
        adaptive_twin(array(x), parts=(1, 2)),
        adaptive_twin(array(x), parts=(0, 1)),
        adaptive_twin(array(x)[:, ::-1]),  # of the other item
        static_twin,
    ]
    twin, *wrong = (
        fusion_twin(module, array(x), WINDOWS, weigh=weigh)
        for weigh in [adaptive_twin(array(x)), *wrong]
    )
    assert_twin(module(x), twin, *wrong)


def test_adaptive_blend_equals_its_twin():
    module = MultiScaleFusion(4, CENTRES, "adaptive", WINDOWS)
    scramble(module, scale=1)
    x = randn(5, 3, 7, 4)
    blend = module.adaptive(x, module.fusion_weights())
    weigh = adaptive_twin(array(x))
    expected, static = np.zeros((2, 5, 3, 3))
    for k, b in np.ndindex(5, 3):
        expected[k, b] = weigh(module, k, b)
        static[k, b] = static_twin(module, k, b)
    assert_twin(blend, expected, static, expected[:, ::-1])
    assert (blend.sum(-1) - 1).abs().max() < 1e-12
    # Half of it follows the signal at first.
    assert (AdaptiveBlend(4, 5).logit.sigmoid() == 0.5).all()


@each_kind
def test_uniform_fusion_equals_its_twin(separable):
    """The same windows for every band, from the same prior."""
    module = MultiScaleFusion(3, CENTRES, "uniform", WINDOWS, separable)
    assert set(module.kernels) == {"2", "3", "4"}
    prior = torch.tensor(PRIORS[1]).expand(5, 3)
    weights = module.fusion_weights()
    assert torch.allclose(weights, prior, rtol=0, atol=1e-6)
    scramble(module)
    x = randn(5, 2, 9, 3)
    same = (WINDOWS[1],) * 3
    twin = fusion_twin(module, array(x), same)
    wrong = [
        fusion_twin(module, array(x), same, weigh=equal_twin),
        fusion_twin(module, array(x), ((2, 3, 4), (3, 2, 4), (4, 3, 2))),
        fusion_twin(module, array(x), same, all_back),
    ]
    assert_twin(module(x), twin, *wrong)


@pytest.mark.parametrize("form", ["static", "uniform"])
@each_kind
def test_causal_fusion_equals_its_twin(separable, form):
    """All zero padding on the left."""
    module = MultiScaleFusion(
        3, CENTRES, form, WINDOWS, separable, activation=True, causal=True
    )
    scramble(module)
    x = randn(5, 2, 9, 3)
    windows = WINDOWS if form == "static" else (WINDOWS[1],) * 3
    twin = fusion_twin(module, array(x), windows, all_back)
    wrong = [
        fusion_twin(module, array(x), windows),
        fusion_twin(module, array(x), windows, lambda size: size),
        fusion_twin(module, array(x), windows, all_back, flip=True),
    ]
    assert_twin(module(x), twin, *wrong)


@each_kind
@pytest.mark.parametrize("size", range(1, 9))
def test_causal_kernels_reach_back_alone(size, separable):
    """A click at frame 10 is heard from then on, for ``size`` frames."""
    module = MultiScaleFusion(
        1,
        CENTRES,
        windows=((size, 1, size), (1, 1, size), (size,) * 3),
        separable=separable,
        causal=True,
    )
    x = torch.zeros(5, 1, 21, 1)
    x[:, :, 10] = 1
    heard = (module(x) - module(0 * x)).abs()[:, 0, :, 0] > 1e-6
    for band in heard:
        times = band.nonzero().flatten().tolist()
        assert times == list(range(10, 10 + size))


def test_causal_folded_kernels_end_at_the_same_frame():
    module = MultiScaleFusion(
        3, CENTRES, windows=WINDOWS, separable=False, causal=True
    )
    scramble(module)
    blend = randn(2, 3)
    kernel, bias = module.fold(blend, (3, 4, 7))
    expected, centred = np.zeros((2, 2, 3, 3, 7))
    expected_bias = np.zeros((2, 3))
    for k in range(2):
        for share, size in zip(array(blend)[k], (3, 4, 7), strict=True):
            own = array(module.kernels[str(size)])
            expected_bias[k] += share * array(module.biases[str(size)])
            for c, i, j in np.ndindex(own.shape):
                # Tap j looks at frame t - (size - 1) + j.
                expected[k, c, i, 7 - size + j] += share * own[c, i, j]
                centred[k, c, i, 3 - size // 2 + j] += share * own[c, i, j]
    assert_twin(kernel, expected, centred)
    assert_twin(bias, expected_bias)


def step(module, x, sizes):
    """The outputs of a causal module, given chunks of these sizes."""
    cache, outs, first = None, [], 0
    for chunk in x.split(sizes, dim=2):
        before = cache and cache[0].clone()
        out, after = module.step(chunk, cache, first)
        if cache:
            assert torch.equal(before, cache[0])
            assert after[0].shape == cache[0].shape
        cache, first = after, first + chunk.shape[2]
        outs.append(out)
    return torch.cat(outs, dim=2)


@pytest.mark.parametrize("windows", [WINDOWS, ((1,) * 3,) * 3])
@pytest.mark.parametrize("form", ["static", "uniform"])
@pytest.mark.parametrize("causal", [False, True])
@each_kind
def test_chunks_equal_the_whole(separable, causal, form, windows):
    settings = (2, CENTRES, form, windows, separable)
    module = scramble(MultiScaleFusion(*settings, causal=causal))
    x = randn(5, 2, 23, 2)
    same = windows if form == "static" else (windows[1],) * 3
    back = (all_back,) if causal else ()
    twin = fusion_twin(module, array(x), same, *back)
    for sizes in (1, 2, 3, 5, 7, 16, 23, [2, 11, 1, 9]):
        chunks = module.stream(x.split(sizes, dim=2))
        assert_twin(torch.cat(list(chunks), dim=2), twin)
        if causal:
            assert_twin(step(module, x, sizes), twin)
    # Without what is around it, a chunk is another.
    apart = torch.cat([module(chunk) for chunk in x.split(5, 2)], dim=2)
    forgets = (apart - module(x)).abs().max() > 1e-2
    assert forgets == (windows == WINDOWS)


@each_form
def test_items_of_a_batch_do_not_see_each_other(form):
    module = scramble(MultiScaleFusion(2, CENTRES, form, WINDOWS))
    x = randn(5, 3, 9, 2)
    x[:, 1] *= 30
    together = module(x)
    for item in range(3):
        alone = module(x[:, item : item + 1])
        assert_twin(together[:, item : item + 1], array(alone))


def test_a_long_pad_does_not_reach_the_blend_of_other_forms():
    """Zeros after the end are heard over half a kernel, unless adaptive."""
    x = randn(5, 1, 20, 2)
    padded = torch.cat((x, 0 * x), dim=2)
    for form in FORMS:
        module = scramble(MultiScaleFusion(2, CENTRES, form, WINDOWS))
        moved = (module(padded)[:, :, :20] - module(x)).abs().max()
        # Outside of a signal there are zeros as well.
        assert (moved < 1e-12) == (form != "adaptive")


@each_form
def test_fusion_in_bfloat16_comes_close(form):
    torch.manual_seed(0)
    module = MultiScaleFusion(8, CENTRES, form, activation=True)
    x = torch.randn(5, 2, 20, 8)
    exact = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x)
    error = (out.float() - exact).square().mean().sqrt()
    assert 0 < error < 0.05 * exact.square().mean().sqrt()


@pytest.mark.parametrize(
    "centres, groups",
    [
        ([499.9, 500.0, 1999.9, 2000.0], [(0, 1), (1, 3), (3, 4)]),
        ([3000.0], [(0, 0), (0, 0), (0, 1)]),
        ([100.0, 200.0], [(0, 2), (2, 2), (2, 2)]),
    ],
)
def test_ranges_of_the_bands(centres, groups):
    assert band_groups(centres) == [slice(*group) for group in groups]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"form": "learned"}, "fusion is 'learned', expected one of"),
        ({"form": "none"}, "fusion is 'none', expected one of"),
        (
            {"form": "adaptive", "causal": True},
            "'adaptive' looks at all frames: use 'static'",
        ),
    ],
)
def test_impossible_fusion_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleFusion(2, CENTRES, **arguments)


@pytest.mark.parametrize("separable", [False, True])
def test_output_is_as_long_as_the_input(separable):
    module = MultiScaleFusion(2, BandLayout().centres, separable=separable)
    for frames in range(1, 21):
        out = module(torch.randn(31, 1, frames, 2))
        assert out.shape == (31, 1, frames, 2)
        assert torch.isfinite(out).all()


def test_reach_of_an_even_kernel():
    """A click at frame 10 is heard from size // 2 - 1 before to size // 2."""
    module = MultiScaleFusion(
        1, CENTRES, windows=((4,) * 3,) * 3, separable=False
    )
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


@each_form
@each_kind
def test_the_blend_learns(form, separable):
    module = MultiScaleFusion(
        2, CENTRES, form, WINDOWS, separable, activation=True
    )
    module(torch.randn(5, 2, 9, 2)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert (module.logits.grad.abs().amax(-1) > 0).all()
    if form == "adaptive":
        # Every band's own.
        grads = module.adaptive.embedding.grad, module.adaptive.logit.grad
        for grad in grads:
            assert (grad.abs().flatten(1).amax(-1) > 0).all()


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
        MultiScaleFusion(2, CENTRES, windows=windows)
