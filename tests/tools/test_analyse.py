"""``analyse.py``: what the figures and the report show."""

import base64
import importlib.util
import io
import re
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from matplotlib.patches import Arc

import analyse
from analyse import FIGURES
from command import run_tool
from dbtransform_lobes.analysis import graph as graphs
from dbtransform_lobes.analysis.graph import MissingPart, band_graph
from dbtransform_lobes.analysis.spectrograms import spectrograms
from dbtransform_lobes.export.model_folder import PRETRAINER
from dbtransform_lobes.models.bsrnn import BSRNN
from dbtransform_lobes.models.harmonic_graph import harmonic_pairs
from figures.architecture import architecture, stages
from figures.attention import attention_maps
from figures.fusion import fusion_weights
from tests.composition import composed, flow, front_end_yaml
from tests.runs import model_of
from tests.signals import (
    names,
    noise_like,
    noisy_signal,
    speech_like,
    write_wav,
)
from tests.twins import spectrum

SMALL = {"num_channels": 8, "num_layers": 2, "num_heads": 2}
BSRNN_SIZES = {"num_channels": 8, "num_layers": 1}
TINY_BSRNN = BSRNN(**BSRNN_SIZES)


def small(**changes):
    torch.manual_seed(0)
    return composed(**{**SMALL, **changes})


