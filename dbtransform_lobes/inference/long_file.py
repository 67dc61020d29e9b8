"""Files of any length: two passes in blocks, in memory that does not grow.

The first pass finds the length, the second one enhances and writes.
"""

from pathlib import Path

import torch
from tqdm import tqdm

from dbtransform_lobes.inference.any_rate import (
    check_sample_rate,
    enhance_signal,
    measure,
)
from dbtransform_lobes.inference.audio_file import (
    check_output,
    read_blocks,
    read_format,
    warn_if_cut_off,
    with_room,
    write_blocks,
)
from dbtransform_lobes.inference.high_band import check_high_band
from dbtransform_lobes.inference.strength import wet_share

LONG_SECONDS = 60  # what takes long enough for a progress bar


def enhance_long_file(
    model,
    path,
    output,
    progress=True,
    strength=1.0,
    attenuation_limit_db=None,
    high_band="keep",
):
    """Enhance a file into another one, in memory that does not grow.

    What is written is as of ``EnhanceModel.enhance_file``.

    Arguments
    ---------
    model : EnhanceModel
        The enhancer.
    path, output : str
        What is read and written.
    progress : bool
        Whether more than a minute shows a progress bar, on a terminal.
    strength, attenuation_limit_db, high_band
        As in ``EnhanceModel.enhance_array``.

    Raises
    ------
    FileNotFoundError, ValueError
        As ``EnhanceModel.enhance_file``; there is no partial output.

    Example
    -------
    >>> import tempfile
    >>> import soundfile as sf
    >>> from dbtransform_lobes.inference import EnhanceModel
    >>> model = EnhanceModel.from_hparams(run_opts={"device": "cpu"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path, output = f"{folder}/noisy.wav", f"{folder}/enhanced.wav"
    ...     sf.write(path, [0.1] * 8000, 16000)
    ...     enhance_long_file(model, path, output)
    ...     sf.info(output).frames
    8000
    """
    check_output(path, output)
    wet = wet_share(strength, attenuation_limit_db)
    check_high_band(high_band)
    audio, frames = read_format(path)
    rate = audio.sample_rate
    try:
        check_sample_rate(rate)
        measured = measure(
            _channels_first(path),
            audio.channels,
            rate,
            model.hparams.sample_rate,
        )
        warn_if_cut_off(path, measured.length, frames)
        blocks = enhance_signal(
            model, _channels_first(path), measured, rate, wet, high_band
        )
        seconds = measured.length // rate
        bar = tqdm(
            total=seconds,
            unit="s",
            desc=Path(path).name,
            leave=False,
            disable=None if progress and seconds > LONG_SECONDS else True,
        )
        audio = with_room(audio, measured.length)
        with bar, torch.inference_mode(), model.inference_ctx:
            write_blocks(output, _follow(blocks, rate, bar), audio)
    except ValueError as error:
        known = str(error).startswith((f"{path}:", f"{output}:"))
        raise error if known else ValueError(f"{path}: {error}") from error


def _channels_first(path):
    return (block.T for block in read_blocks(path))


def _follow(blocks, rate, bar):
    """Hand on blocks as soundfile takes them, and show how far they are."""
    done = 0
    for block in blocks:
        done += block.shape[-1]
        yield block.T
        bar.update(done // rate - bar.n)
