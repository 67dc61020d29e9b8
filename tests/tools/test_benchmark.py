"""``benchmark_models.py``: counts, ratios, memory, the literal proposal."""

import itertools
import json
import os
import pickle
import signal
from functools import partial
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark import candidates, counts, measure, worker
from benchmark.counts import count_macs, count_parameters
from benchmark.worker import Worker, peak_memory
from dbtransform_lobes.models.bsrnn import BSRNN
from tests.composition import composed, front_end_yaml, model_yaml
from tests.literal import literal_twin
from tests.models import tiny
from tests.runs import Mapping
from tests.twins import assert_gradients, scramble, spectrum

LAYOUT = [3, 3, 5, 6, 8, 8]  # n_fft 64, bands in all three ranges
BANDS = {"n_fft": 64, "band_widths": LAYOUT}
SMALL = {**BANDS, "num_channels": 8, "num_heads": 2, "num_neighbours": 2}
PROPOSAL = {**tiny.PROPOSAL, **SMALL, "compression": 1.0}
TINY_BSRNN = {**BANDS, "num_channels": 4, "num_layers": 1}
BSRNN_CLASS = "dbtransform_lobes.models.bsrnn.BSRNN"
COSTLY = f"{__name__}.Costly"
LENGTH = 0.25
BROKEN = {
    "no_model": "",
    "no_yaml": "model: [",
    "no_argument": f"model: !new:{BSRNN_CLASS} {{num_chanels: 4}}",
    "no_module": "model: !new:my_models.Mine",
}


class Costly(nn.Module):
    """Needs so many bytes for a pass, or ends its process by a signal."""

    def __init__(self, num_bytes=0, number=None):
        super().__init__()
        self.num_bytes, self.number = num_bytes, number

    def forward(self, spec):
        if self.number:
            os.kill(os.getpid(), self.number)
        torch.empty(self.num_bytes, dtype=torch.uint8)[::1024] = 1
        return spec


