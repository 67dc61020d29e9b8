"""Linear maps of bands, however they are computed."""

import numpy as np
import pytest
import torch

from dbtransform_lobes.models.band_linear import FEW_ROWS, BandLinear
from tests.twins import affine, array, assert_twin, randn, scramble


@pytest.mark.parametrize("own", [None, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_band_linear_equals_its_twin(own, bias):
    linear = scramble(BandLinear(4, 5, own, bias))
    x = randn(3, 2, 6, 4)
    expected, wrong = np.zeros((2, 3, 2, 6, 5))
    for k, b, t in np.ndindex(3, 2, 6):
        row = array(x)[k, b, t]
        weight = array(linear.weight)[k] if own else array(linear.weight)
        expected[k, b, t] = [sum(w * row) for w in weight]
        wrong[k, b, t] = [sum(w * row[::-1]) for w in weight]
        if bias:
            assert np.allclose(
                affine(linear, k, row) - expected[k, b, t],
                array(linear.bias)[k] if own else array(linear.bias),
            )
            expected[k, b, t] = affine(linear, k, row)
    assert_twin(linear(x), expected, wrong)


@pytest.mark.parametrize("shape", [(31, 1, 9), (31, 1, 10), (20, 16, 3)])
def test_single_precision_gives_the_same_with_many_rows(shape):
    """float32 is convolved on the CPU, float64 and few rows are not."""
    torch.manual_seed(0)
    linear, x = BandLinear(16, 24), torch.randn(*shape, 16)
    gradient = torch.randn(*shape, 24)
    results = []
    for dtype in (torch.float32, torch.float64):
        module, inputs = linear.to(dtype), x.to(dtype).requires_grad_()
        out = module(inputs)
        leaves = (inputs, module.weight, module.bias)
        grads = torch.autograd.grad(out, leaves, gradient.to(dtype))
        results.append((out, *grads))
    for single, double in zip(*results, strict=True):
        error = (single - double).abs().max()
        assert error < 1e-5 * double.abs().max() and double.abs().max() > 0.1
    rows = torch.Size(shape).numel()
    assert (rows > FEW_ROWS) == (shape != (31, 1, 9))
