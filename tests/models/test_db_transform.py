"""The whole model: composition, shapes, gradients, refusals."""

import os
import shutil

import numpy as np
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from dbtransform_lobes.models.band_linear import BandNorm
from dbtransform_lobes.models.db_transform import Residual
from dbtransform_lobes.models.differential_attention import (
    DifferentialBandAttention,
)
from dbtransform_lobes.models.feed_forward import FeedForward
from dbtransform_lobes.models.harmonic_graph import HarmonicGraphAttention
from dbtransform_lobes.models.multi_scale_fusion import MultiScaleFusion
from dbtransform_lobes.models.spectrum import real_parts
from tests.composition import composed, model_yaml
from tests.twins import (
    affine,
    array,
    assert_twin,
    mask_of,
    randn,
    scramble,
    silu,
)

TINY = {
    "n_fft": 32,
    "band_widths": [1, 1, 2, 2, 3, 4, 4],
    "num_channels": 8,
    "num_layers": 2,
    "num_heads": 2,
    "num_neighbours": 2,
}
PROPOSAL = {
    "num_layers": 1,
    "band_weights": "per_band",
    "lambda_form": "statistics",
    "rope": False,
    "window": None,
    "separable": False,
    "feed_forward": 0,
    "decoder_expansion": 4,
    "split_norm": "group",
    "norm": "group",
    "norm_order": "post",
}
FORMS = {
    "default": {},
    "recipe": {"window": 3, "fusion_activation": True, "feed_forward": 2},
    "per_band": {"band_weights": "per_band", "feed_forward": 1},
    "post": {"norm_order": "post"},
    "group": {"norm": "group", "compression": 1.0},
    "full": {"separable": False},
    "proposal": PROPOSAL,
    "vector": {"lambda_form": "vector"},
    "plain": {"differential": False, "window": 3},
    "plain_statistics": {"differential": False, "lambda_form": "statistics"},
    "adaptive": {"fusion": "adaptive"},
    "uniform": {"fusion": "uniform"},
    "fixed": {"graph": "fixed"},
    "dense": {"graph": "dense"},
    "conditioned": {"input_conditioned": True},
    "no_fusion": {"fusion": "none", "feed_forward": 1},
    "no_graph": {"graph": "none", "feed_forward": 1},
    "magnitude": {"magnitude": True},
    "level": {"level": 4, "decoder_activation": "silu"},
    "causal": {"causal": True, "window": 4, "lambda_form": "vector"},
}


def tiny(form="default", **changes):
    torch.manual_seed(0)
    return composed(**{**TINY, **FORMS[form], **changes})


def spectrum(*shape, seed=0, dtype=torch.float64):
    """A random complex spectrum whose frames differ in level."""
    parts = [randn(*shape, seed=seed + i, dtype=dtype) for i in range(2)]
    return torch.complex(*parts) * (1 + torch.arange(shape[-1]) % 3)


each_form = pytest.mark.parametrize("form", list(FORMS))


@each_form
@pytest.mark.parametrize("frames", [1, 2, 3, 50])
def test_shape_and_type_are_those_of_the_input(form, frames):
    model = tiny(form)
    for batch in (1, 3):
        spec = spectrum(batch, 17, frames, dtype=torch.float32)
        out = model(spec)
        assert out.shape == spec.shape
        assert out.dtype == torch.complex64
        assert torch.isfinite(torch.view_as_real(out)).all()
        assert out.abs().max() > 0


def test_default_layout_takes_257_bins():
    model = composed(num_channels=8, num_layers=1, num_heads=2)
    out = model(spectrum(2, 257, 3, dtype=torch.float32))
    assert out.shape == (2, 257, 3)
    assert model.layout.num_bands == 31


@each_form
def test_silence_stays_silent(form):
    model = tiny(form)
    spec = torch.zeros(2, 17, 9, dtype=torch.complex64)
    out = model(spec)
    assert torch.equal(out, spec)
    target = spectrum(2, 17, 9, dtype=torch.float32)
    (out - target).abs().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@each_form
def test_gradients_reach_every_parameter(form):
    model = tiny(form)
    spec = spectrum(2, 17, 40, dtype=torch.float32)
    target = spectrum(2, 17, 40, seed=7, dtype=torch.float32)
    (model(spec) - target).abs().square().mean().backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    ]
    assert without == []
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@each_form
def test_items_of_a_batch_do_not_see_each_other(form):
    model = tiny(form).double()
    spec = spectrum(3, 17, 11)
    spec[1] *= 100
    together = model(spec)
    for item in range(3):
        alone = model(spec[item : item + 1])[0]
        assert_twin(together[item], array(alone))
    assert (together[0] - together[2]).abs().max() > 1e-2


