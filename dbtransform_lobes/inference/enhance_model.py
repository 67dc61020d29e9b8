"""Enhancement of batches and files with trained weights.

A model folder holds ``hyperparams.yaml`` and ``model.ckpt``, as
``dbtransform export`` writes them. Files keep their sample rate, channels,
length and level.
"""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml.error import YAMLError
from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import (
    FetchConfig,
    FetchFrom,
    FetchSource,
    LocalStrategy,
    fetch,
)

from dbtransform_lobes.data.recordings import AUDIO_SUFFIXES, audio_info
from dbtransform_lobes.models.waveform import enhance_waveform, unit_rms_gain

BUNDLED = Path(__file__).resolve().parents[1] / "bundled" / "db_transform_small"

# Signals longer than LONGEST are cut into segments; a multiple of the hop
# apart, their frames are those of the whole signal.
LONGEST_SECONDS = 20
SEGMENT_SECONDS = 16
OVERLAP_SECONDS = 2

# Long single writes crash libsndfile's Vorbis encoder.
FRAMES_A_WRITE = 65536


class EnhanceModel(Pretrained):
    """A trained enhancer; ``EnhanceModel.from_hparams()`` loads the bundled.

    Arguments
    ---------
    modules : dict
        ``model`` maps a complex spectrum (B, F, T) to one of that shape.
    hparams : dict
        ``sample_rate`` in Hz, ``compute_stft`` and ``compute_istft``.
    run_opts : dict, optional
        SpeechBrain's, such as ``{"device": "cuda:0"}``; the default device
        is a GPU if there is one.
    freeze_params : bool
        Whether the weights get no gradients.

    Raises
    ------
    ValueError
        If one of these modules or hparams is missing.

    Example
    -------
    >>> from speechbrain.processing.features import ISTFT, STFT
    >>> settings = dict(sample_rate=16000, win_length=32, hop_length=8)
    >>> model = EnhanceModel(
    ...     modules={"model": torch.nn.Identity()},
    ...     hparams={
    ...         "sample_rate": 16000,
    ...         "compute_stft": STFT(n_fft=512, **settings),
    ...         "compute_istft": ISTFT(n_fft=512, **settings),
    ...     },
    ...     run_opts={"device": "cpu"},
    ... )
    >>> noisy = torch.randn(2, 4000)
    >>> model.enhance_batch(noisy, torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 4000])
    """

    MODULES_NEEDED = ["model"]
    HPARAMS_NEEDED = ["sample_rate", "compute_stft", "compute_istft"]

    def __init__(
        self, modules=None, hparams=None, run_opts=None, freeze_params=True
    ):
        _check_needed("modules", modules, self.MODULES_NEEDED)
        _check_needed("hparams", hparams, self.HPARAMS_NEEDED)
        super().__init__(modules, hparams, run_opts, freeze_params)

    @classmethod
    def from_hparams(
        cls,
        source=None,
        hparams_file="hyperparams.yaml",
        overrides=None,
        overrides_must_match=True,
        savedir=None,
        download_only=False,
        local_strategy=LocalStrategy.SYMLINK,
        fetch_config=None,
        **kwargs,
    ):
        """Load a model folder or a Hugging Face model; keys are strict.

        A local folder is read in place: no network, no copies, no links.
        The YAML file can name any Python object: load only what you trust.

        Arguments
        ---------
        source : str, optional
            A model folder, a Hugging Face id ("owner/name") or a URL; the
            weights that come with this package if not given.
        hparams_file, overrides, overrides_must_match
            YAML file, changes to it, whether each must be a key of it.
        savedir, download_only, local_strategy, fetch_config
            Of downloads, as in SpeechBrain; a local folder needs none.
        **kwargs
            For the constructor, such as ``run_opts={"device": "cpu"}``.

        Returns
        -------
        EnhanceModel
            None if ``download_only``.

        Raises
        ------
        FileNotFoundError
            If the folder or a file of it is missing.
        ValueError
            If weights and model differ, or the YAML file lacks something.
        """
        source, is_local = _resolve_source(source, hparams_file)
        options = {
            "savedir": None if is_local else savedir,
            "local_strategy": local_strategy,
            "fetch_config": fetch_config or FetchConfig(),
        }
        path = _fetch_hparams(hparams_file, source, options)
        hparams = _read_hparams(path, overrides, overrides_must_match)
        _check_needed(hparams_file, hparams, ["modules", "pretrainer"])
        _check_needed("modules", hparams["modules"], cls.MODULES_NEEDED)
        pretrainer = hparams["pretrainer"]
        _make_strict(pretrainer, hparams["modules"]["model"])
        pretrainer.set_collect_in(options.pop("savedir"))
        pretrainer.collect_files(default_source=source, **options)
        if download_only:
            return None
        pretrainer.load_collected()
        return cls(modules=hparams["modules"], hparams=hparams, **kwargs)

    def enhance_batch(self, noisy, lengths=None):
        """Enhance waveforms; level and length are kept, silence stays so.

        Every item is enhanced over its valid part alone, so that its result
        does not depend on the padding, and is zero after it.

        Arguments
        ---------
        noisy : torch.Tensor
            Floating point (B, L) at the model's sample rate, any device.
        lengths : torch.Tensor, optional
            Valid part of each item as a share of L, (B,), 0 < share <= 1;
            all of L if not given.

        Returns
        -------
        torch.Tensor
            (B, L), float32, on the model's device.

        Raises
        ------
        ValueError
            If the rank, type, length or a sample of ``noisy`` is wrong, or
            ``lengths`` do not fit it.
        """
        _check_batch(noisy)
        valid = _valid_samples(noisy, lengths)
        noisy = noisy.detach().to(self.device, torch.float32)
        enhanced = torch.zeros_like(noisy)
        with torch.inference_mode(), self.inference_ctx:
            for length in valid.unique().tolist():
                items = (valid == length).nonzero().flatten().to(self.device)
                enhanced[items, :length] = self._enhance(noisy[items, :length])
        return enhanced

    forward = enhance_batch

    def enhance_file(self, path, output=None):
        """Enhance an audio file of any sample rate and number of channels.

        Other sample rates are resampled to the model's and back, so that
        nothing above half the model's rate remains. Channels are enhanced
        each on its own. Signals of more than 20 s are enhanced in segments
        of 16 to 20 s with a linear cross-fade over 2 s, at the level of the
        whole signal: memory grows with the samples alone.

        Arguments
        ---------
        path : str
            A file that soundfile can read.
        output : str, optional
            Where to write the result; an existing file is replaced. The
            suffix (.wav, .flac, .ogg, .mp3) gives the container; the sample
            format is that of the input if the container has it. Samples
            beyond full scale are clipped in integer formats. The file is
            there whole or not at all.

        Returns
        -------
        torch.Tensor
            (L,), or (channels, L) for several channels; float32 on the CPU,
            at the rate and with the length of the file.

        Raises
        ------
        FileNotFoundError
            If there is no such file, or no folder for the output.
        ValueError
            If the file is no audio, is empty or has samples that are not
            finite; if the output is the input or has another suffix.
        """
        info = audio_info(path)
        if output is not None:
            _check_output(path, output)
        noisy = _read(path)  # (L, channels)
        rate = self.hparams.sample_rate
        length = max(1, round(len(noisy) * rate / info.samplerate))
        resampled = _resample(noisy, info.samplerate, rate, length)
        for channel in resampled.T:
            channel[:] = self._enhance_long(torch.tensor(channel)).numpy()
        enhanced = _resample(resampled, rate, info.samplerate, len(noisy))
        if output is not None:
            _write(output, enhanced, info.samplerate, info.subtype)
        enhanced = torch.from_numpy(np.ascontiguousarray(enhanced.T))
        return enhanced[0] if len(enhanced) == 1 else enhanced

    def _enhance(self, noisy, gain=None):
        """Enhance (B, L) at the gain that is given or that of each item."""
        return enhance_waveform(
            self.mods.model,
            self.hparams.compute_stft,
            self.hparams.compute_istft,
            noisy,
            gain,
        )

    def _enhance_long(self, noisy):
        """Enhance (L,) in segments that are faded into each other."""
        rate = self.hparams.sample_rate
        overlap = OVERLAP_SECONDS * rate
        fade = (torch.arange(overlap) + 0.5) / overlap
        gain = unit_rms_gain(noisy[None]).to(self.device)
        enhanced = torch.zeros_like(noisy)
        with torch.inference_mode(), self.inference_ctx:
            for start, end in segment_bounds(len(noisy), rate):
                segment = noisy[None, start:end].to(self.device)
                estimate = self._enhance(segment, gain)[0].cpu()
                if start > 0:
                    estimate[:overlap] *= fade
                if end < len(noisy):
                    estimate[-overlap:] *= fade.flip(0)
                enhanced[start:end] += estimate
        return enhanced


