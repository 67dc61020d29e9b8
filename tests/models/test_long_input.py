"""Long input passes through in chunks, with the same result."""

import pytest
import torch

from dbtransform_lobes.models import db_transform
from dbtransform_lobes.models.chunks import with_context
from tests.composition import composed

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
    {"window": 3, "norm_order": "post", "fusion": "none"},
    {"window": 5, "rope": False, "feed_forward": 2, "graph": "dense"},
    {
        "window": 3,
        "level": 3,
        "detrend": torch.hann_window,
        "decoder_activation": "silu",
    },
]
NOT_CUT = [
    {"window": None},
    {"window": 3, "norm": "group"},
    {"window": 3, "split_norm": "group"},
    {"window": 3, "fusion": "adaptive"},
    {"window": 3, "input_conditioned": True},
    {"lambda_form": "statistics"},
]


def make(form):
    torch.manual_seed(0)
    model = composed(**SMALL, **form).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def noise(*shape):
    return torch.randn(*shape, dtype=torch.complex128)


@pytest.mark.parametrize("form", FORMS)
def test_chunks_give_the_same_result(form, monkeypatch):
    model = make(form)
    noisy = noise(2, 17, 133)
    whole = model(noisy).detach()  # training takes all frames at once
    with torch.no_grad():
        for frames in (1, 7, 50, 132, 1000):
            monkeypatch.setattr(db_transform, "CHUNK_FRAMES", frames)
            assert (model(noisy) - whole).abs().max() < 1e-10
        parts = [model(part) for part in noisy.split(50, dim=-1)]
        # Without what the chunks share it would not be the same.
        assert (torch.cat(parts, dim=-1) - whole).abs().max() > 1e-6


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_stream_takes_chunks_of_any_size(form):
    model, noisy = make(form), noise(2, 17, 60)
    chunks = noisy.split([1, 30, 2, 7, 20], dim=-1)
    outs = list(model.stream(iter(chunks)))
    for chunk, out in zip(chunks, outs, strict=True):
        assert chunk.shape == out.shape
    assert (torch.cat(outs, dim=-1) - model(noisy)).abs().max() < 1e-10


@torch.no_grad()
def test_a_stream_asks_for_no_more_than_it_needs():
    """Two layers look 3 + 3 frames ahead each (a kernel of 8: 4 back)."""
    asked = []

    def frames():
        for frame in noise(1, 17, 40).split(1, dim=-1):
            asked.append(frame)
            yield frame

    seen = [len(asked) for _ in make({"window": 3}).stream(frames())]
    assert seen[0] == 1 + 2 * (3 + 3)
    assert seen[5] == seen[0] + 5
    asked.clear()
    causal = make({"window": 3, "causal": True}).stream(frames())
    assert [len(asked) for _ in causal] == list(range(1, 41))


@pytest.mark.parametrize("form", NOT_CUT)
def test_what_depends_on_all_frames_is_not_cut(form, monkeypatch):
    model, noisy = make(form), noise(1, 17, 60)
    whole = model(noisy).detach()
    monkeypatch.setattr(db_transform, "CHUNK_FRAMES", 10)
    with torch.no_grad():
        assert (model(noisy) - whole).abs().max() < 1e-12
        with pytest.raises(ValueError, match="give it a window"):
            next(model.stream([noisy]))


@pytest.mark.parametrize("back", [0, 1, 4, 30])
@pytest.mark.parametrize("ahead", [0, 1, 4, 30])
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 1, 6], [12], [2, 10]])
def test_context_by_loops(back, ahead, sizes):
    frames = torch.arange(12).view(12, 1)
    chunks = [(i, (x,)) for i, x in enumerate(frames.split(sizes))]
    found = list(with_context(chunks, back, ahead))
    first = 0
    for i, (own, (shared,), start) in enumerate(found):
        stop = first + sizes[i]
        expected = [t for t in range(12) if first - back <= t < stop + ahead]
        assert own == i and shared.flatten().tolist() == expected
        assert shared[start, 0] == first
        first = stop
    assert first == 12
