"""What the preparations of mixed corpora share: validation sets, pairs."""

from pathlib import Path

from dbtransform_lobes.data.audio import audio_info, find_audio
from dbtransform_lobes.data.files import write_json
from dbtransform_lobes.data.mix import mix_dataset


def entry(noisy, clean):
    """A pair of files as ``whole_files`` wants it."""
    info = audio_info(clean)
    return {
        "noisy_wav": str(noisy),
        "clean_wav": str(clean),
        "length": info.frames / info.samplerate,
    }


def write_pairs(path, folder, name):
    """Write the manifest of a set that ``dbtransform mix`` made.

    Arguments
    ---------
    path : pathlib.Path
        JSON to write.
    folder : pathlib.Path
        Holds ``clean_NAME`` and ``noisy_NAME``.
    name : str
        "validset_wav" or "testset_wav".
    """
    entries = {
        clean.stem: entry(folder / f"noisy_{name}" / clean.name, clean)
        for clean in find_audio((folder / f"clean_{name}").resolve())
    }
    write_json(path, entries)


def mix_validation(save_folder, hours, snrs, seed):
    """Mix the split valid of ``manifest.csv`` once, into ``valid.json``."""
    folder = Path(save_folder, "valid").resolve()
    mix_dataset(
        Path(save_folder, "manifest.csv"),
        folder,
        hours=0.0,
        valid_hours=hours,
        test_hours=0.0,
        snrs=snrs,
        seed=seed,
        babble=0.0,
        force=True,
    )
    write_pairs(Path(save_folder, "valid.json"), folder, "validset_wav")
