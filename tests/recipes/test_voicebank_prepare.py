"""The manifests of VoiceBank-DEMAND."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from voicebank_prepare import prepare_voicebank

from tests.signals import times, voicebank_tree, write_wav


def prepare(data, save, **arguments):
    """Prepare; returns where copies at 16 kHz would be."""
    prepare_voicebank(str(data), str(save), **arguments)
    return save / "voicebank_16000"


def manifests(save):
    """Read the three manifests."""
    names = "train.json", "valid.json", "test.json"
    return [json.loads((save / name).read_text()) for name in names]


@pytest.mark.parametrize("sample_rate", [16000, 48000])
@pytest.mark.parametrize("suffix", ["", "_16k"])
def test_manifests(tmp_path, monkeypatch, sample_rate, suffix):
    data = voicebank_tree(tmp_path / "vb", sample_rate, suffix=suffix)
    monkeypatch.chdir(tmp_path)
    save = Path("save")
    copies = prepare(data, save).absolute()
    train, valid, test = manifests(save)
    assert list(train) == ["p225_001", "p225_002"]
    assert list(valid) == ["p226_001", "p226_002", "p287_001", "p287_002"]
    assert list(test) == ["p232_001", "p232_002"]
    entry = train["p225_001"]
    folder = f"trainset_28spk_wav{suffix}"
    root = "{data_root}" if sample_rate == 16000 else copies
    assert entry == {
        "noisy_wav": f"{root}/noisy_{folder}/p225_001.wav",
        "clean_wav": f"{root}/clean_{folder}/p225_001.wav",
        "length": 0.55,
    }
    for entry in (*train.values(), *valid.values(), *test.values()):
        for key in ("noisy_wav", "clean_wav"):
            info = sf.info(entry[key].replace("{data_root}", str(data)))
            assert info.samplerate == 16000
            assert info.duration == entry["length"]
    assert copies.is_dir() == (sample_rate != 16000)


def test_later_runs_make_what_is_lost_or_changed_alone(tmp_path):
    data = voicebank_tree(tmp_path / "vb", utterances=1)
    save = tmp_path / "save"
    prepare(tmp_path / "nowhere", save, skip_prep=True)
    assert not save.exists()
    root = prepare(data, save)
    before = times(tmp_path)
    prepare(data, save)
    assert times(tmp_path) == before

    lost = root / "clean_testset_wav/p232_001.wav"
    lost.unlink()
    (save / "valid.json").unlink()
    prepare(data, save)
    assert lost.is_file() and (save / "valid.json").is_file()
    assert not list(save.rglob("*.tmp"))

    before = times(root)
    prepare(data, save, valid_speakers="p225")
    train, valid, _ = manifests(save)
    assert list(train) == ["p226_001", "p287_001"]
    assert list(valid) == ["p225_001"]
    assert times(root) == before

    for kind in ("clean", "noisy"):
        path = data / f"{kind}_testset_wav/p232_001.wav"
        write_wav(path, np.full(4800, 0.1), 48000)
    prepare(data, save)
    *_, test = manifests(save)
    assert test["p232_001"]["length"] == 0.1
    assert sf.info(str(lost)).frames == 1600


def test_validation_folders_replace_the_held_out_speakers(tmp_path):
    data = voicebank_tree(tmp_path / "vb", 16000, speakers=("a_b",))
    for kind in ("clean", "noisy"):
        write_wav(data / f"{kind}_validset_wav/v_000.wav", np.full(1600, 0.1))
    prepare(data, tmp_path / "save")
    train, valid, _ = manifests(tmp_path / "save")
    assert list(train) == ["a_b_001", "a_b_002"]
    assert list(valid) == ["v_000"]


KNOWN = ("p225", "p226", "p287")


@pytest.mark.parametrize("speakers", [("p226", "p999"), (), "p22", KNOWN])
def test_unknown_or_all_valid_speakers_list_the_known(tmp_path, speakers):
    data = voicebank_tree(tmp_path / "vb", 16000, utterances=1)
    told = "one or more, but not all, .*: p225, p226, p287"
    with pytest.raises(ValueError, match=told):
        prepare(data, tmp_path / "save", valid_speakers=speakers)
    assert not (tmp_path / "save").exists()


def test_one_error_names_missing_folders_and_unpaired_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="clean_trainset_28spk_wav"):
        prepare(tmp_path / "vb", tmp_path / "save")
    data = voicebank_tree(tmp_path / "vb", 16000, utterances=1)
    (data / "clean_trainset_28spk_wav/p225_001.wav").unlink()
    os.rename(data / "noisy_testset_wav", data / "elsewhere")
    with pytest.raises(ValueError, match=r"\(2\)") as error:
        prepare(data, tmp_path / "save")
    assert "noisy_testset_wav: missing folder" in str(error.value)
    assert "noisy_trainset_28spk_wav/p225_001.wav: not in" in str(error.value)


def test_one_error_names_all_unfit_files(tmp_path):
    data = voicebank_tree(tmp_path / "vb", 16000, utterances=1)
    train = data / "noisy_trainset_28spk_wav"
    write_wav(train / "p225_001.wav", np.zeros(100))
    write_wav(data / "clean_testset_wav/p232_001.wav", np.zeros((8800, 2)))
    (train / "p226_001.wav").write_text("no audio")
    (train / "p287_001.wav").write_bytes(b"")
    signal = np.zeros(8800)
    signal[5000] = np.nan
    sf.write(data / "clean_testset_wav/p257_001.wav", signal, 16000, "FLOAT")
    write_wav(data / "noisy_testset_wav/p257_001.wav", np.zeros(8800))
    with pytest.raises(ValueError, match=r"\(5\)") as error:
        prepare(data, tmp_path / "save")
    for told in (
        "p287_001.wav: expected audio",
        "p257_001.wav: samples are not finite",
        "p225_001.wav: 100 samples at 16000 Hz, expected 8800 samples",
        "p232_001.wav: 2 channels, expected 1",
        "p226_001.wav: expected audio",
    ):
        assert told in str(error.value)
    assert not (tmp_path / "save").exists()


def test_silent_and_clipped_files_are_kept_with_a_warning(tmp_path, caplog):
    data = voicebank_tree(tmp_path / "vb", 16000, utterances=1)
    loud = 3 * np.sin(np.arange(8800))
    for name, clean in (("p225_002", np.zeros(8800)), ("p225_003", loud)):
        for kind, signal in (("clean", clean), ("noisy", loud)):
            path = data / f"{kind}_trainset_28spk_wav/{name}.wav"
            write_wav(path, signal.clip(-1, 1))
    prepare(data, tmp_path / "save")
    train = manifests(tmp_path / "save")[0]
    assert list(train) == ["p225_001", "p225_002", "p225_003"]
    assert "2 odd clean files" in caplog.text
    assert "/p225_002.wav: silent" in caplog.text
    assert "/p225_003.wav: clipped: 78 %" in caplog.text
    assert "p225_001" not in caplog.text and "noisy" not in caplog.text
