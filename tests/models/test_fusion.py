"""Frequency-adaptive multi-scale fusion."""

from functools import partial

import numpy as np
import pytest
import torch

from dbtransform_lobes.models import multi_scale_fusion as fusion
from dbtransform_lobes.models.bands import BandLayout
from tests.formulas import affine, sigmoid, silu, softmax
from tests.twins import array, assert_twin, randn, scramble

CENTRES = (100.0, 400.0, 900.0, 3000.0, 5000.0)
RANGE_OF_BAND = (0, 0, 1, 2, 2)
WINDOWS = ((3, 4, 7), (2, 3, 4), (1, 2, 5))

each_kind = pytest.mark.parametrize("separable", [False, True])


def convolve_twin(x, kernel, bias, back):
    """y[t] = b + sum_j W_j x[t - back + j], zeros outside; W_j may be diagonal.

    A kernel of s taps reaches s // 2 frames back, s - 1 when causal.
    """
    out = np.tile(bias, (len(x), 1))
    for t, j in np.ndindex(len(x), kernel.shape[2]):
        frame = t - back + j
        if 0 <= frame < len(x):
            tap = kernel[:, :, j]
            tap = tap if tap.shape[1] > 1 else np.diag(tap[:, 0])
            out[t] += tap @ x[frame]
    return out


def static_twin(module, k, b):
    """softmax(w_k)."""
    return softmax(array(module.logits)[k])


def adaptive_twin(x, share=sigmoid, ddof=0, parts=(0, 1, 2)):
    """b alpha + (1 - b) softmax(w_k), b = sigmoid of a number of the band.

    alpha = softmax(Linear([mean over time, std over time, embedding])).
    """

    def blend(module, k, b):
        adaptive, rows = module.adaptive, x[k, b]
        spread = np.sqrt(rows.var(0, ddof=ddof) + 1e-8)
        features = [rows.mean(0), spread, array(adaptive.embedding)[k]]
        features = [(i in parts) * part for i, part in enumerate(features)]
        alpha = softmax(affine(adaptive.linear, k, np.concatenate(features)))
        own = share(array(adaptive.logit)[k, 0, 0])
        return own * alpha + (1 - own) * static_twin(module, k, b)

    return blend


def fusion_twin(module, x, windows, back, weigh, flip=1, activation=False):
    """sum_i blend_i conv_i(z_k), each band in its range's windows.

    Then SiLU and a pointwise map, where there are such.
    """
    out = np.zeros_like(x)
    for k, b in np.ndindex(x.shape[:2]):
        sizes, total = windows[RANGE_OF_BAND[k]], 0
        for share, size in zip(weigh(module, k, b), sizes, strict=True):
            kernel = array(module.kernels[str(size)])[..., ::flip]
            bias = array(module.biases[str(size)])
            total += share * convolve_twin(x[k, b], kernel, bias, back(size))
        total = silu(total) if activation else total
        if module.pointwise is not None:
            total = [affine(module.pointwise, k, row) for row in total]
        out[k, b] = total
    return out


CAUSAL = [("static", True), ("uniform", True)]


@pytest.mark.parametrize("activation", [False, True])
@each_kind
@pytest.mark.parametrize(
    "form, causal", [*((form, False) for form in fusion.FORMS), *CAUSAL]
)
def test_fusion_equals_its_twin(form, causal, separable, activation):
    settings = (3, CENTRES, form, WINDOWS, separable, activation, causal)
    module = scramble(fusion.MultiScaleFusion(*settings), scale=1)
    x = randn(5, 2, 9, 3)
    middle, last = (lambda size: size // 2), (lambda size: size - 1)
    right = {
        "windows": WINDOWS if form != "uniform" else (WINDOWS[1],) * 3,
        "back": last if causal else middle,
        "weigh": static_twin,
        "activation": activation,
    }
    wrong = [
        # Even kernels on the other side, other reach, and in reverse.
        {"back": lambda size: (size - 1) // 2},
        {"back": middle if causal else last},
        {"back": lambda size: size},
        {"flip": -1},
        {"weigh": lambda *_: [1 / 3] * 3},
        {"windows": WINDOWS[::-1]},
        {"activation": not activation},
    ]
    if form == "uniform":
        wrong[5] = {"windows": ((2, 3, 4), (3, 2, 4), (4, 3, 2))}
    if form == "adaptive":
        twin = partial(adaptive_twin, array(x))
        right["weigh"] = twin()
        others = [
            static_twin,
            twin(share=lambda logit: 1),
            twin(share=lambda logit: 1 - sigmoid(logit)),
            twin(ddof=1),
            *(twin(parts=parts) for parts in ((0, 2), (1, 2), (0, 1))),
            adaptive_twin(array(x)[:, ::-1]),  # of the other item
        ]
        wrong += [{"weigh": weigh} for weigh in others]
    forms = [{**right, **each} for each in ({}, *wrong)]
    twins = [fusion_twin(module, array(x), **form) for form in forms]
    assert_twin(module(x), *twins)


@each_kind
def test_default_windows_equal_the_twin(separable):
    module = scramble(fusion.MultiScaleFusion(2, CENTRES, separable=separable))
    assert set(module.kernels) == {"2", "4", "8", "16", "32"}
    x, windows = randn(5, 1, 12, 2), ((8, 16, 32), (4, 8, 16), (2, 4, 8))
    settings = (windows, lambda size: size // 2, static_twin)
    assert_twin(module(x), fusion_twin(module, array(x), *settings))


@pytest.mark.parametrize(
    "centres, groups",
    [
        ([499.9, 500.0, 1999.9, 2000.0], [(0, 1), (1, 3), (3, 4)]),
        ([3000.0], [(0, 0), (0, 0), (0, 1)]),
        ([100.0, 200.0], [(0, 2), (2, 2), (2, 2)]),
        (BandLayout().centres, [(0, 6), (6, 15), (15, 31)]),
    ],
)
def test_ranges_of_the_bands(centres, groups):
    assert fusion.band_groups(centres) == [slice(*group) for group in groups]


def test_blend_starts_at_the_prior():
    assert fusion.PRIORS == ((0.1, 0.3, 0.6), (0.3, 0.4, 0.3), (0.6, 0.3, 0.1))
    ranges = [0] * 6 + [1] * 9 + [2] * 16
    for form, expected in (("static", ranges), ("uniform", 31 * [1])):
        module = fusion.MultiScaleFusion(2, BandLayout().centres, form)
        prior = torch.tensor([fusion.PRIORS[number] for number in expected])
        weights = module.fusion_weights()
        assert torch.allclose(weights, prior, rtol=0, atol=1e-6)
        assert torch.equal(module.prior(), prior)
    assert set(module.kernels) == {"4", "8", "16"}
    # Half of an adaptive blend follows the signal at first.
    assert (fusion.AdaptiveBlend(4, 5).logit.sigmoid() == 0.5).all()


@pytest.mark.parametrize("centres", [[900, 3000], [3000], [100, 3000]])
def test_ranges_without_bands_are_left_out(centres):
    module = fusion.MultiScaleFusion(2, centres)
    x = torch.randn(len(centres), 1, 7, 2)
    out = module(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    unused = [n for n, p in module.named_parameters() if p.grad is None]
    assert unused == []
