"""Tests of the metrics, of scoring folders and of ``dbtransform evaluate``."""

import json
import math
import os
from itertools import product

import numpy as np
import pytest
import soundfile as sf
import soxr
from scipy.linalg import toeplitz

from dbtransform_lobes.data.audio import for_soundfile
from dbtransform_lobes.data.dataset import mix_testset
from dbtransform_lobes.evaluation import composite as measures
from dbtransform_lobes.evaluation.compare import compare_systems
from dbtransform_lobes.evaluation.metrics import (
    METRICS,
    SilentFileError,
    score,
    si_sdr,
)
from dbtransform_lobes.evaluation.scoring import _read_mono
from tests.signals import noise_like, rows_of, speech_like

RATE = 16000


def noisy_pair(snr_db=5.0, seconds=1.5, seed=0):
    """Return clean and noisy signals of a given SNR."""
    clean = speech_like(seconds, seed)
    noise = noise_like(seconds, seed)
    noise *= np.sqrt(np.sum(clean**2) / np.sum(noise**2) / 10 ** (snr_db / 10))
    return clean, clean + noise


def literal_frames(*signals):
    """The reference's loop over frames under its Hann window, in pairs."""
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, 481) / 481))
    starts = range(0, 120 * math.floor(len(signals[0]) / 120 - 480 / 120), 120)
    return [[x[at : at + 480] * window for x in signals] for at in starts]


def literal_trimmed_mean(values):
    kept = sorted(values)[: math.floor(0.95 * len(values) + 0.5)]
    return sum(kept) / len(kept)


def literal_seg_snr(clean, estimate, low=-10.0, high=35.0):
    """Frame by frame."""
    eps, values = 2.0**-52, []
    for x, y in literal_frames(clean, estimate):
        snr = 10 * math.log10(x @ x / ((x - y) @ (x - y) + eps) + eps)
        values.append(min(max(snr, low), high))
    return sum(values) / len(values)


def literal_llr(clean, estimate):
    """Frame by frame, the predictors from the normal equations."""
    values = []
    for pair in literal_frames(clean, estimate):
        matrices, filters = [], []
        for frame in pair:
            lags = [frame[: 480 - k] @ frame[k:] for k in range(17)]
            matrices.append(toeplitz(lags))
            taps = np.linalg.solve(toeplitz(lags[:16]), -np.array(lags[1:]))
            filters.append(np.concatenate([[1.0], taps]))
        energies = [a @ matrices[0] @ a for a in filters]
        values.append(math.log(energies[1] / energies[0]))
    return literal_trimmed_mean(values)


def literal_levels(frame, floor=1e-10):
    """Critical band levels in dB of one frame, band by band."""
    power, bins = np.abs(np.fft.fft(frame, 1024)[:512]) ** 2, np.arange(512)
    bands = measures.CRITICAL_CENTRES, measures.CRITICAL_WIDTHS
    levels = []
    for centre, width in zip(*bands, strict=True):
        place = math.floor(centre / 8000 * 512)
        offset = (bins - place) / (width / 8000 * 512)
        gain = np.exp(-11 * offset**2 + math.log(70.0 / width))
        gain[gain <= math.exp(-30 / (2 * 2.303))] = 0
        levels.append(10 * math.log10(max(power @ gain, floor)))
    return levels


def literal_weights(levels, slopes, rising_offset=-1):
    """Klatt's weights by the search loops of the reference."""
    weights = []
    for band in range(24):
        n = band
        if slopes[band] > 0:
            while n < 24 and slopes[n] > 0:
                n += 1
            peak = levels[n + rising_offset]
        else:
            while n >= 0 and slopes[n] <= 0:
                n -= 1
            peak = levels[n + 1]
        below_max = max(levels) - levels[band]
        below_peak = peak - levels[band]
        weights.append(20 / (20 + below_max) * 1 / (1 + below_peak))
    return weights


def literal_wss(clean, estimate, scale=32768.0, rising_offset=-1):
    """Klatt's distance, frame by frame."""
    values = []
    for pair in literal_frames(scale * clean, scale * estimate):
        levels = [literal_levels(frame) for frame in pair]
        slopes = [np.diff(level) for level in levels]
        weights = [
            literal_weights(level, slope, rising_offset)
            for level, slope in zip(levels, slopes, strict=True)
        ]
        weight = (np.array(weights[0]) + np.array(weights[1])) / 2
        difference = (slopes[0] - slopes[1]) ** 2
        values.append(np.sum(weight * difference) / np.sum(weight))
    return literal_trimmed_mean(values)