@each_form
def test_training_equals_inference(form):
    model = tiny(form).double()
    spec = spectrum(1, 17, 12)
    training = model(spec)
    model.eval()
    with torch.no_grad():
        assert_twin(model(spec), array(training), array(spec))


LOCAL = ["plain", "recipe", "uniform", "fixed", "dense", "causal", "full"]


@pytest.mark.parametrize("form", LOCAL)
def test_padding_is_heard_near_the_end_alone(form):
    """Zeros after the end reach back over windows, kernels and taps only."""
    windows = ((2, 3, 8), (2, 3, 8), (2, 3, 8))
    model = tiny(form, window=3, fusion_windows=windows, num_layers=1)
    model.double()
    spec = spectrum(2, 17, 30)
    padded = torch.cat((spec, 0 * spec), dim=-1)
    reach = 0 if form == "causal" else 3 + 3 + 1
    moved = (model(padded)[..., :30] - model(spec)).abs().amax((0, 1))
    assert (moved[: 30 - reach] < 1e-10).all()
    assert (moved.max() > 1e-6) == (reach > 0)


def residual_twin(residual, z, order):
    """norm(z + f(z)) after, or z + f(norm(z)) before."""
    if order == "post":
        return residual.norm(z + residual.block(z))
    return z + residual.block(residual.norm(z))


def model_twin(model, spec, order, taps=(-1, 0, 1)):
    """Split; blocks one after the other; mask; 3-tap filter by loops."""
    z = model.band_split(model.level(real_parts(spec)))
    for residual in model.blocks:
        z = residual_twin(residual, z, order)
    mask = array(mask_of(model.mask_decoder(z)))
    spec = array(spec)
    out = np.zeros_like(spec)
    for b, f, t in np.ndindex(spec.shape):
        for i, tau in enumerate(taps):
            if 0 <= t + tau < spec.shape[-1]:
                out[b, f, t] += mask[b, f, t, i] * spec[b, f, t + tau]
    return out


def test_causal_model_equals_the_composition_of_its_parts():
    model = scramble(tiny("causal"))
    spec = spectrum(2, 17, 7)
    assert_twin(
        model(spec),
        model_twin(model, spec, "pre", taps=(-2, -1, 0)),
        model_twin(model, spec, "pre", taps=(0, -1, -2)),
        model_twin(model, spec, "pre"),
    )


@pytest.mark.parametrize("order, other", [("pre", "post"), ("post", "pre")])
def test_model_equals_the_composition_of_its_parts(order, other):
    model = scramble(tiny("recipe", norm_order=order))
    spec = spectrum(2, 17, 7)
    assert_twin(
        model(spec),
        model_twin(model, spec, order),
        model_twin(model, spec, other),
    )


def test_order_of_the_blocks():
    attention, fusion, graph = (
        DifferentialBandAttention,
        MultiScaleFusion,
        HarmonicGraphAttention,
    )
    plain = [type(residual.block) for residual in tiny().blocks]
    assert plain == 2 * [attention, fusion, graph]
    gated = [type(r.block) for r in tiny(feed_forward=1).blocks]
    assert gated == 2 * [attention, fusion, FeedForward, graph, FeedForward]
    kinds = [type(r.block) for r in tiny("no_fusion").blocks]
    assert kinds == 2 * [attention, FeedForward, graph, FeedForward]
    kinds = [type(r.block) for r in tiny("no_graph").blocks]
    assert kinds == 2 * [attention, fusion, FeedForward]
    kinds = [type(r.block) for r in tiny(fusion="none", graph="none").blocks]
    assert kinds == 2 * [attention]


def test_the_initial_lambda_follows_the_layer():
    blocks = tiny("vector", num_layers=3).blocks
    vectors = [r.block.vector for r in blocks if hasattr(r.block, "vector")]
    initial = [0.8 - 0.6 * np.exp(-0.3 * layer) for layer in range(3)]
    assert np.allclose([v.initial for v in vectors], initial)


@pytest.mark.parametrize("lambda_form", ["token", "vector", "statistics"])
def test_the_control_of_the_ablation_has_as_many_parameters(lambda_form):
    def count(differential):
        model = tiny(lambda_form=lambda_form, differential=differential)
        return sum(p.numel() for p in model.parameters())

    assert count(True) == count(False)


