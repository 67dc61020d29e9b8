"""The mixing recipe and the data sets made with it."""

import io
import json
from functools import partial

import numpy as np
import pytest
import soundfile as sf

from dbtransform_lobes.data import levels
from dbtransform_lobes.data.dataset import SET_NAMES, mix_dataset, mix_testset
from dbtransform_lobes.evaluation.conditions import read_conditions
from tests.signals import (
    contents,
    noise_like,
    rows_of,
    speech_like,
    times,
    write_wav,
)

KINDS = ("clean", "noisy")
TINY = {"hours": 3 / 3600, "valid_hours": 1 / 3600, "test_hours": 1 / 3600}
TRAIN_ONLY = {"hours": 1 / 3600, "valid_hours": 0, "test_hours": 0, "babble": 0}
MIXED = {**TINY, "hours": 4 / 3600, "test_hours": 2 / 3600, "babble": 0.5}


def assert_mixed(paths, *recipe):
    """Clean and noisy file are those of a recipe, written with 16 bits."""
    for path, expected in zip(paths, literal_mix(*recipe), strict=True):
        file = io.BytesIO()
        sf.write(file, expected, 16000, "PCM_16", format="WAV")
        file.seek(0)
        twin, made = (sf.read(each, dtype="int16") for each in (file, path))
        assert made[1] == 16000
        assert np.max(np.abs(made[0].astype(int) - twin[0])) <= 1
        assert np.mean(made[0] == twin[0]) > 0.999


def literal_mix(speech, noise, offset, snr_db):
    """The recipe of the fixed test: -26 dBFS, the SNR, a peak of 0.99."""
    clean = 10 ** (-26 / 20) / (speech @ speech / len(speech)) ** 0.5 * speech
    excerpt = noise[(offset + np.arange(len(clean))) % len(noise)]
    ratio = (clean @ clean) / (excerpt @ excerpt)
    noisy = clean + (ratio / 10 ** (snr_db / 10)) ** 0.5 * excerpt
    highest = max(abs(noisy))
    scale = 0.99 / highest if highest > 0.99 else 1
    return scale * clean, scale * noisy


