"""Enhancement by PyTorch, with trained weights.

A model folder holds ``hyperparams.yaml`` and ``model.ckpt``, as
``dbtransform export`` writes them.
"""

import numpy as np
import torch
from speechbrain.inference.interfaces import Pretrained
from speechbrain.processing.features import ISTFT, STFT
from speechbrain.utils.fetching import LocalStrategy
from speechbrain.utils.run_opts import RunOptions

from dbtransform_lobes.inference.backend import check_device
from dbtransform_lobes.inference.bundled import WEIGHTS
from dbtransform_lobes.inference.enhancer import Enhancer
from dbtransform_lobes.inference.restricted_yaml import load_restricted
from dbtransform_lobes.inference.signal_path import check_sample_rate
from dbtransform_lobes.inference.source import find_model
from dbtransform_lobes.inference.strength import blend, wet_share
from dbtransform_lobes.inference.weights import load_strictly
from dbtransform_lobes.models.db_transform import CHUNK_FRAMES
from dbtransform_lobes.models.waveform import enhance_waveform


class EnhanceModel(Pretrained, Enhancer):
    """A trained enhancer; ``EnhanceModel.from_hparams()`` loads the bundled.

    ValueError if one of these modules or hparams is missing.

    Arguments
    ---------
    modules : dict
        ``model`` maps a complex spectrum (B, F, T) to one of that shape.
    hparams : dict
        ``sample_rate`` in Hz, ``compute_stft`` and ``compute_istft``.
    run_opts, freeze_params
        As of SpeechBrain's Pretrained; the default device is a GPU if any.

    Example
    -------
    >>> model = EnhanceModel.from_hparams(run_opts={"device": "cpu"})
    >>> noisy = torch.randn(2, 4000)
    >>> model.enhance_batch(noisy, torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 4000])
    >>> model.enhance_array(np.zeros((4410, 2)), 44100).shape
    (4410, 2)
    """

    segment_seconds = 60  # the model itself goes through it in chunks
    MODULES_NEEDED = ["model"]
    HPARAMS_NEEDED = ["sample_rate", "compute_stft", "compute_istft"]

    def __init__(
        self, modules=None, hparams=None, run_opts=None, freeze_params=True
    ):
        _check_needed("modules", modules, self.MODULES_NEEDED)
        _check_needed("hparams", hparams, self.HPARAMS_NEEDED)
        check_sample_rate(hparams["sample_rate"])
        layers = {key: hparams[key] for key in self.HPARAMS_NEEDED[1:]}
        for name, layer in {**layers, "model": modules["model"]}.items():
            _check_module(name, layer)
        run_opts = _checked_run_opts({} if run_opts is None else run_opts)
        super().__init__(modules, hparams, run_opts, freeze_params)
        network, stft = self.mods.model, self.hparams.compute_stft
        count = sum(weight.numel() for weight in network.parameters())
        name = type(network).__name__
        self.description = {"class": name, "parameters": count}
        self.causal = getattr(network, "causal", False)
        self.sample_rate = int(hparams["sample_rate"])
        self.hop_length = getattr(stft, "hop_length", None)

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
        trust_code=False,
        **kwargs,
    ):
        """Load a model; a folder or a bundled one without any network.

        Weights are read without running code. So is the YAML file, unless
        ``trust_code``: see ``load_restricted``. FileNotFoundError if the
        folder or a file of it is missing; ValueError if weights and model
        differ, the YAML file lacks something or asks for more than it may, a
        download fails or ``savedir`` holds another model.

        Arguments
        ---------
        source : str or FetchSource, optional
            A model folder, a bundled model ("db_transform_small", the
            default) or one of the Hugging Face hub ("owner/name").
        hparams_file, overrides, overrides_must_match
            YAML file, changes to it, whether each must be a key of it.
        savedir, local_strategy, fetch_config
            As in ``find_model``; none is needed.
        download_only : bool
            Get the files, load nothing and return None.
        trust_code : bool
            Let the YAML file name any Python object.
        **kwargs
            For the constructor, such as ``run_opts={"device": "cuda",
            "precision": "bf16"}``.
        """
        folder = find_model(
            source, hparams_file, savedir, local_strategy, fetch_config
        )
        if download_only:
            return None
        before = torch.get_default_dtype()  # maybe of the user's program
        torch.set_default_dtype(torch.float32)
        try:
            hparams = load_restricted(
                folder / hparams_file,
                overrides,
                overrides_must_match,
                trust_code,
            )
            _check_needed(hparams_file, hparams, ["modules"])
        finally:
            torch.set_default_dtype(before)
        modules = hparams["modules"]
        enhancer = cls(modules=modules, hparams=hparams, **kwargs)
        load_strictly(modules["model"], folder / WEIGHTS)
        return enhancer

    def enhance_batch(
        self, noisy, lengths=None, strength=1.0, attenuation_limit_db=None
    ):
        """Enhance waveforms; level and length are kept, silence stays so.

        Every item is enhanced over its valid part alone, so that its result
        does not depend on the padding, and is zero after it. ValueError if the
        rank, type, length or a sample of ``noisy`` is wrong, ``lengths`` do
        not fit it, or strength or limit is out of range.

        Arguments
        ---------
        noisy : torch.Tensor
            Floating point (B, L) at the model's sample rate, any device.
        lengths : torch.Tensor, optional
            Valid part of each item as a share of L, (B,), 0 < share <= 1;
            all of L if not given.
        strength, attenuation_limit_db
            As in ``enhance_array``.

        Returns
        -------
        torch.Tensor
            (B, L), float32, on the model's device.
        """
        wet = wet_share(strength, attenuation_limit_db)
        _check_batch(noisy)
        valid = _valid_samples(noisy, lengths)
        noisy = noisy.detach().to(self.device, torch.float32)
        enhanced = torch.zeros_like(noisy)
        with torch.inference_mode(), self.inference_ctx:
            for length in valid.unique().tolist():
                items = (valid == length).nonzero().flatten().to(self.device)
                part = noisy[items, :length]
                estimate = self._enhance(part)
                enhanced[items, :length] = blend(part, estimate, wet)
        return enhanced

    forward = enhance_batch

    def enhance_file(self, filename, output_filename=None, **options):
        """Enhance a file, as ``Enhancer`` does; return a torch.Tensor."""
        enhanced = super().enhance_file(filename, output_filename, **options)
        return torch.from_numpy(np.ascontiguousarray(enhanced))

    @property
    def reach(self):
        """Frames before and after a frame that it depends on, if limited."""
        limited = getattr(self.mods.model, "in_chunks", False)
        if not limited or not _takes_blocks(*self._transforms()):
            return None
        return self.mods.model.reach()

    @property
    def window(self):
        """Of the STFT, (n_fft,), float32."""
        stft, istft = self._transforms()
        if not _takes_blocks(stft, istft):
            raise ValueError(
                "this model's STFT and ISTFT cannot take blocks, expected "
                "those of SpeechBrain with the same settings, an even n_fft, "
                "a hop of at most half of it, centred frames and zeros around "
                "the signal"
            )
        window = np.zeros(stft.n_fft, np.float32)
        left = (stft.n_fft - stft.win_length) // 2
        window[left : left + stft.win_length] = stft.window.cpu()
        return window

    def enhance_segment(self, noisy):
        """Map samples (n,), float32, to as many."""
        noisy = torch.from_numpy(noisy.copy())[None].to(self.device)
        with torch.inference_mode(), self.inference_ctx:
            return self._enhance(noisy)[0].cpu().numpy()

    def open_frames(self, channels):
        """Return a function for the next frames, see ``Enhancer``."""
        state = self.mods.model.initial_state()

        def enhance(spec):
            """Return the estimate of the frames that follow."""
            nonlocal state
            parts, spec = [], torch.from_numpy(spec).to(self.device)
            with torch.inference_mode(), self.inference_ctx:
                for frames in spec.split(CHUNK_FRAMES, dim=-1):
                    estimate, state = self.mods.model.step(frames, state)
                    parts.append(estimate)
                return torch.cat(parts, dim=-1).cpu().numpy()

        return enhance

    def _transforms(self):
        return self.hparams.compute_stft, self.hparams.compute_istft

    def _enhance(self, noisy):
        return enhance_waveform(self.mods.model, *self._transforms(), noisy)


