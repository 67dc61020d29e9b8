"""Eight hundred odd files: enhanced whole, refused, or cut with a warning."""

import numpy as np
import pytest
import soundfile as sf

from tests.inference.test_untrusted import mutations

COUNT, BATCH = 800, 200
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
EXACT = ("PCM", "FLOAT", "DOUBLE")
WARNINGS = "ends after", "its length is not", "its samples are not those"
DAMAGES = "none none none cut turned left_out empty text mutated mutated"


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
    damage, middle = rng.choice(DAMAGES.split()), len(content) // 2
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
            assert expected != "whole", name
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
        warned = any(f"warning: {given}: {why}" in errors for why in WARNINGS)
        assert after.frames == frames or warned, name
        if expected == "whole":
            assert after.frames == frames, name
            if strength == 0 and before.subtype.startswith(EXACT):
                signals = sf.read(given)[0], sf.read(made)[0]
                assert np.allclose(*signals, atol=0.02), name
    assert not list((tmp_path / "out").glob(".*.tmp"))
