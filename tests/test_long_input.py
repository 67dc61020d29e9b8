"""Long input is enhanced by blocks, with the same result."""

import pytest
import torch

from dbtransform_lobes.models import db_transform
from dbtransform_lobes.models.db_transform import DBTransform

SMALL = {
    "n_fft": 32,
    "band_widths": [3, 6, 8],
    "num_channels": 8,
    "num_heads": 2,
    "num_neighbours": 1,
    "num_layers": 2,
    "fusion_windows": [[4, 8, 16], [2, 4, 8], [1, 2, 4]],
}
FORMS = [
    {"window": 3},
    {"window": 3, "causal": True},
    {"window": 5, "rope": False, "feed_forward": 2, "graph": "dense"},
]


def make(form):
    torch.manual_seed(0)
    model = DBTransform(**SMALL, **form).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_blocks_give_the_same_result(form, monkeypatch):
    model = make(form)
    noisy = torch.randn(2, 17, 333, dtype=torch.complex128)
    with torch.no_grad():
        whole = model._enhance(noisy)
        monkeypatch.setattr(db_transform, "BLOCK_FRAMES", 50)
        blocks = model(noisy)
        assert (blocks - whole).abs().max() < 1e-10
        # Fewer frames than the reach would not do.
        model.reach = 1
        assert (model(noisy) - whole).abs().max() > 1e-6


@pytest.mark.parametrize(
    "form",
    [
        {"window": None},
        {"window": 3, "norm": "group"},
        {"window": 3, "split_norm": "group"},
        {"window": 3, "fusion": "adaptive"},
        {"window": 3, "input_conditioned": True},
        {"lambda_form": "statistics"},
    ],
)
def test_what_depends_on_all_frames_is_not_cut(form, monkeypatch):
    model = make(form)
    assert model.reach is None
    monkeypatch.setattr(db_transform, "BLOCK_FRAMES", 10)
    noisy = torch.randn(1, 17, 60, dtype=torch.complex128)
    with torch.no_grad():
        assert torch.equal(model(noisy), model._enhance(noisy))