def test_options_change_the_output():
    """Each of these models differs from all others on the same weights."""
    outs = {}
    spec = spectrum(1, 17, 40)
    for name, changes in {
        "default": {},
        "rope": {"rope": False},
        "window": {"window": 2},
        "differential": {"differential": False},
        "activation": {"fusion_activation": True},
        "dense": {"graph": "dense"},
        "neighbours": {"num_neighbours": 1},
        "compression": {"compression": 0.5},
        "post": {"norm_order": "post"},
        "group": {"norm": "group"},
        "causal": {"causal": True, "window": 2},
    }.items():
        outs[name] = array(scramble(tiny(**changes))(spec))
    for first in outs:
        for second in outs:
            distance = np.abs(outs[first] - outs[second]).max()
            assert (distance > 1e-3) == (first != second), (first, second)


def test_norms_are_per_band_with_weights_per_band():
    for weights, shape in (("shared", (8,)), ("per_band", (7, 1, 1, 8))):
        for residual in tiny(band_weights=weights).blocks:
            assert isinstance(residual, Residual)
            assert isinstance(residual.norm, BandNorm)
            assert residual.norm.weight.shape == shape


@pytest.mark.parametrize("num_bands", [None, 3])
def test_feed_forward_equals_its_twin(num_bands):
    """(silu(x W_1) * x W_2) W_3."""
    module = scramble(FeedForward(4, 1.5, num_bands, num_bands is not None))
    x = randn(3, 2, 5, 4)
    expected, wrong = np.zeros((2, *x.shape))
    for k, b, t in np.ndindex(x.shape[:3]):
        row = affine(module.expand, k, array(x)[k, b, t])
        first, second = row[:6], row[6:]
        expected[k, b, t] = affine(module.reduce, k, silu(first) * second)
        wrong[k, b, t] = affine(module.reduce, k, first * silu(second))
    assert_twin(module(x), expected, wrong)


def test_analysis_says_what_graph_and_fusion_have_learned():
    model = tiny(num_layers=3)
    spec = spectrum(1, 17, 5, dtype=torch.float32)
    estimate, analysis = model(spec, return_analysis=True)
    assert torch.equal(estimate, model(spec))
    adjacency = analysis["adjacency"]
    assert adjacency.shape == (3, 7, 7)
    assert not adjacency.requires_grad
    assert ((adjacency == 0) | (adjacency == 1)).all()
    assert torch.equal(adjacency, adjacency.transpose(1, 2))
    weights = analysis["fusion_weights"]
    assert weights.shape == (3, 7, 3)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 7))
    centres = model.layout.centres
    assert len(analysis["harmonic_pairs"]) == 3
    for edges, pairs in zip(adjacency, analysis["harmonic_pairs"], strict=True):
        for i, j, n in pairs:
            assert edges[i, j] == 1 and n in (2, 3, 4, 5)
            assert abs(centres[j] / centres[i] - n) < 0.2
    assert sum(map(len, analysis["harmonic_pairs"])) > 0


def test_analysis_says_nothing_of_parts_left_out():
    assert tiny(fusion="none", graph="none").analyse() == {}
    analysis = tiny("conditioned").analyse()
    assert analysis["adjacency"].shape == (2, 7, 7)
    assert tiny("dense").analyse()["adjacency"].min() == 1


def test_analysis_follows_the_parameters():
    model = tiny()
    before = model.analyse()
    scramble(model)
    after = model.analyse()
    for name in ("adjacency", "fusion_weights"):
        assert not torch.allclose(before[name].double(), after[name])