@pytest.mark.parametrize("snr_db, clipped", [(5.0, False), (-30.0, True)])
def test_mix_equals_its_literal_twin(snr_db, clipped):
    speech, noise = 1e-3 * speech_like(0.5), noise_like(0.3)
    excerpt = levels.wrap_noise(noise, 4000, len(speech))
    clean, noisy = levels.mix(speech, excerpt, snr_db)
    expected = literal_mix(speech, noise, 4000, snr_db)
    np.testing.assert_allclose(clean, expected[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(noisy, expected[1], rtol=0, atol=1e-10)
    # The inputs reach both branches of the recipe, and the wrap matters.
    level = 20 * np.log10(levels.rms(clean))
    assert (level < -26.1) == clipped
    other = literal_mix(speech, noise, 4001, snr_db)
    assert np.max(np.abs(other[1] - noisy)) > 1e-3


def test_mixing_refuses_silence():
    ones, zeros = np.ones(8), np.zeros(8)
    for function, arguments, message in (
        (levels.scale_to_dbfs, (zeros, -26.0), "silent"),
        (levels.mix, (ones, zeros, 0.0), "silent"),
        (levels.scale_noise_to_snr, (zeros, ones, 0.0), "silent"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of 4 speakers and 2 noises in each split."""
    folder = tmp_path_factory.mktemp("recordings")
    for index, split in enumerate(("train", "valid", "test")):
        for speaker in range(4):
            seed = 10 * index + speaker
            path = f"speech/{split}/s p{seed}/utterance.wav"
            write_wav(folder / path, 0.01 * speech_like(0.5, seed))
        for noise in range(2):
            seed = 10 * index + noise
            path = f"noise/{split}/n{seed}/noise.wav"
            write_wav(folder / path, noise_like(0.4, seed))
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, recordings):
    """A data set and the rows of its plan; not to be changed."""
    folder = tmp_path_factory.mktemp("mixed") / "out"
    record = mix_dataset(recordings, folder, **MIXED)
    assert json.loads((folder / "dataset.json").read_text()) == record
    return folder, rows_of(folder / "mixtures.csv"), record


def test_plan_rebuilds_the_audio(mixed, recordings):
    """Babble is the sum of its talkers, each levelled."""
    folder, rows, _ = mixed
    babble = [row for row in rows if "|" in row["noise"]]
    assert 0 < len(babble) < len(rows)
    for row in rows:
        speech, _ = sf.read(recordings / row["speech"])
        noise, places = 0, np.arange(len(speech))
        parts = row["noise"].split("|"), row["offset"].split("|")
        for path, offset in zip(*parts, strict=True):
            part = sf.read(recordings / path)[0]
            part = part[(int(offset) + places) % len(part)]
            noise = noise + part / np.sqrt(np.mean(part**2))
        kinds = (f"{kind}_{SET_NAMES[row['split']]}" for kind in KINDS)
        paths = (folder / kind / row["file"] for kind in kinds)
        assert_mixed(paths, speech, noise, 0, float(row["snr_db"]))


@pytest.mark.parametrize("split", SET_NAMES)
def test_plan_keeps_splits_snrs_and_passes_apart(mixed, split):
    folder, rows, record = mixed
    conditions = read_conditions(folder / "mixtures.csv")
    rows = [row for row in rows if row["split"] == split]
    assert record["splits"][split]["files"] == len(rows) > 0
    snrs = {2.5, 7.5, 12.5, 17.5} if split == "test" else {0, 5, 10, 15}
    assert {float(row["snr_db"]) for row in rows} <= snrs
    for turn in range(0, len(rows), 4):  # all speech, then again
        speech = [row["speech"] for row in rows[turn : turn + 4]]
        assert len(set(speech)) == len(speech)
    for row in rows:
        noises = row["noise"].split("|")
        assert row["file"].startswith("s-p")
        known = conditions[row["file"].removesuffix(".wav")]
        assert known["noise"] and known["snr_db"] == float(row["snr_db"])
        assert all(f"/{split}/" in path for path in [row["speech"], *noises])
        if len(noises) > 1:  # babble
            assert 4 <= len(noises) <= 10 and row["speech"] not in noises
            assert all(path.startswith("speech/") for path in noises)
    assert record["arguments"]["babble"] == 0.5
    assert record["licences"] == ["unknown"]


def test_same_arguments_make_the_same_files_more_hours_add_some(
    tmp_path, mixed, recordings
):
    def made(name, **arguments):
        mix_dataset(recordings, tmp_path / name, **{**MIXED, **arguments})
        return contents(tmp_path / name)

    whole, fewer = contents(mixed[0]), made("fewer", **TINY)
    assert made("same") == whole != made("other", seed=1)
    audio = [name for name in fewer if name.endswith(".wav")]
    assert all(fewer[name] == whole[name] for name in audio)
    assert len(whole) > len(fewer)


def test_interrupted_run_goes_on(tmp_path, recordings):
    mix_dataset(recordings, tmp_path, **TINY)
    before, whole = times(tmp_path, "*.wav"), contents(tmp_path)
    lost = sorted(before)[0]
    lost.unlink()
    mix_dataset(recordings, tmp_path, **TINY)
    assert contents(tmp_path) == whole
    after = times(tmp_path, "*.wav")
    other = tmp_path / lost.parent.name.replace("clean", "noisy") / lost.name
    changed = {path for path in before if before[path] != after[path]}
    assert changed <= {lost, other} and lost in changed


def test_other_configuration_needs_force(tmp_path, recordings):
    mix_dataset(recordings, tmp_path, **TINY)
    whole = contents(tmp_path)
    with pytest.raises(ValueError, match="--force"):
        mix_dataset(recordings, tmp_path, seed=1, **TINY)
    assert contents(tmp_path) == whole
    tiny = {**TINY, "test_hours": 0.0}
    mix_dataset(recordings, tmp_path, seed=1, force=True, **tiny)
    assert not (tmp_path / "clean_testset_wav").exists()
    fresh = tmp_path / "fresh"
    mix_dataset(recordings, fresh, seed=1, **tiny)
    forced = contents(tmp_path)
    for name, data in contents(fresh).items():
        assert forced[name] == data


def test_foreign_files_are_never_replaced(tmp_path, recordings):
    """Nor is the csv that prescribes the mixtures."""
    given = fixed_test(tmp_path, recordings, [("mix_000", 0.0, 5.0)])
    given = given.rename(tmp_path / "test_mixtures.csv")
    for force in (False, True):
        with pytest.raises(ValueError, match="has test_mixtures.csv, which"):
            mix_testset(given, recordings, tmp_path, force)
    assert list(contents(tmp_path)) == ["test_mixtures.csv"]
    given.unlink()
    path = write_wav(tmp_path / "clean_testset_wav/p232_001.wav", np.ones(9))
    for force in (False, True):
        with pytest.raises(ValueError, match="did not write"):
            mix_dataset(recordings, tmp_path, force=force, **TINY)
    assert list(contents(tmp_path)) == ["clean_testset_wav/p232_001.wav"]
    assert path.is_file()


def small_collection(folder, speakers=1, bad=None):
    """A training split; ``bad`` replaces the noise."""
    for n in range(speakers):
        path = folder / f"speech/train/s{n}/1.wav"
        write_wav(path, speech_like(0.5, n))
    path = write_wav(folder / "noise/train/n/1.wav", noise_like(0.5))
    if bad is not None:
        sf.write(path, bad, 16000, subtype="FLOAT")
    return folder


@pytest.mark.parametrize(
    "speakers, bad, arguments, message",
    [
        (3, None, {"babble": 0.1}, "--babble 0"),
        (1, None, {"valid_hours": 0.1}, "folders valid/ .*--valid_hours 0"),
        (1, np.zeros(800), {}, "silent"),
        (1, np.full(800, np.nan), {}, "not finite"),
        (1, None, {"hours": -1.0}, "hours is -1.0"),
        (1, None, {"valid_hours": float("nan")}, "valid_hours is nan"),
        (1, None, {"hours": 0}, "all hours are 0"),
        (1, None, {"snrs": []}, "snrs is"),
        (1, None, {"test_snrs": [float("inf")]}, "test_snrs is"),
        (1, None, {"seed": -1}, "seed is -1"),
        (1, None, {"babble": 1.5}, "babble is 1.5"),
    ],
)
def test_unfit_files_and_arguments_are_refused(
    tmp_path, speakers, bad, arguments, message
):
    source = small_collection(tmp_path / "in", speakers, bad)
    output = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        mix_dataset(source, output, **{**TRAIN_ONLY, **arguments})
    assert not output.exists()


def test_gaps_of_a_noise_are_not_blown_up(tmp_path):
    noise = np.concatenate([noise_like(0.5), 1e-7 * noise_like(4.5)])
    source = small_collection(tmp_path / "in", bad=noise)
    output = tmp_path / "out"
    mix_dataset(source, output, **{**TRAIN_ONLY, "hours": 5 / 3600})
    offsets = [int(row["offset"]) for row in rows_of(output / "mixtures.csv")]
    assert len(offsets) == 10
    assert all(o < 8000 or o + 8000 > len(noise) for o in offsets)


def fixed_test(folder, recordings, rows):
    """Write a csv of fixed mixtures."""
    path = folder / "test.csv"
    lines = ["id,speech,noise,noise_offset_s,snr_db"]
    files = "speech/test/s p20/utterance.wav,noise/test/n21/noise.wav"
    lines += [f"{name},{files},{offset},{snr}" for name, offset, snr in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fixed_test_equals_its_literal_twin(tmp_path, recordings):
    rows = [("mix_000", 0.123, 2.5), ("mix_001", 0.35, -30.0)]
    mixtures = fixed_test(tmp_path, recordings, rows)
    output = tmp_path / "out"
    mix_testset(mixtures, recordings, output)
    speech, _ = sf.read(recordings / "speech/test/s p20/utterance.wav")
    noise, _ = sf.read(recordings / "noise/test/n21/noise.wav")
    for name, offset, snr in rows:
        folders = (output / f"{kind}_testset_wav" for kind in KINDS)
        paths = (folder / f"{name}.wav" for folder in folders)
        assert_mixed(paths, speech, noise, round(offset * 16000), snr)
    before = times(output, "*.wav")
    mix_testset(mixtures, recordings, output)
    assert times(output, "*.wav") == before


def test_fixed_test_completes_a_data_set(tmp_path, recordings):
    output = tmp_path / "out"
    mix_dataset(recordings, output, **{**TINY, "test_hours": 0})
    mixtures = fixed_test(tmp_path, recordings, [("mix_000", 0.0, 5.0)])
    mix_testset(mixtures, recordings, output)
    assert (output / "noisy_testset_wav/mix_000.wav").is_file()
    other = fixed_test(tmp_path, recordings, [("mix_000", 0.1, 5.0)])
    with pytest.raises(ValueError, match="--force"):
        mix_testset(other, recordings, output)
    mix_testset(other, recordings, output, force=True)
    # Even with force all is kept that the whole command could not replace.
    before = contents(output)
    with pytest.raises(ValueError, match="already has clean_testset_wav"):
        mix_dataset(recordings, output, **{**TINY, "seed": 7}, force=True)
    assert contents(output) == before


def test_bad_fixed_test_is_refused(tmp_path, recordings):
    rows = [("mix_000", 0.1, 2.5), ("mix_001", 0.2, 2.5)]
    mixtures = fixed_test(tmp_path, recordings, rows)
    text, output = mixtures.read_text(), tmp_path / "out"
    for old, new, message in (
        ("snr_db\n", "snr\n", "expected the columns"),
        ("mix_000", "../mix", "id is '../mix'"),
        ("mix_001", "mix_000", "mix_000.wav: twice"),
        ("0.1,2.5", "x,2.5", "line 2"),
        ("0.1,2.5", "-0.1,2.5", "offset of 0 or more"),
        ("0.1,2.5", "0.1,nan", "finite"),
        ("s p20", "nobody", "there is no such file"),
    ):
        mixtures.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            mix_testset(mixtures, recordings, output)
        assert not output.exists()


def test_command_mixes_and_reports(tmp_path, recordings, run):
    output = tmp_path / "out"
    mix = partial(run, "mix", "--recordings", recordings, "--output", output)
    hours = "--hours", 2 / 3600, "--valid_hours", 0, "--test_hours", 0
    assert "train: 4 files" in mix(*hours, "--snrs", 3, "--seed", 2).out
    snrs = {row["snr_db"] for row in rows_of(output / "mixtures.csv")}
    assert snrs == {"3.0"}
    mixtures = fixed_test(tmp_path, recordings, [("mix_000", 0.0, 5.0)])
    assert "test: 1 files" in mix("--mixtures", mixtures).out
    told = mix("--mixtures", mixtures, "--seed", 1, code=1).err
    assert "--seed given with --mixtures" in told
    told = mix("--mixtures", tmp_path / "none.csv", code=1).err
    assert "none.csv: there is no such file" in told