SPEC = spectrum(1, 257, 12, dtype=torch.float32)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Noisy speech of two channels at 22.05 kHz, 1.5 s; clean speech."""
    folder = tmp_path_factory.mktemp("audio")
    clean = speech_like(1.5, sample_rate=22050)
    noisy = clean + noise_like(1.5, sample_rate=22050)
    path = folder / "noisy.flac"
    sf.write(path, np.stack((noisy, 0.5 * noisy), 1), 22050, "PCM_24")
    write_wav(folder / "clean.wav", clean, 22050)
    return path


@pytest.fixture(scope="module")
def everything(model_folder, audio, tmp_path_factory):
    """All figures, with a clean file, a file and a model beside."""
    output = tmp_path_factory.mktemp("out") / "analysis"
    arguments = [str(model_folder), str(audio), "--output", str(output)]
    arguments += ["--clean", str(audio.parent / "clean.wav")]
    arguments += ["--systems", f"BSRNN={audio}", f"twin={model_folder}"]
    assert run_tool("analyse", arguments) == 0
    return output


def page_audio(page):
    """Samples and rate of every player, by its title."""
    found = re.findall(
        r'aria-label="([^"]+)" src="data:audio/wav;base64,([^"]+)"', page
    )
    return {
        title: sf.read(io.BytesIO(base64.b64decode(data)))
        for title, data in found
    }


def test_players_have_the_signals(everything, model, audio):
    page = (everything / "report.html").read_text(encoding="utf-8")
    players = page_audio(page)
    titles = ["Noisy", "BSRNN", "twin", "DB-Transform", "Clean"]
    assert list(players) == titles
    assert {rate for _, rate in players.values()} == {22050}
    noisy = sf.read(audio)[0].mean(1)
    enhanced = model.enhance_array(noisy.astype(np.float32), 22050)
    clean = sf.read(audio.parent / "clean.wav")[0]
    expected = [noisy, noisy, enhanced, enhanced, clean]
    for title, signal in zip(titles, expected, strict=True):
        heard, shown = players[title][0], signal.clip(-1, 1)
        np.testing.assert_allclose(heard, shown, atol=1e-4)
    assert np.abs(noisy - enhanced).max() > 1e-2


def test_page_needs_nothing_else_and_says_what_it_shows(everything):
    page = (everything / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"data:[\w/]+;base64,[\w+/=]+", "data:", page)
    assert not re.search(r"https?:|//|<script|<link|url\(", text)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert set(addresses) == {"data:"} and len(addresses) == 5 + 5
    assert "default-src 'none'" in text
    assert "Analysis of tiny" in text
    for words in (
        "noisy.flac: the first 1.5 s of 1.5, at 22050 Hz, the mean of 2",
        "num_channels</th>\n<td>8<",
        f"torch</th>\n<td>{torch.__version__.partition('+')[0]}",
        "window_fn",
    ):
        assert words in text
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    for name, data in zip(FIGURES, pictures, strict=True):
        written = (everything / f"{name}.png").read_bytes()
        assert base64.b64decode(data) == written
        assert (everything / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert str(everything.parent) not in text
    assert names(everything) == sorted(analyse.FILES)
    assert names(everything.parent) == ["analysis"]


def test_one_figure_of_a_long_file(model_folder, tmp_path, run):
    path = write_wav(tmp_path / "long.wav", 0.1 * np.ones(11 * 4000), 4000)
    output = tmp_path / "graph"
    command = "analyse", model_folder, path, "--output", output, "--figures"
    taken = "graph", "--systems", f"DB-Transform={path}"
    told = run(*command, *taken, code=1).err
    assert "named DB-Transform, as the model is" in told
    assert not output.exists()
    run(*command, "graph")
    assert names(output) == ["graph.pdf", "graph.png", "report.html"]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "the first 10 s of 11, at 4000 Hz" in page
    assert len(page_audio(page)["Noisy"][0]) == 10 * 4000
    assert "exists; use --force" in run(*command, "fusion", code=1).err
    run(*command, "fusion", "--force")
    assert names(output) == ["fusion.pdf", "fusion.png", "report.html"]


def test_maps_of_a_long_part_are_those_of_its_start(monkeypatch):
    given = model_of(small()), noisy_signal(1.5, 22050)[:, 0], 22050
    whole = analyse._start_of(*given)
    monkeypatch.setattr(analyse, "MAP_SECONDS", 1)
    start = analyse._start_of(*given)
    # 125 frames a second and one more, the last half of a hop padded; the
    # last frames see what comes after the cut
    assert (whole.shape[-1], start.shape[-1]) == (188 + 1, 125 + 1)
    assert torch.equal(whole[..., :124], start[..., :124])


def test_graph_shows_the_edges_of_the_model():
    model = small()
    graphs = [*model.analyse()["adjacency"], model.blocks[2].block.fixed_edges]
    figure = band_graph(model)
    centres = np.array(model.layout.centres)
    for number, edges in enumerate(graphs):
        arcs, ratios = figure.axes[2 * number : 2 * number + 2]
        pairs = edges.triu(1).nonzero().numpy()
        drawn = [patch for patch in arcs.patches if isinstance(patch, Arc)]
        assert len(drawn) == len(pairs) > 0
        place = np.log2(np.array(model.layout.edges_hz) + 31.25)
        place = (place[:-1] + place[1:]) / 2
        ends = set()
        for arc in drawn:
            sides = arc.center[0] + arc.width / 2 * np.array([[-1], [1]])
            ends.add(tuple(np.abs(place - sides).argmin(1)))
        assert ends == {tuple(pair) for pair in pairs.tolist()}
        points = sorted(float(line.get_ydata()[0]) for line in ratios.lines)
        expected = sorted(centres[j] / centres[i] for i, j in pairs)
        np.testing.assert_allclose(points, expected)
    assert len({tuple(map(tuple, g.tolist())) for g in graphs}) > 1


def test_ratios_agree_with_the_harmonic_pairs_of_the_model():
    centres = small().layout.centres
    pairs = harmonic_pairs(torch.ones(31, 31).triu(1), centres)
    near, multiples = graphs._near_ratio, []
    for i, j in combinations(range(31), 2):
        high, low = near(centres[i], centres[j]) or (0, 2)
        multiples += [(i, j, high)] if low == 1 else []
    assert multiples == pairs and len(pairs) > 10
    assert near(100.0, 159.9) == (3, 2)
    assert near(100.0, 160.1) is None is near(100.0, 620.0)


def test_fusion_shows_the_weights_and_the_prior():
    model = small()
    fusions = [model.blocks[1].block, model.blocks[4].block]
    with torch.no_grad():
        fusions[1].logits += torch.randn(31, 3)
    panels = fusion_weights(model).axes
    prior = fusions[0].prior().numpy()
    assert prior[0].tolist() != prior[-1].tolist()
    for panel, fusion in zip(panels, fusions, strict=True):
        weights = fusion.fusion_weights().detach().numpy()
        marks = [line for line in panel.lines if len(line.get_xdata()) == 31]
        drawn = np.stack([line.get_ydata() for line in marks], 1)
        np.testing.assert_allclose(drawn, weights)
        steps = [patch.get_data().values for patch in panel.patches]
        np.testing.assert_allclose(np.stack(steps, 1), prior)
    texts = [text.get_text() for text in panels[0].texts]
    assert texts == ["8/16/32\nframes", "4/8/16\nframes", "2/4/8\nframes"]


@pytest.mark.parametrize("form", ["token", "vector", "statistics"])
def test_attention_shows_maps_and_lambda(form):
    model = small(lambda_form=form, rope=True, num_channels=16)
    analysis = model.analyse(SPEC, 7)
    figure = attention_maps(model, SPEC, model.layout.centres[7] + 9, 0.008)
    panels = [axes for axes in figure.axes if axes.images]
    maps = [p for p in panels if p.images[0].get_array().shape == (12, 12)]
    expected = analysis["maps"][:, :, 0].mean(2).flatten(0, 1)
    assert len(maps) == len(expected) == 6
    for panel, each in zip(maps, expected, strict=True):
        np.testing.assert_allclose(panel.images[0].get_array(), each.numpy())
        limits = 0, 12 * 0.008, 12 * 0.008, 0
        np.testing.assert_allclose(panel.images[0].get_extent(), limits)
    plain = attention_maps(small(differential=False), SPEC, 0, 0.008).axes
    titles = [axes.get_title() for axes in plain if axes.get_title()]
    assert titles == ["$A$", "$A$"]
    below = next(a for a in figure.axes if a.get_ylabel() == r"$\lambda$")
    for bars, values in zip(below.containers, analysis["lambda"], strict=True):
        mean = values.reshape(len(values), -1).mean(1).expand(31).numpy()
        np.testing.assert_allclose(bars[0].get_ydata(), mean, rtol=1e-5)


def test_spectrograms_share_axes_and_scale():
    signals = {"loud": 0.5 * np.ones(8000), "soft": 0.05 * np.ones(8000)}
    panels = spectrograms(signals, 8000).axes[:2]
    assert [panel.get_title() for panel in panels] == ["loud", "soft"]
    images = [panel.images[0] for panel in panels]
    assert images[0].get_extent() == [0, 1.0, 0, 4.0]
    assert images[0].get_clim() == images[1].get_clim()
    top = [image.get_array().max() for image in images]
    # a tenth of the amplitude: 20 dB
    assert top[0] - top[1] == pytest.approx(20, abs=0.1)
    assert images[0].get_clim()[1] == pytest.approx(top[0])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_every_signal_has_a_spectrogram_of_a_time_axis(count):
    signals = {str(number): np.ones(3) for number in range(count)}
    axes = spectrograms(signals, 8000).axes
    shown = [a for a in axes[:-1] if a.get_visible() and a.images]
    assert [a.get_title() for a in shown] == list(signals)
    columns = {a.get_position().x0 for a in shown}
    labelled = [a for a in shown if a.get_xlabel() == "time in s"]
    assert len(labelled) == len(columns)


NETWORKS = """
plain: {}
simple: {graph: none, fusion: none, feed_forward: 2}
adaptive: {band_weights: per_band, lambda_form: statistics, fusion: adaptive,
    norm: group, split_norm: group, input_conditioned: true, norm_order: post}