@pytest.mark.parametrize(
    "spec, message",
    [
        (torch.zeros(1, 17, 4), "torch.float32, expected a complex"),
        (torch.zeros(1, 16, 4), "expected a complex"),
        (
            torch.zeros(1, 16, 4, dtype=torch.complex64),
            r"\(1, 16, 4\), expected \(batch, 17 bins, at least 1 frame",
        ),
        (
            torch.zeros(1, 4, 17, dtype=torch.complex64),
            r"\(1, 4, 17\), expected \(batch, 17 bins",
        ),
        (
            torch.zeros(17, 4, dtype=torch.complex64),
            r"\(17, 4\), expected \(batch, 17 bins",
        ),
        (
            torch.zeros(1, 1, 17, 4, dtype=torch.complex64),
            r"\(1, 1, 17, 4\), expected \(batch, 17 bins",
        ),
        (
            torch.zeros(1, 17, 0, dtype=torch.complex64),
            r"\(1, 17, 0\), expected .*at least 1 frame",
        ),
    ],
)
def test_bad_input_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        tiny()(spec)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_layers": 0}, "num_layers is 0, expected at least 1"),
        ({"band_weights": "own"}, "'own', expected 'shared' or 'per_band'"),
        ({"norm_order": "middle"}, "'middle', expected 'pre' or 'post'"),
        ({"norm": "batch"}, "'batch', expected 'group' or 'frame'"),
        ({"split_norm": "frame"}, "'frame', expected 'none' or 'group'"),
        ({"lambda_form": "vectors"}, "'vectors', expected one of"),
        ({"fusion": "learned"}, "fusion is 'learned', expected one of"),
        ({"graph": "static"}, "graph is 'static', expected one of"),
        (
            {"graph": "dense", "input_conditioned": True},
            "'dense' has no neighbours to learn",
        ),
        ({"lambda_form": "statistics", "window": 5}, "set window to"),
        ({"window": 0}, "window is 0, expected at least 1"),
        ({"num_heads": 3}, "num_channels is 8, expected a multiple of"),
        ({"num_heads": 4}, "even head size, given .* = 1"),
        ({"num_heads": 0}, "num_heads is 0, expected at least 1"),
        ({"num_neighbours": 7}, "num_neighbours is 7, expected 1 to 6"),
        ({"compression": 2}, "compression is 2, expected 0 < "),
        ({"decoder_expansion": 0}, "expansion is 0, expected"),
        ({"feed_forward": -1}, "(feed_forward|expansion) is -1, expected"),
        ({"n_fft": 64}, r"sum to 17, expected n_fft // 2 \+ 1 = 33"),
        ({"band_widths": "mel"}, "unknown band layout 'mel', expected"),
        ({"fusion_windows": ((2, 4), (2, 4), (2, 4))}, "three positive"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_layers": 1},
        {"num_layers": 3},
        {"num_channels": 16},
        {"num_heads": 1},
        {"band_widths": [1, 1, 2, 2, 3, 3, 5]},
        {"band_widths": [1, 1, 2, 2, 3, 8]},
        {"band_weights": "per_band"},
        {"lambda_form": "vector"},
        {"lambda_form": "statistics"},
        {"fusion": "adaptive"},
        {"fusion": "uniform"},
        {"fusion": "none"},
        {"fusion_windows": ((8, 16, 32), (4, 8, 16), (3, 4, 8))},
        {"separable": False},
        {"graph": "fixed"},
        {"graph": "none"},
        {"input_conditioned": True},
        {"feed_forward": 1},
        {"decoder_expansion": 3},
        {"split_norm": "group"},
        {"magnitude": True},
    ],
)
def test_weights_of_another_configuration_do_not_load(changes):
    weights = tiny().state_dict()
    tiny().load_state_dict(weights)
    other = tiny(**changes)
    with pytest.raises(RuntimeError, match="Error\\(s\\) in loading"):
        other.load_state_dict(weights)
    with pytest.raises(RuntimeError, match="Error\\(s\\) in loading"):
        tiny().load_state_dict(other.state_dict())


def test_weights_load_into_a_model_of_the_same_configuration():
    for form in FORMS:
        model, copy = scramble(tiny(form)), tiny(form).double()
        spec = spectrum(1, 17, 9)
        assert (model(spec) - copy(spec)).abs().max() > 1e-3
        copy.load_state_dict(model.state_dict())
        assert torch.equal(model(spec), copy(spec))


COMPILERS = [os.environ.get("CXX", "g++"), "g++", "clang++"]


@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)),
    reason="torch.compile needs a C++ compiler (g++ or clang++)",
)
def test_a_compiled_model_gives_the_same():
    torch.manual_seed(0)
    model = composed(
        n_fft=8,
        band_widths=[1, 2, 2],
        num_channels=4,
        num_heads=1,
        num_neighbours=1,
        window=2,
        causal=True,
    )
    spec = spectrum(1, 5, 6, dtype=torch.float32)
    with torch.no_grad():
        expected = model(spec)
        out = torch.compile(model)(spec)
    assert (out - expected).abs().max() < 1e-5
    assert (expected - spec).abs().max() > 0.01


