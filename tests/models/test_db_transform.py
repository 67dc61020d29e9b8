"""The whole model: composition, analysis, options, weights, compilation."""

import os
import shutil

import numpy as np
import pytest
import torch
import yaml

from dbtransform_lobes.models.harmonic_graph import harmonic_pairs
from dbtransform_lobes.models.spectrum import real_parts
from tests.composition import composed
from tests.formulas import filter_twin
from tests.models.tiny import tiny
from tests.twins import array, assert_twin, mask_of, scramble, spectrum


def model_twin(model, spec, order, taps=(-1, 0, 1)):
    """Level, split; blocks one after the other; mask; filter of three taps.

    Post-norm: z = norm(z + f(z)); pre-norm: z = z + f(norm(z)).
    """
    z = model.band_split(model.level(real_parts(spec)))
    for residual in model.blocks:
        if order == "post":
            z = residual.norm(z + residual.block(z))
        else:
            z = z + residual.block(residual.norm(z))
    return filter_twin(array(mask_of(model.mask_decoder(z))), array(spec), taps)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("order, other", [("pre", "post"), ("post", "pre")])
def test_model_equals_the_composition_of_its_parts(order, other, causal):
    model = scramble(tiny("recipe", causal, norm_order=order))
    spec = spectrum(2, 17, 7)
    taps = [(-1, 0, 1), (-2, -1, 0)]
    right, wrong = taps[::-1] if causal else taps
    forms = [(order, right), (order, right[::-1]), (order, wrong)]
    forms.append((other, right))
    assert_twin(model(spec), *(model_twin(model, spec, *f) for f in forms))


def test_the_initial_lambda_follows_the_layer():
    attentions = tiny("vector", num_layers=3).blocks[::3]
    found = [residual.block.vector.initial for residual in attentions]
    assert np.allclose(found, [0.8 - 0.6 * np.exp(-0.3 * i) for i in range(3)])


def test_analysis_says_what_graph_and_fusion_have_learned():
    model = scramble(tiny(num_layers=3))
    spec = spectrum(1, 17, 5)
    estimate, analysis = model(spec, return_analysis=True)
    assert torch.equal(estimate, model(spec))
    fusions, graphs = ([r.block for r in model.blocks[i::3]] for i in (1, 2))
    weights = torch.stack([fusion.fusion_weights() for fusion in fusions])
    assert torch.equal(analysis["fusion_weights"], weights)
    edges = torch.stack([graph.adjacency() for graph in graphs])
    assert torch.equal(analysis["adjacency"], edges)
    assert not analysis["adjacency"].requires_grad
    pairs = [harmonic_pairs(each, model.layout.centres) for each in edges]
    assert analysis["harmonic_pairs"] == pairs and sum(map(len, pairs)) > 0
    assert edges.shape == (3, 7, 7) and weights.shape == (3, 7, 3)
    # It says nothing of parts left out.
    assert tiny("bare").analyse() == {}
    assert tiny("conditioned").analyse()["adjacency"].shape == (2, 7, 7)
    assert tiny("dense").analyse()["adjacency"].min() == 1


OTHERS = """[
num_layers: 1, num_layers: 3, num_channels: 16, num_heads: 1,
band_widths: [1, 1, 2, 2, 3, 3, 5], band_widths: [1, 1, 2, 2, 3, 8],
band_weights: per_band, lambda_form: vector, lambda_form: statistics,
fusion: adaptive, fusion: uniform, fusion: none, separable: False,
fusion_windows: [[8, 16, 32], [4, 8, 16], [3, 4, 8]],
graph: fixed, graph: none, input_conditioned: True, feed_forward: 1,
decoder_expansion: 3, split_norm: group, magnitude: True]"""


@pytest.mark.parametrize("changes", yaml.safe_load(OTHERS), ids=str)
def test_weights_of_another_configuration_do_not_load(changes):
    models = tiny(), tiny(**changes)
    for model, other in (models, models[::-1]):
        with pytest.raises(RuntimeError, match="Error\\(s\\) in loading"):
            model.load_state_dict(other.state_dict())


COMPILERS = [os.environ.get("CXX", "g++"), "g++", "clang++"]


@pytest.mark.skipif(
    not any(map(shutil.which, COMPILERS)),
    reason="torch.compile needs a C++ compiler (g++ or clang++)",
)
@torch.no_grad()
def test_a_compiled_model_gives_the_same():
    torch.manual_seed(0)
    sizes = {"num_channels": 4, "num_heads": 1, "num_neighbours": 1}
    bands = {"n_fft": 8, "band_widths": [1, 2, 2]}
    sizes |= {"window": 2, "fusion_windows": 3 * [3 * [2]]}
    model = composed(**bands, **sizes, causal=True)
    spec = spectrum(1, 5, 6, dtype=torch.float32)
    expected = model(spec)
    # Plain loops compile in less time, in this process.
    options = {"cpp.simdlen": 1, "compile_threads": 1}
    compiled = torch.compile(model, options=options)
    assert (compiled(spec) - expected).abs().max() < 1e-5
    assert (expected - spec).abs().max() > 0.01


def test_trends_of_frames_are_not_in_the_estimate():
    model = tiny(detrend=torch.hann_window)
    spec = torch.fft.rfft(torch.randn(1, 9, 32)).mT
    trend = torch.fft.rfft(torch.hann_window(32)).view(1, 17, 1)
    assert torch.allclose(model(spec + 5 * trend), model(spec), atol=1e-4)
    assert not torch.allclose(tiny()(spec + 5 * trend), tiny()(spec), atol=0.1)
