"""A thousand odd files: enhanced whole, refused, or cut with a warning."""

import struct

import numpy as np
import pytest
import soundfile as sf

from dbtransform_lobes.data.headers import UNKNOWN
from dbtransform_lobes.inference.mpeg import MARGIN, frames_of
from tests.inference.test_untrusted import mutations

COUNT, BATCH = 1000, 250
RATES = (8000, 11025, 16000, 22050, 44100, 48000)
LENGTHS = (1, 2, 63, 400, 1999, 6000)
# Rates and channels of the formats that do not take all.
LIMITED = {
    "OPUS": ((8000, 12000, 16000, 24000, 48000), (1, 2)),
    "MPEG_LAYER_III": (RATES, (1, 2)),
    "IMA_ADPCM": (RATES, (1, 2)),
    "GSM610": (RATES, (1,)),
}
FORMATS = [
    *(("wav", "WAV", name) for name in ("PCM_U8", "PCM_16", "PCM_24")),
    *(("wav", "WAV", name) for name in ("PCM_32", "FLOAT", "DOUBLE", "ULAW")),
    *(("wav", "WAV", name) for name in ("ALAW", "IMA_ADPCM", "GSM610")),
    *(("wav", name, "PCM_16") for name in ("WAVEX", "RF64", "W64", "AIFF")),
    *(("flac", "FLAC", name) for name in ("PCM_S8", "PCM_16", "PCM_24")),
    *2 * (("ogg", "OGG", "VORBIS"), ("ogg", "OGG", "OPUS")),
    *2 * (("mp3", "MP3", "MPEG_LAYER_III"),),
]
WARNINGS = ("ends after", "its samples are not those that were encoded")
DAMAGES = (
    "none none none cut turned left_out empty text header header mutated "
    "mutated"
).split()


def header_damage(path, container, frames, rng):
    """Change what a file says of its length; returns what is expected."""
    content = path.read_bytes()
    if container == "MP3":
        begin, size, _ = next(frames_of(content))
        path.write_bytes(content[begin + size :])
        return "more"  # nobody knows where the encoder's padding begins
    if container == "OGG":
        path.write_bytes(2 * content)
        return "refused"
    if container == "FLAC":
        half = (frames // 2).to_bytes(4, "big")
        path.write_bytes(content[:22] + half + content[26:])
        return "told" if frames > 1 else "refused"
    if container != "WAV":
        return "whole"
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
    return {"zero": "refused", "unknown": "whole", "more": "told"}[kind]


def odd_file(folder, number, rng):
    """Write a file; returns its name, frames and what shall come of it."""
    suffix, container, subtype = FORMATS[rng.integers(len(FORMATS))]
    rates, channels = LIMITED.get(subtype, (RATES, (1, 1, 2, 5)))
    rate, channels = int(rng.choice(rates)), int(rng.choice(channels))
    lengths = LENGTHS if container != "OGG" else (1, 20000, 20000)  # pages
    frames = int(rng.choice(lengths))
    path = folder / f"{number:04d}.{suffix}"
    noise = 0.1 * rng.standard_normal((frames, channels))
    sf.write(path, noise, rate, subtype, format=container)
    frames, content = sf.info(path).frames, path.read_bytes()
    damage, middle = rng.choice(DAMAGES), len(content) // 2
    if damage == "header":
        return path.name, frames, header_damage(path, container, frames, rng)
    if damage == "cut":
        path.write_bytes(content[: rng.integers(len(content))])
        return path.name, frames, "any"
    if damage == "mutated":  # most of all the header
        path.write_bytes(*mutations(content, 1, number, first=100))
        return path.name, frames, "odd"
    if damage in ("turned", "left_out") and middle > 300:  # no header
        place = middle + rng.integers(middle - 40)
        other = rng.bytes(40) if damage == "turned" else b""
        path.write_bytes(content[:place] + other + content[place + 40 :])
        return path.name, frames, "any"
    if damage in ("empty", "text"):
        path.write_bytes(b"" if damage == "empty" else b"no audio, a text\n")
        return path.name, frames, "refused"
    return path.name, frames, "whole"


def check_same(given, made):
    """Compare the samples of two files, but for formats that lose some."""
    if sf.info(given).subtype.startswith(("PCM", "FLOAT", "DOUBLE")):
        assert np.allclose(sf.read(given)[0], sf.read(made)[0], atol=0.02)


@pytest.mark.filterwarnings("ignore:.*ends after")
@pytest.mark.parametrize("seed", range(COUNT // BATCH))
def test_no_sample_is_lost_in_silence(model_folder, model, tmp_path, run, seed):
    rng, strength = np.random.default_rng(seed), seed % 2
    (tmp_path / "in").mkdir()
    files = [odd_file(tmp_path / "in", n, rng) for n in range(BATCH)]
    folders = tmp_path / "in", "--output", tmp_path / "out"
    options = "--model", model_folder, "--strength", strength
    errors = run("enhance", *folders, *options, code=1).err
    for name, frames, expected in files:
        given, made = tmp_path / "in" / name, tmp_path / "out" / name
        if not made.exists():
            assert f"failed: {given}: " in errors, name
            assert expected not in ("whole", "more"), name
            if expected == "odd":  # and that by an error of its own
                with pytest.raises((ValueError, FileNotFoundError)):
                    model.enhance_file(given)
            continue
        assert expected != "refused", name
        before, after = sf.info(given), sf.info(made)
        assert after.channels == before.channels
        assert after.samplerate == before.samplerate
        if expected == "odd":
            assert after.frames == len(model.enhance_file(given)), name
            continue
        if expected == "more":
            assert frames <= after.frames < frames + MARGIN, name
            continue
        warned = any(f"warning: {given}: {why}" in errors for why in WARNINGS)
        assert after.frames == frames or warned, name
        if expected == "whole":
            assert after.frames == frames, name
            if strength == 0:
                check_same(given, made)
        if expected == "told":
            assert warned, name
    assert not list((tmp_path / "out").glob(".*.tmp"))