def segment_bounds(length, sample_rate):
    """First and last samples of the segments of a signal.

    Arguments
    ---------
    length : int
        Samples of the signal.
    sample_rate : int
        In Hz.

    Returns
    -------
    list of tuple
        (start, end) of each; neighbours overlap by 2 s.

    Example
    -------
    >>> segment_bounds(20 * 100, 100)
    [(0, 2000)]
    >>> segment_bounds(21 * 100, 100)
    [(0, 1600), (1400, 2100)]
    """
    segment = SEGMENT_SECONDS * sample_rate
    start, bounds = 0, []
    while length - start > LONGEST_SECONDS * sample_rate:
        bounds.append((start, start + segment))
        start += segment - OVERLAP_SECONDS * sample_rate
    return [*bounds, (start, length)]


def load_strictly(model, path):
    """Load a state dict into a model if keys and shapes are the same.

    Arguments
    ---------
    model : torch.nn.Module
        Its weights are replaced.
    path : str
        A file of tensors; anything else in it is refused.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no state dict or that of another model; lists the keys
        that are missing, unexpected and of another shape.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/model.ckpt"
    ...     torch.save({"weight": torch.ones(1, 1)}, path)
    ...     model = torch.nn.Linear(1, 1, bias=False)
    ...     load_strictly(model, path)
    >>> model.weight.item()
    1.0
    """
    state = read_state_dict(path)
    check_weights(
        state,
        model.state_dict(),
        f"{path}: the weights are not those of the model that the YAML file "
        "describes; export the run again",
    )
    model.load_state_dict(state)