def write_model(folder, name, kind=None, **options):
    """Write the YAML of a model, a DB-Transform by default, and front end."""
    model = f"model: !new:{kind} {json.dumps(options)}\n"
    if kind is None:
        model = model_yaml(**options)
    path = folder / f"{name}.yaml"
    path.write_text(front_end_yaml() + model)
    return path


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Stand in a folder with tiny models in hparams/models."""
    folder = tmp_path / "hparams/models"
    folder.mkdir(parents=True)
    write_model(folder, "bsrnn", BSRNN_CLASS, **TINY_BSRNN)
    write_model(folder, "db_transform_proposal", **PROPOSAL)
    for name, text in BROKEN.items():
        (folder / f"{name}.yaml").write_text(front_end_yaml() + text)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def no_children(monkeypatch):
    """Time in this process: one for each model takes seconds to start."""

    def run(worker, task, threads, *arguments):
        task = pickle.loads(pickle.dumps(task))  # as it is sent to another
        return task(candidates.load_candidate(worker.source), *arguments)

    monkeypatch.setattr(Worker, "run", run)


SPEC = spectrum(2, 33, 40)


SIGNAL = torch.zeros(5, 7, 8)
QUERY, KEY = torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 6, 8)
PAIRS = 2 * 3 * 10 * 6
# Kernels of the CPU; a mask, and fewer values, take others.
ATTENTION = Mapping(F.scaled_dot_product_attention)
MASK, FEWER = torch.zeros(10, 6), KEY[..., :4]
FIRST, SECOND = 4 * 16 * (8 + 16), 4 * 16 * (32 + 16)
BOTH = 2 * (FIRST + SECOND)
BOTH_WAYS = {"num_layers": 2, "bidirectional": True}
HEADS = nn.MultiheadAttention(8, 2, batch_first=True).eval()  # fused
CONVOLUTION = nn.Conv1d(8, 4, 3, groups=2, padding=1)


@pytest.mark.parametrize(
    "module, inputs, expected",
    [
        (nn.Linear(8, 4), [SIGNAL], 5 * 7 * 8 * 4),
        (CONVOLUTION, [SIGNAL.transpose(1, 2)], 5 * 7 * 4 * (8 // 2) * 3),
        (nn.LSTM(8, 16), [SIGNAL], 5 * 7 * FIRST),
        (nn.LSTM(8, 16).double(), [SIGNAL.double()], 5 * 7 * FIRST),
        (nn.LSTM(8, 16, **BOTH_WAYS), [SIGNAL], 5 * 7 * BOTH),
        (nn.LSTM(8, 16, **BOTH_WAYS).double(), [SIGNAL.double()], 5 * 7 * BOTH),
        (ATTENTION, [QUERY, KEY, KEY], PAIRS * (8 + 8)),
        (ATTENTION, [QUERY, KEY, FEWER], PAIRS * (8 + 4)),
        (ATTENTION, [QUERY, KEY, KEY, MASK], PAIRS * (8 + 8)),
        (ATTENTION, [QUERY, KEY, FEWER, MASK], PAIRS * (8 + 4)),
        (HEADS, [SIGNAL] * 3, 5 * 7 * (4 * 8 * 8 + 2 * 7 * 8)),
    ],
)
def test_macs_are_those_counted_by_hand(module, inputs, expected):
    assert count_macs(module, lambda: module(*inputs))["total"] == expected


def test_counts_of_bsrnn_by_hand():
    model = BSRNN(num_channels=8, num_layers=2)
    cells, bins = 31 * 10, 10 * 257
    lstm = 4 * 16 * (8 + 16)
    expected = {
        "band_split": 2 * bins * 8,
        "time_layers": 2 * cells * (lstm + 16 * 8),
        "band_layers": 2 * cells * (2 * lstm + 32 * 8),
        "mask_decoder": cells * 8 * 32 + bins * 32 * 12,
    }
    expected["total"] = sum(expected.values())
    spec = torch.zeros(1, 257, 10, dtype=torch.complex64)
    assert count_macs(model, lambda: model(spec)) == expected
    parameters = count_parameters(model)
    assert list(parameters) == ["total", *counts.components(model)]
    assert parameters["total"] == sum(w.numel() for w in model.parameters())


def test_components_of_db_transform_are_all_of_it():
    sizes = {"num_channels": 8, "num_layers": 2, "num_heads": 2}
    model = composed(**tiny.LEVEL, **sizes, feed_forward=1)
    parameters = count_parameters(model)
    names = "detrend band_split attention fusion feed_forward graph "
    names += "graph_feed_forward mask_decoder"
    assert list(parameters)[1:] == names.split()
    assert sum(parameters.values()) == 2 * parameters["total"]
    assert parameters["feed_forward"] == 2 * (3 * 64 + 2 * 8 + 8 + 2 * 8)
    spec = torch.zeros(1, 257, 5, dtype=torch.complex64)
    macs = count_macs(model, lambda: model(spec))
    assert macs["feed_forward"] == 2 * 31 * 5 * 3 * 64
    assert sum(macs.values()) == 2 * macs["total"]


def test_literal_equals_db_transform():
    model = scramble(composed(**PROPOSAL), scale=0.3)
    twin, spec = literal_twin(model), SPEC
    twin(spec).abs().sum().backward()
    assert_gradients(twin, least=-1)  # all are finite
    with torch.no_grad():
        expected = model(spec)
        assert torch.allclose(twin(spec), expected, rtol=0, atol=1e-9)
        # Another weight anywhere would be seen.
        for name, parameter in model.named_parameters():
            before = parameter.clone()
            parameter.add_(0.5 * torch.randn_like(parameter))
            changed = (model(spec) - expected).abs().max()
            parameter.copy_(before)
            # Of the statistics' MLP only where its ReLU lets it.
            assert changed > 1e-7 or "statistics.hidden" in name, name
        model.float()
        twin = literal_twin(model)
        spec = spec.to(torch.complex64)
        assert torch.allclose(twin(spec), model(spec), rtol=0, atol=1e-4)


def test_literal_has_the_parameters_and_components_of_db_transform():
    sizes = {"num_channels": 128, "num_heads": 4, "num_neighbours": 5}
    bands = {"n_fft": 512, "band_widths": "bsrnn_16k"}
    model = composed(**{**PROPOSAL, **bands, **sizes})
    found = count_parameters(model)
    assert found["total"] == 6_357_788  # with the sizes of the proposal
    assert count_parameters(literal_twin(model)) == found


OTHERS = {"rope": True, "num_layers": 2, "separable": True, "compression": 0.3}
OTHERS |= {"magnitude": True, "norm_order": "pre", "graph": "dense"}
OTHERS |= {"fusion": "none", "differential": False}


def test_literal_refuses_other_configurations():
    for option, value in OTHERS.items():
        model = composed(**{**PROPOSAL, option: value})
        with pytest.raises(ValueError, match="db_transform_proposal.yaml"):
            literal_twin(model)


def timed(model, factors, length=LENGTH):
    """A case of passes of a model."""
    case = {"model": model, "measure": measure.INFERENCE, "threads": 1}
    return {**case, "length": length, "factors": factors}


def test_ratios_are_of_the_same_repeat():
    slow, fast = [1.0, 2.0, 9.0], [1.0, 1.0, 3.0]  # medians 2 and 1
    cases = [timed("a", [1.0, 9.0, 2.0]), timed("b", [1.0, 3.0, 4.0])]
    cases += [timed("a", slow, 1.0), timed("b", fast, 1.0)]
    found = [case["value"] for case in measure.ratios(cases, ["b"])]
    assert found == [1.0, 1.0, 2.0, 1.0]
    titles = {case["measure"] for case in measure.ratios(cases, ["b"])}
    assert titles == {"time over that of b"}


def test_times_are_those_of_a_second_of_audio(tmp_path, monkeypatch):
    """By a clock that is a second further whenever it is read."""
    path = write_model(tmp_path, "live", **SMALL, causal=True, window=4)
    model = candidates.load_candidate(str(path))
    monkeypatch.setattr("time.perf_counter", partial(next, itertools.count()))
    monkeypatch.setattr(worker, "STREAM_SECONDS", 0.1)
    for frames in (1, 4):
        found = worker.time_stream(model, frames)
        assert found == pytest.approx(1 / (frames * 0.002))  # hops of 2 ms
    assert worker.time_pass(model, LENGTH) == 1 / LENGTH
    assert worker.time_training(model) == 1 / (2.0 * 4)  # crops
    other = write_model(tmp_path, "other", BSRNN_CLASS, **TINY_BSRNN)
    other = candidates.load_candidate(str(other))
    assert worker.time_stream(other, frames) is None


def test_operations_of_a_long_signal_are_those_of_a_shorter_one(tmp_path):
    """Models that cut their input are counted at 30 s, others in full."""
    path = write_model(tmp_path, "cut", **SMALL, window=4)
    cut = candidates.load_candidate(str(path))
    short, long = (counts.macs_per_second(cut, s) for s in (30.0, 300.0))
    assert short == long and short["attention"] > 0 and short["fusion"] > 0


def test_memory_of_a_pass(tmp_path):
    path = write_model(tmp_path, "hungry", COSTLY, num_bytes=200_000_000)
    assert 195e6 < peak_memory(str(path), LENGTH) < 260e6


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_bytes": 10**15}, "alloc"),  # more memory than there is
        ({"number": int(signal.SIGKILL)}, "ended with code -9"),
    ],
)
def test_a_model_that_fails_is_left_out(tmp_path, options, reason, capsys):
    path = write_model(tmp_path, "costly", COSTLY, **options)
    assert peak_memory(str(path), LENGTH) is None
    told = capsys.readouterr().err
    assert told.startswith(f"left out: {path}") and reason in told


@pytest.mark.usefixtures("no_children")
def test_a_model_without_memory_is_left_out(models, monkeypatch, run):
    def peak(name, length, *args):
        return None if (name, length) == ("bsrnn", 0.5) else 1000

    monkeypatch.setattr(measure.worker, "peak_memory", peak)
    names = ["bsrnn", "db_transform_proposal"]
    options = "--lengths 0.25 0.5 --threads 1 --repeats 1 --json out.json"
    command = "benchmark_models", "--no-training", "--models", *names
    table = run(*command, *options.split()).out
    results = json.loads(Path("out.json").read_text(encoding="utf-8"))
    found = {
        (case["measure"], case["model"], case.get("length")): case["value"]
        for case in results["cases"]
    }
    assert found.pop((measure.MEMORY, "bsrnn", 0.5)) is None
    assert None not in found.values()
    passes = [key[1:] for key in found if key[0] == measure.INFERENCE]
    other = "db_transform_proposal"
    assert passes == [("bsrnn", 0.25), (other, 0.25), (other, 0.5)]
    ratios = [key[1:] for key in found if "over that of" in key[0]]
    assert ratios == [("bsrnn", 0.25), (other, 0.25)]
    assert measure.TRAINING not in {key[0] for key in found}
    assert "-" in table.split()


def test_command(models, run, monkeypatch):
    peak = create_autospec(peak_memory, return_value=2_500_000)
    monkeypatch.setattr(measure.worker, "peak_memory", peak)
    names = ["db_transform_proposal", "bsrnn", "literal"]
    options = f"--lengths {LENGTH} --threads 1 --repeats 2 --profile"
    options += " --json out.json --plot cost.pdf"
    command = "benchmark_models", "--models", *names, *options.split()
    table = run(*command).out
    assert Path("cost.pdf").read_bytes().startswith(b"%PDF")
    results = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert results["machine"]["cpu"] and results["versions"]["torch"]
    assert list(results["models"]) == names
    sizes = {n: results["models"][n]["parameters"] for n in names}
    assert sizes["literal"] == sizes["db_transform_proposal"]
    text = results["models"]["bsrnn"]["configuration"]
    assert "num_layers: 1" in text
    cases = {}
    for case in results["cases"]:
        cases.setdefault(case["measure"], []).append(case)
    for kind in (measure.INFERENCE, measure.TRAINING, measure.MACS):
        assert [case["model"] for case in cases[kind]] == names, kind
    for case in cases[measure.INFERENCE]:
        assert len(case["factors"]) == 2 and min(case["factors"]) > 0
        mean = sum(case["factors"]) / 2  # the median of two
        assert case["value"] == pytest.approx(mean)
    for other in names:
        values = [case["value"] for case in cases[f"time over that of {other}"]]
        assert len(values) == 3 and values[names.index(other)] == 1.0
    for case in cases[measure.TRAINING]:
        mean = sum(case["factors"]) / 2
        assert case["value"] == pytest.approx(1 / mean)
    assert [case["value"] for case in cases[measure.MEMORY]] == [2.5] * 3
    # As many products in loops as in batches, but for the folded kernels.
    batched, _, loops = (case["parts"] for case in cases[measure.MACS])
    for part in ("band_split", "graph", "mask_decoder"):
        assert loops[part] == pytest.approx(batched[part], rel=0.01), part
    assert table.split()[:3] == names
    for title in ("real-time factor", "peak memory", *cases):
        assert title in table, title
    assert f"{sizes['literal']['total']:,}" in table
    profile = table.partition("bsrnn, 0.25 s, threads: 1\n")[2]
    own, _, other = profile.partition("literal, 0.25 s, threads: 1\n")
    assert "mkldnn_rnn_layer" in own or "lstm" in own
    assert "softmax" in other and "lstm" not in other


def test_names(models, monkeypatch):
    path = candidates.find_configuration("bsrnn")
    assert path.resolve() == models / "bsrnn.yaml"
    candidate = candidates.load_candidate("bsrnn")
    noisy = candidate.noise(LENGTH)
    assert noisy.shape == candidate.enhance(noisy).shape == (1, 4000)
    assert not candidate.model.training
    monkeypatch.chdir(models)  # elsewhere they are those of the repository
    assert candidates.find_configuration("cmgan").is_file()


def test_refused(models, run):
    for arguments, message in (
        ("bsrn", "db_transform_proposal"),
        ("nowhere/bsrnn.yaml", "expected the path of a YAML"),
        ("hparams/models/no_model.yaml", "lacks model"),
        ("no_yaml", "no_yaml.yaml: expected HyperPyYAML (while parsing"),
        ("no_argument", "no_argument.yaml: correct it: Invalid argument"),
        ("no_module", "my_models.Mine; install it or, if it is yours, name"),
        ("bsrnn bsrnn", "different names"),
        ("bsrnn --threads 0", "--threads is 0, expected 1"),
        ("bsrnn --lengths 0", "is 0.0, expected 0.1 to"),
        ("bsrnn --repeats 0", "--repeats is 0, expected 1"),
        ("bsrnn --plot cost.txt", ".png or .pdf"),
        ("bsrnn --json no/out.json", "no: there is no"),
    ):
        command = "benchmark_models", "--models", *arguments.split()
        assert message in run(*command, code=1).err
