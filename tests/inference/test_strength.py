"""Strength and attenuation limit: the formula, batches, arrays."""

import numpy as np
import pytest
import torch

from dbtransform_lobes.inference.strength import blend, wet_share


def test_blend_equals_its_literal_twin():
    rng = np.random.default_rng(0)
    noisy, enhanced = rng.standard_normal((2, 50))
    for strength, limit in ((0.3, None), (1.0, 9.0), (0.2, 9.0), (1.0, 0.0)):
        kept = 1 - strength
        if limit is not None:
            kept = max(kept, 10 ** (-limit / 20))
        pairs = zip(noisy, enhanced, strict=True)
        expected = [kept * x + (1 - kept) * y for x, y in pairs]
        result = blend(noisy, enhanced, wet_share(strength, limit))
        assert np.allclose(result, expected, rtol=0, atol=1e-10)
        other = blend(noisy, enhanced, wet_share(strength / 2, limit))
        assert limit == 0 or not np.allclose(other, expected, atol=1e-3)
    # The ends are exact.
    noisy, enhanced = torch.randn(2, 1, 99)
    assert blend(noisy, enhanced, wet_share()) is enhanced
    assert torch.equal(blend(noisy, enhanced, wet_share(0.0)), noisy)
    assert wet_share(1.0, float("inf")) == 1.0


@pytest.mark.parametrize(
    ("strength", "limit", "message"),
    [
        (-0.1, None, "strength is -0.1, expected 0"),
        (1.1, None, "strength is 1.1"),
        (float("nan"), None, "strength is nan"),
        ("1", None, "strength is 1, expected 0"),
        (None, None, "strength is None, expected 0"),
        (1.0, "9", "attenuation_limit_db is 9, expected 0 or more"),
        (1.0, -1.0, "attenuation_limit_db is -1.0, expected 0 or more"),
        (1.0, float("nan"), "attenuation_limit_db is nan"),
    ],
)
def test_out_of_range(model, strength, limit, message):
    for call in (
        lambda: wet_share(strength, limit),
        lambda: model.enhance_batch(torch.ones(1, 9), None, strength, limit),
        lambda: model.enhance_array(np.ones(9), 16000, strength, limit),
    ):
        with pytest.raises(ValueError, match=message):
            call()
