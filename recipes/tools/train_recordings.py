"""Train a model on recordings for a given time.

This made the bundled models. It differs from the recipes: the learning rate
follows the clock, there is no validation, and a run that is started again goes
on where it was last saved. The weights to use are model_ema.ckpt.

examples:
  train_recordings.py hparams/models/db_transform_small.yaml --hours 2 \\
      --recordings a/manifest.csv b/manifest.csv --output run
"""

import itertools
import json
import math
import os
import time
from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.processing.features import STFT
from torch.utils.data import DataLoader
from tqdm import tqdm

from command import start
from dbtransform_lobes.data.crops import TrainingCrops
from dbtransform_lobes.data.files import replacing, write_json
from dbtransform_lobes.data.sources import Recordings
from dbtransform_lobes.models.feed_forward import FeedForward
from dbtransform_lobes.models.waveform import enhance_waveform
from dbtransform_lobes.training import losses
from dbtransform_lobes.training.ema import weight_ema
from dbtransform_lobes.training.losses_pesq import PesqDisturbance
from dbtransform_lobes.versions import package_versions

# How mixtures are drawn, see Recordings; rooms stay in the target.
MIXTURES = {
    "clean_share": 0.2,
    "noise_share": 0.04,
    "clatter": 0.15,
    "noise_filter": 0.6,
    "room": 0.4,
    "reverberation": 0.4,
    "simulated_rooms": 0.5,
    "band_limit": 0.08,
    "level_jump": 0.2,
}
LEVEL_DBFS = (-45.0, -18.0)
MAX_SDR_DB = 35.0
SHOWN_STEPS = 20
DEFAULTS = {  # of options
    "--batch-size": 8,
    "--crop-seconds": 2.0,
    "--lr": 1.2e-3,
    "--warmup-steps": 300,
    "--hold": 0.4,
    "--save-minutes": 10.0,
    "--seed": 1,
    "--device": "cpu",
}


def add_arguments(parser):
    """Add the arguments of this command to its parser."""
    add, weights = parser.add_argument, {"type": json.loads, "default": {}}
    add("model", help="YAML of hparams/models")
    add("--recordings", nargs="+", required=True)
    add("--output", required=True, help="folder of the run")
    add("--hours", type=float, required=True)
    add("--pretrained", help="state dict of as many layers or fewer")
    draws = 'JSON such as {"librispeech": 4}: how often a source is drawn'
    add("--source-weights", **weights, help=draws)
    terms = f"JSON of the loss weights that differ from {WEIGHTS}"
    add("--term-weights", **weights, help=terms)
    for name, value in DEFAULTS.items():
        add(name, type=type(value), default=value)
    workers = "processes that mix; none on the CPU, else one for each core"
    add("--workers", type=int, help=workers)
    precision = "fp32 on processors without bf16, where that is emulated"
    choices = {"choices": ("bf16", "fp32"), "default": "bf16"}
    add("--precision", **choices, help=precision)


def negative_bounded_sdr(clean, estimate):
    """Return minus the SDR (B,) in dB, which saturates at 35 dB.

    So nearly clean crops do not rule the gradient (Wisdom et al., 2020,
    arXiv:2006.12701, eq. 4).
    """
    signal = clean.square().sum(-1) + 1e-8
    error = (estimate - clean).square().sum(-1)
    ratio = signal / (error + 10 ** (-MAX_SDR_DB / 10) * signal)
    return -10 * torch.log10(ratio)


def negative_bounded_si_sdr(clean, estimate):
    """Return minus the SI-SDR (B,) in dB, bounded in the same way."""
    clean = clean - clean.mean(-1, keepdim=True)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    energy = clean.square().sum(-1, keepdim=True) + 1e-8
    scale = (clean * estimate).sum(-1, keepdim=True) / energy
    return negative_bounded_sdr(scale * clean, estimate)