def check_weights(given, expected, title):
    """Raise a ValueError with all keys by which two state dicts differ.

    Arguments
    ---------
    given, expected : dict
        Tensor by name.
    title : str
        What is wrong if they differ and what to do about it.

    Raises
    ------
    ValueError
        Lists the keys that are missing, unexpected and of another shape.

    Example
    -------
    >>> check_weights({"a": torch.ones(1)}, {"a": torch.zeros(1)}, "differ")
    """
    problems = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "of another shape": [
            f"{key} {tuple(given[key].shape)}, expected "
            f"{tuple(expected[key].shape)}"
            for key in expected
            if key in given and given[key].shape != expected[key].shape
        ],
    }
    lines = [f"  {kind}: {', '.join(k)}" for kind, k in problems.items() if k]
    if lines:
        raise ValueError("\n".join([title, *lines]))


def read_state_dict(path):
    """Read a file of named tensors to the CPU, and nothing but tensors.

    Arguments
    ---------
    path : str
        What ``torch.save`` wrote.

    Returns
    -------
    dict
        Tensor by name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds anything else.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: there is no such file, expected the weights; make a "
            "model folder with `dbtransform export RUN_FOLDER MODEL_FOLDER`"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0] or "the file is empty"
        raise ValueError(
            f"{path}: expected a state dict that torch can read ({reason}); "
            "export or download it again"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise ValueError(
            f"{path}: expected a state dict of tensors, given "
            f"{type(state).__name__}; export the run again"
        )
    return state


def _resolve_source(source, hparams_file):
    """Return the source and whether it is a folder on this machine."""
    if source is None:
        if not (BUNDLED / hparams_file).is_file():
            raise FileNotFoundError(
                "this package was built without weights: give a model folder "
                "or a Hugging Face id, or make a model folder with "
                "`dbtransform export RUN_FOLDER MODEL_FOLDER`"
            )
        return str(BUNDLED), True
    if isinstance(source, FetchSource):
        if source.FetchFrom != FetchFrom.LOCAL:
            return source, False
        source = source.path
    source = os.path.expanduser(source)
    if os.path.isdir(source):
        if not os.path.isfile(os.path.join(source, hparams_file)):
            raise FileNotFoundError(
                f"{source}: there is no {hparams_file}, expected a model "
                "folder as `dbtransform export` writes it"
            )
        return source, True
    if re.fullmatch(r"https?://.+|\w[\w.-]*/[\w.-]+", source):
        return source, False
    raise FileNotFoundError(
        f"{source}: there is no such folder, expected a model folder or a "
        "Hugging Face id (owner/name)"
    )


def _fetch_hparams(hparams_file, source, options):
    try:
        return fetch(hparams_file, source, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source}: there is no such folder, and downloading "
            f"{hparams_file} from there failed ({error}); check the name"
        ) from error


def _read_hparams(path, overrides, overrides_must_match):
    try:
        with open(path, encoding="utf-8") as file:
            return load_hyperpyyaml(file, overrides, overrides_must_match)
    except YAMLError as error:
        raise ValueError(f"{path}: expected HyperPyYAML ({error})") from error


def _make_strict(pretrainer, model):
    """Let the pretrainer refuse weights that do not fit."""
    if all(loadable is not model for loadable in pretrainer.loadables.values()):
        raise ValueError(
            "the pretrainer does not load the model, expected it in its "
            "loadables (loadables: {model: !ref <model>})"
        )
    for name, loadable in pretrainer.loadables.items():
        if isinstance(loadable, torch.nn.Module):
            pretrainer.custom_hooks.setdefault(name, load_strictly)


def _check_needed(what, given, needed):
    missing = [name for name in needed if (given or {}).get(name) is None]
    if missing:
        raise ValueError(
            f"{what} lack {', '.join(missing)}, expected "
            f"{', '.join(needed)}, given {', '.join(given or {}) or 'none'}; "
            "`dbtransform export` writes a complete model folder"
        )


def _check_batch(noisy):
    if not isinstance(noisy, torch.Tensor) or not noisy.is_floating_point():
        given = getattr(noisy, "dtype", type(noisy).__name__)
        raise ValueError(
            f"noisy is {given}, expected a floating-point tensor; divide "
            "16-bit samples by 32768"
        )
    if noisy.dim() != 2 or noisy.numel() == 0:
        raise ValueError(
            f"noisy has shape {tuple(noisy.shape)}, expected (batch, samples) "
            "with at least one of each; add a batch axis by noisy[None]"
        )
    if not torch.isfinite(noisy).all():
        raise ValueError(
            "noisy has samples that are not finite (NaN or infinity), "
            "expected audio; repair or leave out these waveforms"
        )


def _valid_samples(noisy, lengths):
    """Samples of each item's valid part, (B,), on the CPU."""
    items, samples = noisy.shape
    if lengths is None:
        return torch.full((items,), samples)
    lengths = torch.as_tensor(lengths).detach().cpu().double()
    if lengths.shape != (items,):
        raise ValueError(
            f"lengths have shape {tuple(lengths.shape)}, expected ({items},), "
            "one for each item of noisy"
        )
    valid = (lengths * samples).round()
    if not bool(((valid >= 1) & (valid <= samples)).all()):
        raise ValueError(
            f"lengths are {lengths.tolist()}, expected shares of the longest "
            "item, above 0 and at most 1; divide samples by noisy.shape[1]"
        )
    return valid.long()


