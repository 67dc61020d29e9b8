"""What all blocks have in common: batches, gradients, bf16, chunks, streams."""

import pytest
import torch

from tests.models.tiny import OTHERS, WINDOWED, block, each_block
from tests.twins import (
    array,
    assert_close_in_bfloat16,
    assert_gradients,
    assert_twin,
    randn,
    scramble,
)

SIZES = (1, 2, 3, 5, 7, 16, 23, [2, 11, 1, 9])
LOOKS_AT_ONE = {"windows": ((1,) * 3,) * 3}
CASES = [(name, {}) for name in WINDOWED]
CASES += [("form=static separable=True", LOOKS_AT_ONE)]


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
        assert_close_in_bfloat16(module, x)


@pytest.mark.parametrize("name", OTHERS)
def test_padding_reaches_other_frames_of_what_pools_over_time(name):
    module = scramble(block(name))
    x = 2 * randn(7, 2, 9, 8)
    padded = torch.cat((x, 0 * x), dim=2)
    moved = (module(padded)[:, :, :9] - module(x)).abs().max()
    assert (moved > 1e-9) == ("conditioned" in name or "adaptive" in name)


def steps(module, x, sizes):
    """The outputs of a causal block, given chunks of these sizes."""
    cache, outs, first = None, [], 0
    for chunk in x.split(sizes, dim=2):
        before = [each.clone() for each in cache or ()]
        out, after = module.step(chunk, cache, first)
        assert all(map(torch.equal, before, cache or ()))
        assert not cache or [a.shape for a in after] == [c.shape for c in cache]
        cache, first = after, first + chunk.shape[2]
        outs.append(out)
    return torch.cat(outs, dim=2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name, changes", CASES)
@torch.no_grad()
def test_chunks_and_steps_equal_the_whole(name, changes, causal):
    module = scramble(block(name, causal=causal, **changes))
    x = randn(7, 2, 23, 8)
    whole = array(module(x))
    # Without what is around it, a chunk is another.
    apart = torch.cat([module(part) for part in x.split(5, dim=2)], dim=2)
    wrong = [] if changes else [array(apart)]
    for sizes in SIZES:
        chunks = list(module.stream(x.split(sizes, dim=2)))
        for chunk, given in zip(chunks, x.split(sizes, dim=2), strict=True):
            assert chunk.shape == given.shape
        assert_twin(torch.cat(chunks, dim=2), whole, *wrong)
        if causal:
            assert_twin(steps(module, x, sizes), whole, *wrong)
