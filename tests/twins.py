"""Inputs and weights for slow literal twins, and what compares with them."""

import numpy as np
import torch


def array(tensor):
    """The values of a tensor."""
    return tensor.detach().cpu().numpy()


def scramble(module, seed=0, scale=0.5):
    """Give every parameter random values, in float64; return the module.

    Otherwise gains of one, biases of zero and equal bands would hide errors.
    Running means and variances of a BatchNorm become random as well.
    """
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, scale, generator=generator)
    for number, part in enumerate(module.modules()):
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.copy_(randn(part.num_features, seed=number))
            part.running_var.copy_(randn(part.num_features, seed=-number) ** 2)
    return module


def randn(*shape, seed=0, dtype=torch.float64):
    """Random numbers that depend on the seed alone."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def spectrum(*shape, seed=0, dtype=torch.float64):
    """A random complex spectrum (B, F, T) whose frames differ in level."""
    parts = [randn(*shape, seed=seed + i, dtype=dtype) for i in range(2)]
    return torch.complex(*parts) * (1 + torch.arange(shape[-1]) % 3)


def assert_twin(actual, expected, *wrong, tolerance=1e-10):
    """The module equals its twin, and no wrong form of it comes near."""
    if isinstance(actual, torch.Tensor):
        actual = array(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
    for other in wrong:
        assert np.max(np.abs(np.asarray(other) - expected)) > 1e-3


def close_in_bf16(module, x, share=0.05):
    """Autocast changes the output, but by a small share; return the output."""
    exact = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(x)
    error = (out.to(exact.dtype) - exact).abs().square().mean().sqrt()
    assert 0 < error < share * exact.abs().square().mean().sqrt()
    return out


def assert_gradients(module, least=0.0, bands=None, without=()):
    """Every parameter (of each band, where it has its own) has a gradient."""
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        assert grad is not None and torch.isfinite(grad).all(), name
        rows = grad if len(grad) == bands else grad[None]
        learns = (rows.abs().flatten(1).amax(-1) > least).all()
        assert learns or name in without, name


def mask_of(taps):
    """The mask (B, F, T, 3) that a decoder's taps (B, T, F, 3, 2) are."""
    return torch.view_as_complex(taps).transpose(1, 2)