def test_si_sdr_equals_its_literal_twin():
    clean, noisy = noisy_pair()
    clean, noisy = clean + 0.1, 0.3 * noisy + 0.02
    scaled = (clean @ noisy) / (clean @ clean) * clean
    target, error = np.sum(scaled**2), np.sum((scaled - noisy) ** 2)
    value = si_sdr(clean, noisy)
    assert abs(value - 10 * math.log10(target / error)) < 1e-10
    # the input tells the plain SNR and the zero-mean form apart
    snr = 10 * np.log10(np.sum(clean**2) / np.sum((clean - noisy) ** 2))
    zero_mean = si_sdr(clean - clean.mean(), noisy - noisy.mean())
    assert abs(value - snr) > 0.1 and abs(value - zero_mean) > 0.1
    # It ignores the level and stays finite.
    assert abs(value - si_sdr(clean, -7 * noisy)) < 1e-9
    assert 150 < si_sdr(clean, clean) < 157
    orthogonal = si_sdr(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert -157 < orthogonal < -150


def test_segmental_snr_equals_its_literal_twin():
    clean, noisy = noisy_pair(snr_db=15.0)
    value = measures._segmental_snr(clean, noisy)
    assert abs(value - literal_seg_snr(clean, noisy)) < 1e-10
    # the input reaches both limits
    assert abs(value - literal_seg_snr(clean, noisy, low=-99)) > 0.01
    assert abs(value - literal_seg_snr(clean, noisy, high=15)) > 0.01


def test_llr_equals_its_literal_twin():
    clean, noisy = noisy_pair(seconds=0.555)  # 66.5 of 70 frames are kept
    # without silence, so that no frame needs the dither
    clean = clean + noise_like(0.555, 9) * 0.01
    value = measures._log_likelihood_ratio(clean, noisy)
    assert abs(value - literal_llr(clean, noisy)) < 1e-10
    # the measure is not symmetric and the input shows it
    assert abs(value - literal_llr(noisy, clean)) > 0.01


def test_llr_takes_digital_silence_as_white():
    silence, noise = np.zeros(RATE), noise_like(1.0, 0)
    quiet = 1e-5 * np.random.default_rng(0).standard_normal(RATE)
    value = measures._log_likelihood_ratio(silence, noise)
    assert abs(value - measures._log_likelihood_ratio(quiet, noise)) < 0.05
    assert measures._log_likelihood_ratio(noise, silence) > 0.5 < value
    assert measures._log_likelihood_ratio(silence, silence) == 0.0


def test_wss_equals_its_literal_twin():
    clean, noisy = noisy_pair(seconds=0.3)
    clean[2000:3500] = 0.0
    value = measures._weighted_spectral_slope(clean, noisy)
    assert abs(value - literal_wss(clean, noisy)) < 1e-10 * value
    # the input tells the true peak and the float scale apart
    clean[2000:3500] = 1e-9 * speech_like(0.3, 4)[2000:3500]
    value = measures._weighted_spectral_slope(clean, noisy)
    assert abs(value - literal_wss(clean, noisy)) < 1e-10 * value
    assert abs(value - literal_wss(clean, noisy, rising_offset=0)) > 0.01
    assert abs(value - literal_wss(clean, noisy, scale=1.0)) > 0.01


def test_composite_is_the_published_regression_on_its_scale():
    clean, noisy = noisy_pair(snr_db=20.0)
    result = measures.composite(clean, noisy, pesq=2.5)
    llr, wss, snr = result["llr"], result["wss"], result["seg_snr"]
    expected = {
        "csig": 3.093 - 1.029 * llr + 0.603 * 2.5 - 0.009 * wss,
        "cbak": 1.634 + 0.478 * 2.5 - 0.007 * wss + 0.063 * snr,
        "covl": 1.594 + 0.805 * 2.5 - 0.512 * llr - 0.007 * wss,
    }
    worst = measures.composite(clean, noisy_pair(-20.0)[1], pesq=-9.0)
    best = measures.composite(clean, clean, pesq=4.64)
    for name, value in expected.items():
        assert 1 < value < 5 and abs(result[name] - value) < 1e-10
        assert worst[name] == 1.0 and 4.5 < best[name] <= 5.0
    assert min(llr, wss) > 0.01 and abs(snr) > 0.01


INDEX = np.arange(8000)


@pytest.mark.parametrize(
    "estimate",
    [0 * INDEX, np.sin(0.1 * INDEX), 0 * INDEX + 1.0, INDEX % 1000 == 0],
    ids=["zeros", "tone", "constant", "pulses"],
)
def test_measures_of_degenerate_signals_are_finite(estimate):
    clean, estimate = speech_like(0.5), estimate.astype(float)
    for pair in ((clean, estimate), (estimate, clean), (estimate, estimate)):
        result = measures.composite(*pair, pesq=2.0)
        assert all(math.isfinite(value) for value in result.values())
        assert result["llr"] >= 0 and result["wss"] >= 0


def test_every_metric_grows_with_the_snr_to_its_best():
    pairs = [noisy_pair(snr_db) for snr_db in (-5, 5, 15, 25)]
    rows = [score(*pair) for pair in [*pairs, 2 * [pairs[0][0]]]]
    for metric in METRICS:
        values = [row[metric] for row in rows]
        assert values == sorted(values) and values[-2] > values[0], metric
    assert all(isinstance(value, float) for value in rows[0].values())
    best = rows[-1]
    assert best["pesq"] > 4.6 and best["csig"] == 5.0
    assert best["stoi"] > 0.999 and best["estoi"] > 0.999


def test_score_takes_float32_like_float64():
    single = [x.astype(np.float32) for x in noisy_pair()]
    double = score(*[x.astype(np.float64) for x in single])
    assert score(*single) == pytest.approx(double, abs=1e-9)


@pytest.mark.parametrize("estimate", ["noise", "click"])
@pytest.mark.parametrize("clean", ["silent", "no utterance"])
def test_clean_without_speech_has_its_own_error(clean, estimate):
    signal = noise_like(1.0, 1) if estimate == "noise" else click(RATE)
    with pytest.raises(SilentFileError, match=clean):
        score(np.zeros(RATE) if clean == "silent" else click(RATE), signal)
    assert issubclass(SilentFileError, ValueError)


def test_an_estimate_without_the_speech_is_not_left_out():
    clean = speech_like(1.5)
    assert score(clean, click(len(clean)))["pesq"] < 1.5
    # a loud click of clean, moved to the start, misleads PESQ's alignment
    noise = np.random.default_rng(0).standard_normal(7500)
    clean, estimate = np.zeros(2 * RATE), np.zeros(2 * RATE)
    clean[1000:7000] = 0.1 * noise[:6000]
    clean[26500:28000] = noise[6000:]
    estimate[1000:2500] = noise[6000:]
    with pytest.raises(ValueError, match="could not align") as caught:
        score(clean, estimate)
    assert not isinstance(caught.value, SilentFileError)


def click(length):
    """Silence with a noise too short for speech at its end."""
    signal = np.zeros(length)
    signal[-600:] = noise_like(1.0, 0)[:600]
    return signal


CLEAN, NOISY = noisy_pair()
WITH_NAN = np.where(np.arange(len(NOISY)) == 7, np.nan, NOISY)


@pytest.mark.parametrize(
    ("message", "clean", "noisy", "rate"),
    [
        ("expected 16000 Hz", CLEAN, NOISY, 8000),
        ("expected equal lengths", CLEAN, NOISY[:-1], RATE),
        ("estimate reaches nan", CLEAN, WITH_NAN, RATE),
        ("expected .samples,.", CLEAN, np.stack([NOISY, NOISY]), RATE),
        ("divide 16-bit", CLEAN, (NOISY * 9999).astype(np.int16), RATE),
        ("estimate is silent", CLEAN, 1e-20 * NOISY, RATE),
        ("PESQ failed", CLEAN[:3000], NOISY[:3000], RATE),
        ("at most 30 s", np.tile(CLEAN, 21), np.tile(NOISY, 21), RATE),
        ("estimate reaches", CLEAN, NOISY * 32768, RATE),
        ("0.4 s of speech", CLEAN[:5000], NOISY[:5000], RATE),
    ],
)
def test_impossible_pairs_are_refused(message, clean, noisy, rate):
    with pytest.raises(ValueError, match=message) as caught:
        score(clean, noisy, rate)
    assert not isinstance(caught.value, SilentFileError)


def test_too_short_signals_are_refused():
    with pytest.raises(ValueError, match="at least 600 samples"):
        measures._frame_signal(np.ones(599))
    assert measures._frame_signal(np.ones(600)).shape == (1, 480)


def write(path, signal):
    """Write a signal, quieter, in the container of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, 0.3 * signal, RATE)


@pytest.fixture
def folders(tmp_path):
    """Three good pairs, one estimate as FLAC."""
    for seed, suffix in enumerate(["wav", "flac", "wav"]):
        clean, noisy = noisy_pair(5.0 * seed, seed=seed)
        write(tmp_path / f"clean/file_{seed}.wav", clean)
        write(tmp_path / f"noisy/file_{seed}.{suffix}", noisy)
    return tmp_path / "clean", tmp_path / "noisy"


def evaluate(clean, noisy, **options):
    """The report of one system."""
    return compare_systems(clean, {"noisy": noisy}, **options)


def test_command_writes_and_prints_the_scores_of_files(folders, tmp_path, run):
    """Of names of any bytes."""
    for folder in folders:
        (folder / "file_0.wav").rename(folder / os.fsdecode(b"caf\xe9.wav"))
    output = tmp_path / "new" / "scores"
    out = run("evaluate", *folders, "--output", output, "--jobs", 2).out
    written = json.loads((output / "scores.json").read_text())
    assert written["num_compared"] == written["num_files"] == 3
    assert written["configuration"]["clean"] == str(folders[0])
    assert set(written["versions"]) >= {"pesq", "pystoi", "dbtransform_lobes"}
    assert len(list(output.iterdir())) == 3  # no temporary file is left
    pairs = zip(*(sorted(folder.iterdir()) for folder in folders), strict=True)
    scores = [
        score(*(sf.read(for_soundfile(path))[0] for path in pair))
        for pair in pairs
    ]
    rows = rows_of(output / "scores.csv")
    names = [row["file"] for row in rows]
    assert names == [r"caf\udce9", "file_1", "file_2"]
    assert tuple(rows[0]) == ("system", "file", "status", *METRICS, "reason")
    assert out == (output / "scores.md").read_text()
    printed = out.splitlines()[-1].split("|")[3:-1]
    assert out.startswith("3 of 3 files were scored")
    for metric, text in zip(METRICS, printed, strict=True):
        for row, expected in zip(rows, scores, strict=True):
            assert abs(float(row[metric]) - expected[metric]) < 1e-6
        mean = written["means"]["noisy"][metric]["mean"]
        assert abs(mean - sum(each[metric] for each in scores) / 3) < 1e-10
        assert abs(float(text) - mean) <= 0.0005 + 1e-9


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_files_are_named_and_the_rest_goes_on(folders, tmp_path, run, jobs):
    """A silent clean file, a short estimate, a broken one and one in stereo."""
    good = evaluate(*folders)
    clean, noisy = noisy_pair()
    write(folders[0] / "mute.wav", 0 * clean)
    write(folders[1] / "mute.wav", noisy)
    command = "evaluate", *folders, "--output", tmp_path, "--jobs", jobs
    assert "silent, not scored (1): mute" in run(*command).out
    for name, *pair in (
        ("short", clean, noisy[:-5]),
        ("broken", clean, noisy),
        ("stereo", clean, np.stack([noisy, noisy], axis=1)),
    ):
        for folder, signal in zip(folders, pair, strict=True):
            write(folder / f"{name}.wav", signal)
    (folders[1] / "broken.wav").write_bytes(b"no audio")
    told = run(*command, code=1).err
    assert f"left out: short: noisy: clean has {len(clean)}" in told
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["silent"] == ["mute"]
    why = {name: each["noisy"] for name, each in report["left_out"].items()}
    assert sorted(why) == ["broken", "short", "stereo"]
    assert "equal lengths" in why["short"] and "broken" in why["broken"]
    assert "2 channels" in why["stereo"]
    for name, mean in good["means"]["noisy"].items():
        assert report["means"]["noisy"][name] == pytest.approx(mean, abs=1e-9)
    assert report["num_files"] == 7
    rows = rows_of(tmp_path / "scores.csv")
    status = {row["file"]: row["status"] for row in rows}
    assert list(status) == sorted(status)
    assert status["mute"] == "silent" and status["short"] == "failed"


def test_files_of_other_rates_are_scored_at_16_khz(tmp_path):
    """As of VoiceBank-DEMAND, which ``enhance`` leaves at its 48 kHz."""
    pair = dict(zip(("clean", "noisy"), noisy_pair(), strict=True))
    rates = {"same": (RATE, RATE), "both": (48000, 48000), "one": (RATE, 44100)}
    rates["low"] = 48000, 8000
    for name, chosen in rates.items():
        for (kind, signal), rate in zip(pair.items(), chosen, strict=True):
            path = tmp_path / kind / f"{name}.flac"
            path.parent.mkdir(exist_ok=True)
            sf.write(path, soxr.resample(0.3 * signal, RATE, rate), rate)
    report = evaluate(tmp_path / "clean", tmp_path / "noisy")
    rows = {row.pop("file"): row for row in report["rows"]}
    for name in ("both", "one"):
        given = [rows[name][metric] for metric in METRICS]
        expected = [rows["same"][metric] for metric in METRICS]
        assert given == pytest.approx(expected, rel=0.02)
    (reasons,) = report["left_out"].items()
    assert reasons[0] == "low"
    assert "at 8000 Hz, expected 1 at 16000" in reasons[1]["noisy"]
    square = np.sign(np.sin(np.arange(48000) / 20))
    sf.write(tmp_path / "loud.wav", square, 48000, subtype="FLOAT")
    assert np.abs(soxr.resample(square, 48000, RATE)).max() > 1.05
    assert np.abs(_read_mono(tmp_path / "loud.wav")).max() == 1  # for DNSMOS


def test_without_an_output_folder_nothing_is_written(folders, tmp_path):
    """And without a scored file there are no means."""
    for path in folders[1].iterdir():
        path.write_bytes(b"no audio")
    before = sorted(tmp_path.rglob("*"))
    report = evaluate(*folders)
    assert sorted(tmp_path.rglob("*")) == before
    assert set(report["left_out"]) == {"file_0", "file_1", "file_2"}
    assert {x["mean"] for x in report["means"]["noisy"].values()} == {None}


def test_impossible_folders_are_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no .wav or .flac"):
        evaluate(tmp_path / "empty", folders[1])
    with pytest.raises(ValueError, match="is no folder"):
        evaluate(folders[0], tmp_path / "missing")
    with pytest.raises(ValueError, match="jobs is 0"):
        evaluate(*folders, jobs=0)
    (folders[1] / "file_0.flac").touch()
    with pytest.raises(ValueError, match="file_0.flac and file_0.wav"):
        evaluate(*folders)


FOLDER = os.environ.get("DBTRANSFORM_TEST_DATA")  # real_speech_16k
COLUMNS = {"pesq": "pesq_wb", "si_sdr": "si_sdr_db", "seg_snr": "segsnr_db"}
TOLERANCES = {"stoi": 0.002, "estoi": 0.002, "si_sdr": 0.02}  # others: 0.01


@pytest.mark.skipif(
    not FOLDER, reason="DBTRANSFORM_TEST_DATA does not name real_speech_16k"
)
def test_metrics_of_60_noisy_recordings_equal_the_reference(tmp_path):
    mix_testset(f"{FOLDER}/test_mixtures.csv", FOLDER, tmp_path)
    names = ("clean_testset_wav", "noisy_testset_wav")
    report = evaluate(*(tmp_path / name for name in names))
    rows = {row["file"]: row for row in report["rows"]}
    reference = rows_of(f"{FOLDER}/test_mixtures_noisy_metrics.csv")
    assert len(reference) == report["num_compared"] == 60
    for expected, metric in product(reference, METRICS):
        given = float(expected[COLUMNS.get(metric, metric)])
        error = rows[expected["id"]][metric] - given
        limit = TOLERANCES.get(metric, 0.01)
        assert abs(error) <= limit, (expected["id"], metric)
