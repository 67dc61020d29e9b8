"""Arrays, files and streams through any engine, in NumPy alone."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from dbtransform_lobes.inference.audio_file import (
    AudioInput,
    check_output,
    write_blocks,
)
from dbtransform_lobes.inference.high_band import HIGH_BANDS
from dbtransform_lobes.inference.segments import Segments
from dbtransform_lobes.inference.signal_path import (
    SignalPath,
    as_channels,
    check_sample_rate,
)
from dbtransform_lobes.inference.streaming import Frames, StreamingEnhancer
from dbtransform_lobes.inference.strength import wet_share

LONG_SECONDS = 60  # what takes long enough for a progress bar
SAMPLES_AT_ONCE = 2**20
FADED_SECONDS = 16  # of a segment where all frames depend on each other


class Enhancer:
    """An engine, which computes at its model's rate; subclasses give these.

    ``enhance_segment(noisy)`` maps samples (n,), float32, to as many.
    ``open_frames(channels)`` returns a function that enhances the next frames
    (channels, F, T) and keeps the state of these streams.

    Attributes
    ----------
    sample_rate : int
        Of the model, in Hz.
    hop_length : int
        Samples from frame to frame.
    window : numpy.ndarray
        Of the STFT, (n_fft,), float32.
    causal : bool
        Whether streams can be enhanced.
    reach : tuple of int | None
        Frames before and after a frame that it depends on; None: all.
    segment_seconds : int
        Length of the segments of a long signal.
    description : dict
        "class" and number of "parameters" of the network, if known.
    """

    segment_seconds = 16

    def open_stream(self, channels):
        """Return a stage for live streams; ValueError if it is not causal."""
        if not self.causal:
            raise ValueError(
                "this model sees the future, so it cannot enhance a stream: "
                "give one that was trained with causal: True, such as "
                "hparams/models/db_transform_streaming.yaml, or enhance whole "
                "files by enhance_file (dbtransform enhance)"
            )
        return Frames(self, channels)

    def open_signal(self, channels):
        """Return a stage for a whole signal."""
        start = self.enhance_segment, self.sample_rate
        if self.reach is None:
            return Segments(*start, FADED_SECONDS)
        hop, size = self.hop_length, len(self.window)
        reach = [frames * hop + size for frames in self.reach]
        return Segments(*start, self.segment_seconds, reach, hop)

    def stream(self, **options):
        """Begin a live stream; options as of ``StreamingEnhancer``."""
        return StreamingEnhancer(self, **options)

    def enhance_array(
        self,
        signal,
        sample_rate,
        strength=1.0,
        attenuation_limit_db=None,
        high_band="keep",
    ):
        """Enhance samples of any rate and number of channels.

        Other sample rates are resampled to the model's and back. Channels are
        enhanced each on its own. Long signals are enhanced in segments, with
        the same result as the whole at once; by models whose frames all
        depend on each other in segments of 16 to 20 s, with a linear
        cross-fade over 2 s. Memory grows with the samples alone. ValueError if
        the signal or an option is wrong.

        Arguments
        ---------
        signal : numpy.ndarray or torch.Tensor
            Floating point (L,) or (L, channels), as soundfile reads it.
        sample_rate : int
            In Hz, 2000 to 768000.
        strength : float
            0 returns the input, 1 the whole enhancement; see ``wet_share``.
        attenuation_limit_db : float, optional
            Reduce noise by at most this, in dB; speech keeps its level.
        high_band : str
            What lies above half the model's rate in the enhanced share of
            the signal: "keep" it, scaled by ``TopBandGain``, or "drop" it.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            Of the same kind and shape, float32; tensors are on the CPU.

        Example
        -------
        >>> from dbtransform_lobes.inference import OnnxEnhancer
        >>> model = OnnxEnhancer("db_transform_small")
        >>> model.enhance_array(np.zeros((4410, 2)), 44100).shape
        (4410, 2)
        """
        noisy, give_back = as_channels(signal)
        options = strength, attenuation_limit_db, high_band
        stage = self._open(sample_rate, noisy.shape[1], *options)
        return give_back(np.concatenate(list(_pushed(stage, [noisy]))))

    def enhance_file(self, filename, output_filename=None, **options):
        """Enhance an audio file of any sample rate and number of channels.

        All of it is returned, so that memory grows with its length; see
        ``enhance_long_file``. FileNotFoundError if there is no such file, or
        no folder for the output; ValueError if the file is no audio, is empty
        or damaged, the output cannot be written, or an option is out of range.

        Arguments
        ---------
        filename : str
            A file that soundfile can read.
        output_filename : str, optional
            Where to write the result, whole or not at all; an existing file is
            replaced. The suffix (.wav, .flac, .ogg, .mp3) gives the container;
            the sample format is that of the input if the container has it,
            and tags (title, artist ...) are kept. Samples beyond full scale
            are clipped but in floating-point formats.
        **options
            ``strength``, ``attenuation_limit_db`` and ``high_band`` as in
            ``enhance_array``.

        Returns
        -------
        numpy.ndarray
            (L,) or (L, channels), float32, of the rate and length of the file.
        """
        if output_filename is not None:
            check_output(filename, output_filename)
        source = AudioInput(filename)
        blocks = self._file_blocks(source, progress=False, **options)
        enhanced = np.concatenate(list(blocks))
        if output_filename is not None:
            write_blocks(output_filename, [enhanced], source)
        return enhanced[:, 0] if enhanced.shape[1] == 1 else enhanced

    def enhance_long_file(
        self, filename, output_filename, progress=True, **options
    ):
        """Enhance a file into another one, in memory that does not grow.

        Arguments and errors are as of ``enhance_file``; ``progress`` shows a
        bar for more than a minute, on a terminal.

        Example
        -------
        >>> import tempfile
        >>> import soundfile as sf
        >>> from dbtransform_lobes.inference import OnnxEnhancer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path, output = f"{folder}/noisy.wav", f"{folder}/enhanced.wav"
        ...     sf.write(path, [0.1] * 8000, 16000)
        ...     OnnxEnhancer().enhance_long_file(path, output)
        ...     sf.info(output).frames
        8000
        """
        check_output(filename, output_filename)
        source = AudioInput(filename)
        blocks = self._file_blocks(source, progress, **options)
        write_blocks(output_filename, blocks, source)

    def _open(
        self,
        sample_rate,
        channels,
        strength=1.0,
        attenuation_limit_db=None,
        high_band="keep",
    ):
        wet = wet_share(strength, attenuation_limit_db)
        if high_band not in HIGH_BANDS:
            raise ValueError(
                f"high_band is {high_band!r}, expected one of "
                f"{', '.join(HIGH_BANDS)}"
            )
        check_sample_rate(sample_rate)
        rates = self.sample_rate, sample_rate
        inner = self.open_signal(channels)
        return SignalPath(inner, *rates, channels, wet, high_band)

    def _file_blocks(self, source, progress, **options):
        """Yield the enhanced blocks of a file; show how far they are."""
        path, rate, length = source.path, source.sample_rate, 0
        long = source.frames > LONG_SECONDS * rate
        look = {"unit": "s", "desc": Path(path).name, "leave": False}
        look["disable"] = None if progress and long else True
        try:
            stage = self._open(rate, source.channels, **options)
            with tqdm(total=source.frames // rate, **look) as bar:
                for block in _pushed(stage, source.blocks()):
                    length += len(block)
                    bar.update(length // rate - bar.n)
                    yield block
        except ValueError as error:
            if str(error).startswith(f"{path}:"):
                raise
            raise ValueError(f"{path}: {error}") from error


def _pushed(stage, blocks):
    for block in blocks:
        for start in range(0, len(block), SAMPLES_AT_ONCE):
            yield stage.push(block[start : start + SAMPLES_AT_ONCE].T).T
    nothing = np.zeros((stage.channels, 0), np.float32)
    yield stage.push(nothing, last=True).T