causal: {causal: true, window: 5, graph: dense, differential: false}
"""
NETWORKS = {n: small(**o) for n, o in yaml.safe_load(NETWORKS).items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_architecture_counts_every_parameter_once(name):
    network = NETWORKS[name]
    total = sum(parameter.numel() for parameter in network.parameters())
    counted = 0
    for times, group in stages(network):
        counted += times * sum(stage.parameters for stage in group)
    assert counted == total
    stft = model_of(network).hparams.compute_stft
    figure = architecture(network, stft)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert f"{type(network).__name__}: {total:,} parameters" in texts
    assert any("window 32 ms, hop 8 ms, n_fft 512" in text for text in texts)
    for _, group in stages(network):
        assert all(stage.title in texts for stage in group)
    edges = [1000 * band.get_x() for band in figure.axes[1].patches]
    np.testing.assert_allclose(edges, network.layout.edges_hz[:-1])


def test_parts_that_are_missing():
    draw_maps = partial(attention_maps, spec=SPEC, hertz=0, frame_seconds=0.008)
    for draw, network, reason in (
        (band_graph, small(graph="none"), "has no graph"),
        (band_graph, small(graph="fixed"), "'fixed': its edges are not"),
        (fusion_weights, small(fusion="none"), "no multi-scale fusion"),
        (band_graph, TINY_BSRNN, "BSRNN has no"),
        (draw_maps, TINY_BSRNN, "BSRNN has no differential attention"),
        (stages, TINY_BSRNN, "BSRNN has no blocks"),
    ):
        with pytest.raises(MissingPart, match=reason):
            draw(network)


def test_page_of_a_baseline_says_what_is_left_out(
    model_folder, audio, tmp_path, run
):
    baseline = tmp_path / "baseline"
    baseline.mkdir()
    model = f"model: !new:{BSRNN.__module__}.BSRNN {flow(BSRNN_SIZES)}\n"
    text = front_end_yaml(512, 32, 8) + model + PRETRAINER
    (baseline / "hyperparams.yaml").write_text(text, encoding="utf-8")
    torch.save(TINY_BSRNN.state_dict(), baseline / "model.ckpt")
    systems = "--systems", f"DB-Transform={model_folder}"
    command = "analyse", baseline, audio, "--output", tmp_path / "out"
    told = run(*command, *systems).out
    assert "left out: fusion: this BSRNN has no" in told
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert list(page_audio(page)) == ["Noisy", "DB-Transform", "BSRNN"]
    left_out = re.findall(r"<li>(.*?):", page)
    assert left_out == ["Architecture", "Graph", "Fusion", "Attention"]
    assert "num_layers</th>\n<td>1<" in page
    parts = {path.stem for path in (tmp_path / "out").iterdir()}
    assert parts == {"spectrograms", "report"}


def test_page_escapes_every_text(everything):
    evil = '"><script>alert(1)</script>'
    players, tables = {evil: np.zeros(4)}, {evil: [(evil, evil)]}
    figures, left_out = [everything / "graph.png"], {evil: evil}
    page = analyse.render_report(
        evil, evil, players, 8000, figures, left_out, tables
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 10


@pytest.mark.usefixtures("no_weights")
def test_mistakes_are_found_before_the_weights_are_loaded(
    model_folder, audio, tmp_path, monkeypatch, run
):
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "short.wav", np.zeros(4000), 8000)
    command = "analyse", model_folder, audio, "--output", "out"
    for options, message in (
        ("--systems =noisy.flac", "expected NAME=FILE_OR_MODEL"),
        ("--systems a=x a=y", "two of the name a"),
        ("--systems a=none", "no such folder or file, expected a"),
        ("--systems Clean=db_transform_small", "'Clean', which is taken"),
        ("--clean short.wav", "lasts 0.5 s, expected the 1.5 s"),
        ("--clean none.wav", "none.wav: there is no such file"),
        ("--device tpu9", "device 'tpu9' cannot be used"),
        ("--output no/where", "there is no such folder; make it"),
    ):
        assert message in run(*command, *options.split(), code=1).err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'dbtransform[plot]'" in run(*command, code=1).err
    assert names(tmp_path) == ["short.wav"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lambda_form": "statistics", "fusion": "adaptive"},
        {"input_conditioned": True, "norm": "group"},
    ],
)
def test_analysis_while_training_changes_no_gradient(changes):
    model = small(num_channels=16, **changes).double().train()
    spec, both = spectrum(3, 257, 12), []
    for options in ({}, {"return_analysis": True, "band": 30}):
        model.zero_grad()
        found = model(spec, **options)
        estimate, analysis = found if options else (found, None)
        (estimate - 0.5 * spec).abs().square().mean().backward()
        both.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in both[0].items():
        # Threads add in any order: equal but for the rounding of float64.
        error = (gradient - both[1][name]).abs().max()
        assert error <= 1e-12 * gradient.abs().max(), name
    assert any(gradient.abs().max() > 0 for gradient in both[0].values())
    tensors = [analysis["maps"], analysis["adjacency"], *analysis["lambda"]]
    assert len(tensors) == 4
    assert not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize("band", [-1, 31])
def test_analysis_of_a_band_that_is_not_there(band):
    with pytest.raises(ValueError, match=f"band is {band}, expected 0 to 30"):
        small()(SPEC, return_analysis=True, band=band)
    with pytest.raises(ValueError, match="band is 3 without a spectrum"):
        small().analyse(band=3)