def _check_output(path, output):
    """Refuse an output that cannot be written, or would replace the input."""
    output = Path(output)
    if output.suffix.lower() not in AUDIO_SUFFIXES:
        raise ValueError(
            f"{output}: the suffix is {output.suffix!r}, expected one of "
            f"{', '.join(AUDIO_SUFFIXES)}"
        )
    if not output.parent.is_dir():
        raise FileNotFoundError(
            f"{output.parent}: there is no such folder; make it first"
        )
    if output.is_dir():
        raise ValueError(f"{output}: is a folder, expected a file to write")
    if output.exists() and os.path.samefile(path, output):
        raise ValueError(
            f"{output}: the output is the input; give another file"
        )


def _read(path):
    """Samples of a file, (L, channels), float32."""
    try:
        signal, _ = sf.read(str(path), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, RuntimeError) as error:
        raise ValueError(f"{path}: reading failed ({error})") from error
    if not np.isfinite(signal).all():
        raise ValueError(
            f"{path}: samples are not finite (NaN or infinity), expected "
            "audio; repair or remove the file"
        )
    return signal


def _resample(signal, sample_rate, new_rate, length):
    """Resample (L, channels) and cut or zero-pad it to a length."""
    if sample_rate != new_rate:
        signal = soxr.resample(signal, sample_rate, new_rate)
    missing = max(0, length - len(signal))
    return np.pad(signal[:length], ((0, missing), (0, 0)))


def _write(path, signal, sample_rate, subtype):
    """Write (L, channels) under a temporary name, then rename it."""
    path = Path(path)
    container = path.suffix[1:].upper()
    if not sf.check_format(container, subtype):
        subtype = sf.default_subtype(container)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    layout = (sample_rate, signal.shape[1], subtype)
    try:
        with sf.SoundFile(temporary, "w", *layout, format=container) as file:
            for start in range(0, len(signal), FRAMES_A_WRITE):
                file.write(signal[start : start + FRAMES_A_WRITE])
        os.replace(temporary, path)
    except sf.LibsndfileError as error:
        raise ValueError(f"{path}: writing failed ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