TERMS = {  # with their weights
    "magnitude": (40.0, losses.compressed_magnitude),
    "complex": (20.0, losses.compressed_complex),
    "si_sdr": (1.2, negative_bounded_si_sdr),
    # In its place, it sees the level but cost COVL and SI-SDR.
    "sdr": (0.0, negative_bounded_sdr),
    "envelope": (50.0, losses.EnvelopeDistance),
    "pesq": (5.0, PesqDisturbance),
}
WEIGHTS = {name: weight for name, (weight, _) in TERMS.items()}
SPECTRAL = ("magnitude", "complex")  # in which crops without speech count


class RecordingsLoss(losses.EnhancementLoss):
    """Weighted sum of the terms at a noisy RMS of 1."""

    def __init__(self, weights):
        if unknown := set(weights) - set(WEIGHTS):
            raise ValueError(
                f"loss terms {sorted(unknown)} are unknown, expected some of "
                f"{sorted(WEIGHTS)}"
            )
        weights = {**WEIGHTS, **weights}
        # Rate in Hz, window and hop in ms, FFT length.
        stft = STFT(16000, 32, 8, 512, torch.hann_window)
        super().__init__(stft, {n: (weights[n], TERMS[n][1]) for n in TERMS})

    def forward(self, noisy, clean, estimate):
        """Map waveforms (B, L) to (loss, dict of mean terms)."""
        gain = losses.unit_rms_gain(noisy, eps=1e-6)
        _, terms = super().forward(clean * gain, estimate.float() * gain)
        speech = clean.abs().amax(-1) > 0
        for name, term in terms.items():
            heard = speech | (name in SPECTRAL)
            terms[name] = (term * heard).sum() / heard.sum().clamp_min(1)
        return sum(self.weights[name] * terms[name] for name in terms), terms


def load_and_grow(model, state):
    """Load the state dict of a model of as many layers or fewer.

    Its feed-forward parts may be narrower. The last map of each further block
    and of further hidden channels begins with zeros, so that the model, a
    ``DBTransform`` of pre-norm blocks, begins as the same function.
    """
    given = model.state_dict()
    for name, part in model.named_modules():
        if isinstance(part, FeedForward) and f"{name}.reduce.weight" in state:
            widened = part.state_dict()
            _fill(widened, {n: state[f"{name}.{n}"] for n in widened})
            state |= {f"{name}.{n}": w for n, w in widened.items()}
    layers = {name.split(".")[1] for name in state if name[:7] == "blocks."}
    for number, residual in enumerate(model.blocks):
        if str(number) in layers:
            continue
        *_, last = (m for m in residual.block.modules() if hasattr(m, "bias"))
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        prefix = f"blocks.{number}."
        state |= {n: given[n] for n in given if n.startswith(prefix)}
    model.load_state_dict(state)


def _fill(wide, narrow):
    """Fill the weights of a feed-forward part with those of a narrower one."""
    new, old = (each["reduce.weight"].shape[-1] for each in (wide, narrow))
    rows = [*range(old), *range(new, new + old)]  # gates and values
    wide["expand.weight"][..., rows, :] = narrow["expand.weight"]
    wide["expand.bias"][..., rows] = narrow["expand.bias"]
    wide["reduce.weight"][..., :old] = narrow["reduce.weight"]
    wide["reduce.weight"][..., old:] = 0
    wide["reduce.bias"] = narrow["reduce.bias"]


