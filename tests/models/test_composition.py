"""A new block and a new norm: one class each, composed in YAML alone."""

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from torch import nn

from benchmark.counts import count_macs, count_parameters
from dbtransform_lobes.export.onnx_graph import offline_model, streaming_model
from dbtransform_lobes.inference.onnx_stream import GraphStream
from dbtransform_lobes.models import db_transform
from dbtransform_lobes.models.chunks import TimeBlock, Whole
from figures.architecture import stages
from tests.export.test_onnx import opened
from tests.models.test_streaming import stream

LAYOUT = "{widths: [1, 1, 2, 2, 3, 4, 4], n_fft: 32}"
GRAPH = "dbtransform_lobes.models.harmonic_graph.HarmonicGraphAttention"
MODEL = f"""
model: !new:dbtransform_lobes.models.db_transform.DBTransform
    layout: !new:dbtransform_lobes.models.bands.BandLayout {LAYOUT}
    num_channels: 8
    num_layers: 2
    blocks:
        smoothing: !name:{__name__}.Smoothing {{frames: 3}}
        graph: !name:{GRAPH} {{num_heads: 2, num_neighbours: 2}}
    norm: !name:{__name__}.Scale
    causal: True
"""


class Smoothing(TimeBlock):
    """Mix every frame with the mean of the frames before it."""

    ahead = 0

    def __init__(self, num_channels, frames=2):
        super().__init__()
        self.back = frames
        self.share = nn.Linear(num_channels, num_channels)

    def prepare(self, x, first=0):
        """Give the frames, shared with later ones."""
        return x, (x,)

    def combine(self, own, shared, start=0):
        """Add what the mean of the frames looked at gives."""
        (x,), frames = shared, own.shape[2]
        x = nn.functional.pad(x, (0, 0, self.back - start, 0))
        seen = [x[:, :, i : i + frames] for i in range(self.back + 1)]
        return own + self.share(sum(seen) / len(seen))

    def learned(self):
        """Report the diagonal of the weights."""
        return {"share": self.share.weight.detach().diagonal()}


class Scale(nn.Module):
    """Divide every frame by its largest channel."""

    def __init__(self, num_channels):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(num_channels))

    def forward(self, x):
        """Map (K, B, T, C) to the same shape."""
        return x / (x.abs().amax(-1, keepdim=True) + 1) * self.gain


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = load_hyperpyyaml(MODEL)["model"]
    for weight in model.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return model


def noise(frames=40):
    return torch.randn(1, 17, frames, dtype=torch.complex64)


def test_it_trains(model):
    noisy = noise()
    before = model.blocks[0].block.share.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(noisy) - 0.5 * noisy).abs().square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.blocks[0].block.share.weight, before)
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())


@torch.no_grad()
def test_chunks_and_a_stream_give_the_whole(model, monkeypatch):
    noisy = noise()
    whole = model(noisy)
    monkeypatch.setattr(db_transform, "CHUNK_FRAMES", 7)
    assert torch.allclose(model(noisy), whole, atol=1e-6)
    assert torch.allclose(stream(model, noisy, 1)[0], whole, atol=1e-6)
    assert (whole - noisy).abs().max() > 0.1


@torch.no_grad()
def test_it_is_exported_to_onnx(model):
    model.eval()
    spec = torch.view_as_real(noise().transpose(1, 2)).contiguous()
    expected = model.run(Whole(), spec).numpy()
    (found,) = opened(offline_model(model)).run(None, {"spec": spec.numpy()})
    assert np.abs(found - expected).max() < 1e-4
    # The same as a stream, frame by frame.
    stream = GraphStream(opened(streaming_model(model)))
    for frame, target in zip(spec.split(1, 1), expected[0], strict=True):
        assert np.abs(stream(frame.numpy())[0, 0] - target).max() < 1e-4


def test_tools_count_draw_and_analyse_it(model):
    parameters = count_parameters(model)
    assert parameters["smoothing"] == 2 * (8 * 8 + 8 + 8)  # two norms
    assert sum(parameters.values()) == 2 * parameters["total"]
    macs = count_macs(model, lambda: model(noise(10)))
    assert macs["smoothing"] == 2 * 7 * 10 * 8 * 8
    assert sum(macs.values()) == 2 * macs["total"]
    _, (times, layer), _ = stages(model)
    assert times == 2 and layer[0].title == "Smoothing"
    assert layer[0].lines[0] == "frames:\N{NO-BREAK SPACE}3"  # as in YAML
    analysis = model.analyse()
    assert analysis["share"].shape == (2, 8)
    assert analysis["adjacency"].shape == (2, 7, 7)


def test_an_unknown_argument_and_a_look_ahead_are_refused(monkeypatch):
    with pytest.raises(TypeError, match="unexpected keyword argument 'frame'"):
        load_hyperpyyaml(MODEL.replace("frames: 3", "frame: 3"))
    monkeypatch.setattr(Smoothing, "ahead", 1)
    with pytest.raises(ValueError, match="blocks.0.block, .*do; give"):
        load_hyperpyyaml(MODEL)
