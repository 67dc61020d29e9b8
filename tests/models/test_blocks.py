"""What all blocks have in common: batches, gradients, bf16, padding."""

import pytest
import torch

from tests.models.tiny import OTHERS, block, each_block
from tests.twins import assert_gradients, close_in_bf16, randn, scramble


@each_block
def test_output_is_as_long_as_the_input(name):
    module = block(name)
    for frames in (*range(1, 10), 31, 32, 33):
        module.zero_grad()
        out = module(torch.randn(7, 1, frames, 8))
        assert out.shape == (7, 1, frames, 8)
        assert torch.isfinite(out).all()
        out.sum().backward()
        assert_gradients(module, least=-1)  # all are finite


@each_block
def test_gradients_reach_every_parameter(name):
    module = scramble(block(name))
    out = module(randn(7, 2, 9, 8))
    (out - randn(7, 2, 9, 8, seed=1)).square().sum().backward()
    # A norm takes 1 - lambda away, but for what is added to its level.
    vector = "vector" in name and "differential=False" in name
    assert_gradients(module, 0 if vector else 1e-6, bands=7)


@pytest.mark.parametrize("grad", [True, False])
@each_block
def test_bfloat16_comes_close(name, grad):
    module, x = block(name, num_channels=16), torch.randn(7, 2, 20, 16)
    with torch.set_grad_enabled(grad):
        close_in_bf16(module, x)


@pytest.mark.parametrize("name", OTHERS)
def test_padding_reaches_other_frames_of_what_pools_over_time(name):
    module = scramble(block(name))
    x = 2 * randn(7, 2, 9, 8)
    padded = torch.cat((x, 0 * x), dim=2)
    moved = (module(padded)[:, :, :9] - module(x)).abs().max()
    assert (moved > 1e-9) == ("conditioned" in name or "adaptive" in name)
