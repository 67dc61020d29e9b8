"""The training loop of every recipe."""

import os
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process

from dbtransform_lobes.data.recordings import write_audio
from dbtransform_lobes.evaluation.evaluate import evaluate_folders
from dbtransform_lobes.evaluation.metrics import (
    SilentFileError,
    pesq_wide_band,
    si_sdr,
    stoi,
)
from dbtransform_lobes.models.waveform import enhance_waveform, unit_rms_gain
from dbtransform_lobes.training.ema import weight_ema

VALIDATION_METRICS = {"pesq": pesq_wide_band, "stoi": stoi, "si_sdr": si_sdr}


class EnhanceBrain(sb.Brain):
    """Trains a spectral enhancement model on noisy and clean waveforms.

    Batches have the keys id, noisy and clean. Validation and test use the
    moving average of the weights. See speechbrain.core.Brain for the
    arguments; hparams give compute_stft, compute_istft, loss, ema_decay,
    lr_schedule and train_logger; with a metric_weight above 0 also
    metric_gan, which makes a MetricGAN.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ema = weight_ema(self.modules.model, self.hparams.ema_decay)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("ema", self.ema)
        self.metric_gan = self.adversary = None
        if getattr(self.hparams, "metric_weight", 0):
            self.metric_gan = self.hparams.metric_gan(device=self.device)
            if self.checkpointer is not None:
                self.metric_gan.add_to(self.checkpointer)
        self.loggers = []
        if if_main_process():
            self.loggers.append(self.hparams.train_logger)
            if self.hparams.use_tensorboard:
                self.loggers.append(self.hparams.tensorboard_logger())

    def compute_forward(self, batch, stage):
        """Noisy waveforms to enhanced ones and their spectrum, at unit RMS."""
        batch = batch.to(self.device)
        noisy = batch.noisy.data
        training = stage == sb.Stage.TRAIN
        return enhance_waveform(
            self.modules.model if training else self.ema.module,
            self.hparams.compute_stft,
            self.hparams.compute_istft,
            noisy * unit_rms_gain(noisy),
            return_spec=True,
        )

    def compute_objectives(self, predictions, batch, stage):
        """Mean loss; keeps the terms to log and, off training, the scores."""
        gain = unit_rms_gain(batch.noisy.data)
        clean, (estimate, spec) = batch.clean.data * gain, predictions
        losses, terms = self.hparams.loss(clean, estimate, spec)
        if stage == sb.Stage.TRAIN and self.adversary is not None:
            terms["metric"] = self.adversary.generator_term(clean, estimate)
            losses = losses + self.adversary.weight * terms["metric"]
        if not torch.isfinite(losses).all():
            bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
            raise ValueError(
                f"the loss is not finite for {[batch.id[i] for i in bad]} "
                f"in a batch of {list(batch.id)}: check these files for NaN "
                f"or lower the learning rate; the last checkpoint is intact"
            )
        for name, term in terms.items():
            self.terms.setdefault(name, []).append(term.detach().mean())
        if stage == sb.Stage.VALID:
            self._score(batch, estimate / gain)
        if stage == sb.Stage.TEST:
            self._write(batch, estimate / gain)
        return losses.mean()

    def _score(self, batch, estimate):
        clean = batch.clean.data.double().cpu().numpy()
        estimate = estimate.double().cpu().numpy()
        for name, *pair in zip(batch.id, clean, estimate, strict=True):
            try:
                scores = {
                    key: metric(*pair)
                    for key, metric in VALIDATION_METRICS.items()
                }
            except SilentFileError:
                self.silent.append(name)
                continue
            self.scores.append(scores)

    def _write(self, batch, estimate):
        folder = Path(self.hparams.enhanced_folder)
        folder.mkdir(parents=True, exist_ok=True)
        clean = batch.clean.data.cpu().numpy()
        for name, target, signal in zip(
            batch.id, clean, estimate.cpu().numpy(), strict=True
        ):
            for part, wave in (("clean", target), ("enhanced", signal)):
                (folder / part).mkdir(exist_ok=True)
                # Clipping happens on writing, as in any player.
                write_audio(
                    folder / part / f"{name}.wav",
                    wave.clip(-1, 1),
                    self.hparams.sample_rate,
                )

    def on_fit_batch_start(self, batch, should_step):
        """Sets the learning rate of the coming step."""
        if should_step:
            # Counted in batches, so that accumulation changes no schedule.
            batches = self.optimizer_step * self.grad_accumulation_factor
            self.hparams.lr_schedule(self.optimizer, batches + 1)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Averages the weights; trains the metric discriminator, if any."""
        if should_step:
            self.ema.update_parameters(self.modules.model)
        if self.adversary is not None:
            clean = batch.clean.data * unit_rms_gain(batch.noisy.data)
            term = self.adversary.on_batch_end(clean, outputs[0], should_step)
            if term is not None:
                self.terms.setdefault("discriminator", []).append(term)

    def on_stage_start(self, stage, epoch=None):
        """Starts the sums of a stage."""
        self.terms, self.scores, self.silent = {}, [], []
        if stage == sb.Stage.TRAIN and self.metric_gan is not None:
            started = epoch >= self.metric_gan.start_epoch
            self.adversary = self.metric_gan if started else None
        elif stage == sb.Stage.TEST and self.metric_gan is not None:
            self.metric_gan.workers.close()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs a stage; after validation also saves a checkpoint."""
        stats = {"loss": float(stage_loss)}
        for name, values in self.terms.items():
            stats[f"loss_{name}"] = float(torch.stack(values).mean())
        if stage == sb.Stage.TRAIN and self.adversary is not None:
            stats.update(self.adversary.counts())
        if stage == sb.Stage.TRAIN:
            self.train_stats = stats
        elif stage == sb.Stage.VALID:
            self._end_validation(stats, epoch)
        elif if_main_process():
            folder = Path(self.hparams.enhanced_folder)
            report = evaluate_folders(
                folder / "clean",
                folder / "enhanced",
                self.hparams.output_folder,
                jobs=os.cpu_count() or 1,
            )
            self.hparams.train_logger.log_stats(
                {"test": "best checkpoint"}, test_stats=report["means"]
            )

    def _end_validation(self, stats, epoch):
        if not self.scores:
            raise ValueError(
                f"no validation file could be scored, all of {self.silent} "
                f"are silent: choose other valid_speakers or more "
                f"valid_files"
            )
        for name in VALIDATION_METRICS:
            values = [scores[name] for scores in self.scores]
            stats[name] = float(sum(values) / len(values))
        stats["silent_files"] = len(self.silent)
        rate = float(self.optimizer.param_groups[0]["lr"])
        for logger in self.loggers:
            logger.log_stats(
                {"epoch": epoch, "lr": rate},
                train_stats=self.train_stats,
                valid_stats=stats,
            )
        self.checkpointer.save_and_keep_only(
            meta={name: stats[name] for name in VALIDATION_METRICS},
            max_keys=["pesq"],
        )