class Run:
    """A training run that can be stopped and started again."""

    def __init__(self, args):
        self.args, self.folder = args, Path(args.output)
        torch.manual_seed(args.seed)
        with open(args.model, encoding="utf-8") as file:
            self.hparams = load_hyperpyyaml(file)
        self.model = self.hparams["model"].to(args.device)
        if args.pretrained:
            state = torch.load(args.pretrained, weights_only=True)
            load_and_grow(self.model, state)
        self.ema = weight_ema(self.model, 0.999)
        # Biases and norms do not decay.
        groups = {0.01: [], 0.0: []}
        for name, weight in self.model.named_parameters():
            matrix = weight.dim() > 1 and "norm" not in name
            groups[0.01 if matrix else 0.0].append(weight)
        groups = [{"params": p, "weight_decay": d} for d, p in groups.items()]
        options = {"lr": args.lr, "betas": (0.9, 0.99)}
        self.optimizer = torch.optim.AdamW(groups, **options)
        self.parts = {"model": self.model, "optimizer": self.optimizer}
        self.parts["ema"] = self.ema.module
        self.step, self.seconds = 0, 0.0
        if (self.folder / "state.pt").exists():
            self._resume()

    def _resume(self):
        state = torch.load(self.folder / "state.pt", weights_only=True)
        if state["model_yaml"] != Path(self.args.model).name:
            raise ValueError(
                f"{self.folder} holds a run of {state['model_yaml']}, "
                f"expected one of {self.args.model}: give another --output"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]
        self.ema.n_averaged.fill_(self.step)

    def save(self):
        """Write state and averaged weights, each under a temporary name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        ema = {name: value.cpu() for name, value in state["ema"].items()}
        state |= {"step": self.step, "seconds": self.seconds}
        state["model_yaml"] = Path(self.args.model).name
        for name, content in (("state.pt", state), ("model_ema.ckpt", ema)):
            with replacing(self.folder / name) as temporary:
                torch.save(content, temporary)
        given = vars(self.args).items()
        about = {"arguments": {k: v for k, v in given if not callable(v)}}
        about |= {"steps": self.step, "heard_hours": self.heard_hours()}
        about["versions"] = package_versions()
        write_json(self.folder / "run.json", about)

    def heard_hours(self):
        """Hours of audio in the steps up to now."""
        crops = self.step * self.args.batch_size
        return round(crops * self.args.crop_seconds / 3600, 2)

    def learning_rate(self):
        """Warm up by steps, hold, then fall by a cosine of the time."""
        args = self.args
        done = min(self.seconds / (3600 * args.hours), 1.0)
        fall = max(done - args.hold, 0) / (1 - args.hold)
        warm = min((self.step + 1) / args.warmup_steps, 1.0)
        return args.lr * warm * 0.5 * (1 + math.cos(math.pi * fall))

    def update(self, noisy, clean, loss):
        """Make one step; returns its terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        transforms = (self.hparams[f"compute_{k}"] for k in ("stft", "istft"))
        bf16 = self.args.precision == "bf16"
        with torch.autocast(self.args.device, torch.bfloat16, enabled=bf16):
            estimate = enhance_waveform(self.model, *transforms, noisy)
        total, terms = loss(noisy, clean, estimate)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        self.ema.update_parameters(self.model)
        return terms


def training_batches(args, step):
    """Return an endless loader of batches from a step on.

    An example depends on the seed and its number alone, whatever the workers.
    """
    options = {"source_weights": args.source_weights, "in_memory": True}
    source = Recordings(args.recordings, **options, **MIXTURES)
    given = args.crop_seconds, args.seed, LEVEL_DBFS
    crops = TrainingCrops(source, len(source), *given)
    workers = args.workers
    if workers is None:
        workers = 0 if args.device == "cpu" else os.cpu_count()
    numbers = itertools.count(step * args.batch_size)
    options = {"sampler": ((1, n) for n in numbers), "num_workers": workers}
    return DataLoader(crops, args.batch_size, **options)


def run(args):
    """Train until the hours are over; saves now and then and at the end."""
    training = Run(args)
    batches = training_batches(args, training.step)
    loss = RecordingsLoss(args.term_weights).to(args.device)
    begun, saved = time.time() - training.seconds, time.time()
    with tqdm(total=round(3600 * args.hours), unit="s") as bar:
        for batch in batches:
            if training.seconds >= 3600 * args.hours:
                break
            signals = (batch[k].to(args.device) for k in ("noisy", "clean"))
            terms = training.update(*signals, loss)
            training.seconds = time.time() - begun
            if training.step % SHOWN_STEPS == 0:  # a GPU is waited for here
                shown = {n: float(term.detach()) for n, term in terms.items()}
                shown["heard_h"] = training.heard_hours()
                bar.set_postfix(shown, refresh=False)
                bar.update(round(training.seconds) - bar.n)
            if time.time() - saved > 60 * args.save_minutes:
                training.save()
                saved = time.time()
    training.save()
    return 0


if __name__ == "__main__":
    start(__file__)