MODELS = "dbtransform_lobes.models"
COMPOSED = f"""
num_channels: 8
centres: [250.0, 750.0, 1500.0, 2500.0, 3750.0, 5500.0, 7500.0]
layout: !new:{MODELS}.bands.BandLayout
    widths: [1, 1, 2, 2, 3, 4, 4]
    n_fft: 32
split: !new:{MODELS}.band_split.BandSplit
    layout: !ref <layout>
    num_channels: !ref <num_channels>
norm: !new:{MODELS}.band_linear.BandNorm
    num_channels: !ref <num_channels>
attention: !new:{MODELS}.differential_attention.DifferentialBandAttention
    num_channels: !ref <num_channels>
    num_heads: 2
    num_bands: 7
    window: 3
block: !new:{MODELS}.db_transform.Residual
    block: !ref <attention>
    norm: !ref <norm>
    order: pre
fusion: !new:{MODELS}.multi_scale_fusion.MultiScaleFusion
    num_channels: !ref <num_channels>
    centres: !ref <centres>
    windows: [[8, 16, 32], [4, 8, 16], [2, 4, 8]]
feed_forward: !new:{MODELS}.feed_forward.FeedForward
    num_channels: !ref <num_channels>
graph: !new:{MODELS}.harmonic_graph.HarmonicGraphAttention
    num_channels: !ref <num_channels>
    num_heads: 2
    edges_hz: [0.0, 500.0, 1000.0, 2000.0, 3000.0, 4500.0, 6500.0, 8500.0]
    centres: !ref <centres>
decoder: !new:{MODELS}.mask_decoder.MaskDecoder
    layout: !ref <layout>
    num_channels: !ref <num_channels>
    expansion: 1
stft: !new:speechbrain.processing.features.STFT
    sample_rate: 16000
    n_fft: 32
    win_length: 2
    hop_length: 1
loss: !new:dbtransform_lobes.training.losses.EnhancementLoss
    compute_stft: !ref <stft>
    terms:
        si_sdr: [0.1, !name:dbtransform_lobes.training.losses.negative_si_sdr ]
"""
COMPOSED += model_yaml(
    n_fft=32, band_widths=[1, 1, 2, 2, 3, 4, 4], num_channels=8, num_heads=2
)


def test_a_yaml_composes_every_module():
    parts = load_hyperpyyaml(COMPOSED)
    assert parts["layout"].centres == tuple(parts["centres"])
    spec = spectrum(2, 17, 6, dtype=torch.float32)
    z = parts["split"](real_parts(spec))
    for name in ("block", "fusion", "feed_forward", "graph"):
        before, z = z, parts[name](z)
        assert z.shape == (7, 2, 6, 8)
        assert not torch.equal(z, before)
    assert parts["decoder"](z).shape == (2, 6, 17, 3, 2)
    assert parts["model"](spec).shape == spec.shape
    noisy = torch.randn(2, 400)
    total, _ = parts["loss"](noisy, noisy + 0.1 * torch.randn(2, 400))
    assert total.shape == (2,) and (total != 0).all()


@each_form
def test_bfloat16_comes_close(form):
    model = tiny(form)
    spec = spectrum(2, 17, 20, dtype=torch.float32)
    exact = model(spec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(spec)
    assert out.dtype == torch.complex64
    assert not torch.equal(out, exact)
    error = (out - exact).abs().square().mean()
    assert error < 0.05**2 * exact.abs().square().mean()
    out.abs().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_bfloat16_inference_runs_without_gradients():
    model = tiny("recipe")
    spec = spectrum(1, 17, 20, dtype=torch.float32)
    with torch.no_grad():
        exact = model(spec)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(spec)
    assert (out - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_a_level_makes_the_gain_of_a_signal_irrelevant():
    model, spec = tiny("level"), spectrum(1, 17, 30, dtype=torch.float32)
    expected = model(spec)
    for gain in (1e-3, 1e3):
        assert torch.allclose(model(gain * spec) / gain, expected, atol=1e-5)
    bins = real_parts(spec)
    z = model.band_split(bins)
    assert not torch.allclose(model.band_split(10 * bins), z, atol=1e-3)
    with pytest.raises(ValueError, match="level is None, expected the frames"):
        tiny(level=None)


def test_trends_of_frames_are_not_in_the_estimate():
    model = tiny(detrend=torch.hann_window)
    spec = torch.fft.rfft(torch.randn(1, 9, 32)).mT
    trend = torch.fft.rfft(torch.hann_window(32)).view(1, 17, 1)
    assert torch.allclose(model(spec + 5 * trend), model(spec), atol=1e-4)
    assert not torch.allclose(tiny()(spec + 5 * trend), tiny()(spec), atol=0.1)


def test_an_unknown_decoder_activation_is_refused():
    with pytest.raises(ValueError, match="'relu', expected one of tanh, silu"):
        tiny(decoder_activation="relu")
