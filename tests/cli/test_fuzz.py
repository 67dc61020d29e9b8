"""A thousand odd files: enhanced whole, refused, or cut with a warning."""

import struct
import warnings

import numpy as np
import pytest
import soundfile as sf

from dbtransform_lobes.cli.main import main
from dbtransform_lobes.data.headers import UNKNOWN, promised_frames, wav_fault

COUNT, BATCH = 1000, 250
RATES = (8000, 11025, 16000, 22050, 44100, 48000)
FORMATS = [
    *(("wav", "WAV", name) for name in ("PCM_U8", "PCM_16", "PCM_24")),
    *(("wav", "WAV", name) for name in ("PCM_32", "FLOAT", "DOUBLE", "ULAW")),
    *(("wav", "WAVEX", "PCM_16"), ("wav", "RF64", "PCM_16")),
    *(("flac", "FLAC", name) for name in ("PCM_S8", "PCM_16", "PCM_24")),
    *(("ogg", "OGG", "VORBIS"), ("mp3", "MP3", "MPEG_LAYER_III")),
]
DAMAGES = ("none", "none", "none", "cut", "empty", "text", "header")


def header_damage(path, rng):
    """Change what a WAV file says of its length; returns what is expected."""
    content = path.read_bytes()
    place = content.find(b"data") + 4
    (size,) = struct.unpack_from("<I", content, place)
    kind = rng.choice(["zero", "unknown", "more", "twice"])
    if kind == "twice":
        chunk = content[place - 4 : place + 4 + size] + bytes(size % 2)
        path.write_bytes(content[: place - 4] + 2 * chunk)
        return "refused"
    if size % 2:  # the byte that pads the chunk would be a sample
        return "whole"
    value = {"zero": 0, "unknown": UNKNOWN, "more": size + 4000}[kind]
    changed = content[:place] + struct.pack("<I", value) + content[place + 4 :]
    path.write_bytes(changed)
    return {"zero": "refused", "unknown": "whole", "more": "warned"}[kind]


def odd_file(folder, number, rng):
    """Write a file; returns its name, frames and what shall come of it."""
    suffix, container, subtype = FORMATS[rng.integers(len(FORMATS))]
    rate = int(rng.choice(RATES))
    channels = int(rng.choice([1, 1, 2, 5])) if suffix != "mp3" else 1
    frames = int(rng.choice([1, 2, 63, 400, 1999, 6000]))
    path = folder / f"{number:04d}.{suffix}"
    noise = 0.1 * rng.standard_normal((frames, channels))
    sf.write(path, noise, rate, subtype, format=container)
    frames = sf.info(path).frames
    damage = rng.choice(DAMAGES)
    if damage == "cut":
        content = path.read_bytes()
        path.write_bytes(content[: rng.integers(len(content))])
        return path.name, frames, "cut"
    if damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"no audio, a text\n")
        return path.name, frames, "refused"
    if damage == "header" and container == "WAV":
        return path.name, frames, header_damage(path, rng)
    return path.name, frames, "whole"


@pytest.mark.parametrize("seed", range(COUNT // BATCH))
def test_no_sample_is_lost_in_silence(model_folder, tmp_path, capsys, seed):
    rng = np.random.default_rng(seed)
    (tmp_path / "in").mkdir()
    files = [odd_file(tmp_path / "in", n, rng) for n in range(BATCH)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code = main(
            ["enhance", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
            + ["--model", str(model_folder)]
        )
    assert code == 1
    errors = capsys.readouterr().err
    told = errors + "".join(str(each.message) for each in caught)
    for name, frames, expected in files:
        given, made = tmp_path / "in" / name, tmp_path / "out" / name
        if not made.exists():
            assert f"failed: {given}: " in errors, name
            assert expected != "whole", name
            continue
        assert expected != "refused", name
        before, after = sf.info(given), sf.info(made)
        assert after.channels == before.channels
        assert after.samplerate == before.samplerate
        assert after.frames == frames or f"{given}: ends after" in told, name
        if expected == "whole":
            assert after.frames == frames, name
        if expected == "warned":
            assert f"{given}: ends after" in told, name
    assert not list((tmp_path / "out").glob(".*.tmp"))


def test_what_a_wav_header_promises(tmp_path):
    path = tmp_path / "a.wav"
    sf.write(path, np.zeros(100), 8000)
    assert promised_frames(path, 100) == 100 and wav_fault(path) == ""
    content = path.read_bytes()
    path.write_bytes(content[:-80])
    assert promised_frames(path, 60) == 100
    for unknown in (UNKNOWN, 0x7FFFF000):
        header = content[:40] + struct.pack("<I", unknown)
        path.write_bytes(header + content[44:])
        assert promised_frames(path, 100) is None and wav_fault(path) == ""
    path.write_bytes(content[:40] + bytes(4) + content[44:])
    assert "was not finished; mend it: ffmpeg -i" in wav_fault(path)
    path.write_bytes(content + content[36:])
    assert "2 data chunks, expected one" in wav_fault(path)
    for after in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        path.write_bytes(content[:40] + bytes(4) + after)  # truly empty
        assert wav_fault(path) == ""