def _checked_run_opts(run_opts):
    """Return SpeechBrain's run_opts; refuse what it would not understand."""
    if not isinstance(run_opts, dict):
        raise ValueError(
            f"run_opts is {run_opts!r}, expected a dict such as "
            "{'device': 'cuda'}"
        )
    known = RunOptions().as_dict()
    unknown = [str(key) for key in run_opts if key not in known]
    if unknown:
        raise ValueError(
            f"run_opts has {', '.join(unknown)}, expected some of "
            f"{', '.join(known)}; leave out what is not among them"
        )
    for key in ("jit", "jit_module_keys"):
        if run_opts.get(key):
            raise ValueError(
                f"run_opts has {key}={run_opts[key]}, but the model cannot be "
                "compiled by TorchScript; leave it out, or export the model "
                "by `dbtransform export-onnx`"
            )
    if "device" not in run_opts:
        return run_opts
    device = str(run_opts["device"])  # SpeechBrain splits the name
    check_device(device)
    return {**run_opts, "device": device}


def _check_needed(what, given, needed):
    given = given if isinstance(given, dict) else {}
    missing = [name for name in needed if given.get(name) is None]
    if missing:
        raise ValueError(
            f"{what} lack {', '.join(missing)}, expected "
            f"{', '.join(needed)}, given {', '.join(map(str, given)) or 'none'}"
            "; `dbtransform export` writes a complete model folder"
        )


def _check_module(name, layer):
    if not isinstance(layer, torch.nn.Module):
        raise ValueError(
            f"{name} is {type(layer).__name__}, expected a torch module"
        )


def _check_batch(noisy):
    if not isinstance(noisy, torch.Tensor) or not noisy.is_floating_point():
        kind = (
            f"{type(noisy).__name__} of {getattr(noisy, 'dtype', 'no dtype')}"
        )
        raise ValueError(
            f"noisy is {kind}, expected a floating-point torch.Tensor; divide "
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
    try:
        lengths = torch.as_tensor(lengths).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"lengths are {lengths!r}, expected a tensor of numbers"
        ) from error
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


def _takes_blocks(stft, istft):
    """Whether transforms are those of ``BlockSTFT`` and ``BlockISTFT``."""
    return (
        isinstance(stft, STFT)
        and isinstance(istft, ISTFT)
        and istft.n_fft in (None, stft.n_fft)
        and stft.hop_length == istft.hop_length
        and torch.equal(stft.window, istft.window)
        and stft.n_fft % 2 == 0
        and 2 * stft.hop_length <= stft.n_fft
        and stft.center
        and istft.center
        and stft.onesided
        and not stft.normalized_stft
        and stft.pad_mode == "constant"
    )
