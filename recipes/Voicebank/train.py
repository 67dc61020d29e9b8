#!/usr/bin/env python3
"""Train a speech enhancer on VoiceBank-DEMAND, the DNS Challenge or TIMIT.

usage: python train.py hparams/RECIPE.yaml --data_folder=DIR

The YAML names the preparation of the data, the model, the loss and how
training crops are mixed. The train.py of the other recipes is this file.
"""

import math
import random
import shutil
import sys
import time
from pathlib import Path
from statistics import fmean

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils import distributed
from speechbrain.utils.logger import get_logger

from dbtransform_lobes.data.audio import read_audio, write_audio
from dbtransform_lobes.data.crops import EpochSampler, TrainingCrops
from dbtransform_lobes.data.files import write_json
from dbtransform_lobes.data.sources import Pairs, read_pairs
from dbtransform_lobes.evaluation.compare import compare_systems, read_means
from dbtransform_lobes.evaluation.metrics import METRICS, score
from dbtransform_lobes.inference.backend import check_device, usable_cores
from dbtransform_lobes.models.waveform import enhance_waveform
from dbtransform_lobes.training import ranks, run_folder, settings
from dbtransform_lobes.training.brain import ResumableBrain
from dbtransform_lobes.training.ema import weight_ema
from dbtransform_lobes.training.losses import unit_rms_gain
from dbtransform_lobes.training.pretrained import load_pretrained
from dbtransform_lobes.versions import package_versions

# Where a link to this file stands, its recipe's prepare script stands too.
sys.path.insert(0, str(Path(__file__).absolute().parent))

logger = get_logger(__name__)


class EnhanceBrain(ResumableBrain):
    """Train a spectral enhancement model on noisy and clean waveforms.

    Validation and test use the moving average of the weights. Every rank does
    its share of the files, and all of them know the scores.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ema = weight_ema(self.modules.model, self.hparams.ema_decay)
        self.checkpointer.add_recoverable("ema", self.ema)
        self.metric_gan = self.adversary = None
        if getattr(self.hparams, "metric_weight", 0):
            self.metric_gan = self.hparams.metric_gan(device=self.device)
            self.metric_gan.add_to(self.checkpointer)
        self.loggers = []
        if distributed.if_main_process():
            self.loggers.append(self.hparams.train_logger)
            if self.hparams.use_tensorboard:
                self.loggers.append(self.hparams.tensorboard_logger())

    def compute_forward(self, batch, stage):
        """Return enhanced waveforms (B, L) and their spectrum, at unit RMS."""
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
        """Return the mean loss; keep terms and, off training, the scores."""
        gain = unit_rms_gain(batch.noisy.data)
        clean, (estimate, spec) = batch.clean.data * gain, predictions
        losses, terms = self.hparams.loss(clean, estimate, spec)
        if stage == sb.Stage.TRAIN and self.adversary is not None:
            terms["metric"] = self.adversary.generator_term(clean, estimate)
            losses = losses + self.adversary.weight * terms["metric"]
        if not self.are_finite(losses, batch.id, stage):
            return losses.mean() * math.nan  # the gradient of every rank
        self.terms.add(terms)
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
                self.scores.append(score(*pair, self.hparams.sample_rate))
            except ValueError as error:
                self.failed.append(f"{name}: {error}")

    def _write(self, batch, estimate):
        signals = {"clean": batch.clean.data, "enhanced": estimate}
        for part, waves in signals.items():
            folder, rate = self.test_folder / part, self.hparams.sample_rate
            # Clipping happens on writing, as in any player.
            for name, wave in zip(batch.id, waves.cpu().numpy(), strict=True):
                write_audio(folder / f"{name}.wav", wave.clip(-1, 1), rate)

    def on_fit_batch_start(self, batch, should_step):
        """Set the learning rate of the coming step."""
        super().on_fit_batch_start(batch, should_step)
        if should_step:
            self.hparams.lr_schedule(self.optimizer, self.optimizer_step + 1)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Average the weights; train the metric discriminator, if any."""
        self.heard += batch.noisy.data.numel()
        if should_step:
            self.ema.update_parameters(self.modules.model)
        if self.adversary is not None:
            clean = batch.clean.data * unit_rms_gain(batch.noisy.data)
            term = self.adversary.on_batch_end(clean, outputs[0], should_step)
            if term is not None:
                self.terms.add({"discriminator": term})
        super().on_fit_batch_end(batch, outputs, loss, should_step)

    def on_stage_start(self, stage, epoch=None):
        """Begin the scores and the clock of a stage."""
        super().on_stage_start(stage, epoch)
        self.scores, self.failed, gan = [], [], self.metric_gan
        if stage == sb.Stage.TRAIN:
            self.heard, self.started = 0, time.monotonic()
            if gan is not None and epoch >= gan.start_epoch:
                self.adversary = gan
        elif stage == sb.Stage.TEST:
            for part in ("clean", "enhanced"):  # of an earlier test
                given = [self.test_folder / part, True]
                distributed.run_on_main(shutil.rmtree, given)
            if gan is not None:
                gan.workers.close()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log a stage; after validation also save a checkpoint."""
        terms = self.terms.result().items()
        means = {"loss": float(stage_loss)}
        means |= {f"loss_{name}": mean for name, mean in terms}
        if stage == sb.Stage.TRAIN:
            self.train_stats = ranks.mean_over_ranks(means)
            seconds = time.monotonic() - self.started
            samples = sum(ranks.gather_lists([self.heard]))
            rate = samples / self.hparams.sample_rate / seconds
            self.train_stats["audio_s_per_s"] = rate
            if self.adversary is not None:
                self.train_stats.update(self.adversary.counts())
        elif stage == sb.Stage.VALID:
            # Every rank has its share of the files.
            weight = len(self.scores) + len(self.failed)
            stats = ranks.mean_over_ranks(means, weight)
            self._end_validation(stats, epoch)
        else:
            distributed.ddp_barrier()  # all files are written
            # The others wait: a rank that left would end them.
            distributed.run_on_main(self._end_test)

    def _end_validation(self, stats, epoch):
        scored = ranks.gather_lists(self.scores)
        failed = sorted(ranks.gather_lists(self.failed))
        if not scored:
            raise ValueError(
                f"no validation file could be scored, give more "
                f"valid_files: {'; '.join(failed)}"
            )
        if failed and distributed.if_main_process():
            logger.warning("not scored: %s", "; ".join(failed))
        for name in METRICS:
            stats[name] = fmean(scores[name] for scores in scored)
        stats["unscored_files"] = len(failed)
        hours = (time.monotonic() - self.started) / 3600
        epochs_left = self.hparams.number_of_epochs - epoch
        rate = float(self.optimizer.param_groups[0]["lr"])
        meta = {"epoch": epoch, "lr": rate, "hours_left": epochs_left * hours}
        self._log(meta, self.train_stats, stats)
        self.checkpointer.save_and_keep_only(
            meta={name: stats[name] for name in METRICS},
            max_keys=["pesq"],
        )

    @distributed.main_process_only  # so that the loggers wait for no other rank
    def _log(self, *stats):
        for log in self.loggers:
            log.log_stats(*stats)

    def _end_test(self):
        folder, jobs = self.test_folder, usable_cores()
        systems = {"enhanced": folder / "enhanced"}
        compare_systems(folder / "clean", systems, folder, jobs=jobs)
        _, means = read_means(folder / "scores.json")
        self.hparams.train_logger.log_stats(
            {"test": folder.name}, test_stats=means
        )


def training_loader(hparams, accumulation=1):
    """Return a loader of the training crops of this rank.

    An epoch has ``steps_per_epoch`` steps of ``batch_size`` crops on all ranks
    together, each in ``accumulation`` batches.
    """
    batch_size = ranks.rank_batch_size(hparams["batch_size"], accumulation)
    if hparams["recordings"]:  # mixed on the fly
        source = hparams["recordings_source"](hparams["recordings"])
    else:
        source = Pairs(
            hparams["train_annotation"],
            hparams["data_folder"],
            hparams["sample_rate"],
            hparams["snr_db"],
        )
    given = [hparams["output_folder"], getattr(source, "files", [])]
    distributed.run_on_main(run_folder.warn_of_other_files, given)
    crops = TrainingCrops(
        source,
        hparams["steps_per_epoch"] * hparams["batch_size"],
        hparams["crop_seconds"],
        hparams["seed"],
        hparams["level_dbfs"],
        hparams["sample_rate"],
    )
    return torch.utils.data.DataLoader(
        crops,
        batch_size,
        sampler=EpochSampler(len(crops), *ranks.rank_and_count()),
        collate_fn=sb.dataio.batch.PaddedBatch,
        **hparams["train_loader"],
    )


def whole_files(hparams, manifest, count=None):
    """Return this rank's share of the files of a manifest, read whole.

    The seed chooses ``count`` of them, None takes all.
    """
    entries = read_pairs(manifest, hparams["data_folder"])
    names = sorted(entries)
    if count is not None and count < len(names):
        names = sorted(random.Random(hparams["seed"]).sample(names, count))
    rank, size = ranks.rank_and_count()

    @sb.utils.data_pipeline.takes("noisy_wav", "clean_wav")
    @sb.utils.data_pipeline.provides("noisy", "clean")
    def read(*paths):
        for path in paths:
            signal = read_audio(path, sample_rate=hparams["sample_rate"])
            yield torch.from_numpy(signal).float()

    everything = sb.dataio.dataset.DynamicItemDataset(
        entries, [read], ["id", "noisy", "clean"]
    )
    # With more ranks than files some get none, which only this class allows.
    return sb.dataio.dataset.FilteredSortedDynamicItemDataset(
        everything, names[rank::size]
    )


def dataio_prep(hparams, accumulation=1):
    """Return a loader of training crops, validation files, and test sets.

    Test sets of this rank are a dict by the name of their manifest.
    """
    pattern = Path(hparams["test_annotation"])
    tests = sorted(pattern.parent.glob(pattern.name))
    if not tests:
        logger.warning("no test set: no %s", hparams["test_annotation"])
    steps = hparams["number_of_epochs"] * hparams["steps_per_epoch"]
    if steps < hparams["warmup_steps"]:
        logger.warning(
            "the %d steps of the run end within warmup_steps = %d, so the "
            "learning rate stays below lr; give fewer warmup_steps",
            steps,
            hparams["warmup_steps"],
        )
    tests = {path.stem: whole_files(hparams, path) for path in tests}
    valid, count = hparams["valid_annotation"], hparams["valid_files"]
    valid = whole_files(hparams, valid, count)
    return training_loader(hparams, accumulation), valid, tests


if __name__ == "__main__":
    with run_folder.errors_in_a_line():
        hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
        distributed.ddp_init_group(run_opts)
        settings.check_overrides(hparams_file, overrides)
        check_device(run_opts.get("device", "cpu"))
        with open(hparams_file, encoding="utf-8") as fin:
            hparams = load_hyperpyyaml(fin, overrides)
        settings.check_settings(hparams)
        run_folder.check_output(hparams)
        output = Path(hparams["output_folder"])
        given = [output, hparams_file, overrides, run_opts.get("debug", False)]
        distributed.run_on_main(run_folder.check_same_run, given)
        sb.create_experiment_directory(str(output), hparams_file, overrides)
        # env.log asks the pip on the PATH, maybe of another Python.
        versions = [output / "versions.json", package_versions()]
        distributed.run_on_main(write_json, versions)
        ranks.prepare_on_main(hparams["prepare"])
        if hparams["pretrained"]:
            load_pretrained(hparams)

        brain = EnhanceBrain(
            modules=hparams["modules"],
            opt_class=hparams["opt_class"],
            hparams=hparams,
            run_opts=run_opts,
            checkpointer=hparams["checkpointer"],
        )
        train, valid, tests = dataio_prep(
            hparams, brain.grad_accumulation_factor
        )
    brain.train_sampler = train.sampler
    # Whole files, one at a time: nothing is padded.
    brain.fit(hparams["epoch_counter"], train, valid)
    for name, files in tests.items():
        brain.test_folder = output / name
        brain.evaluate(files, max_key="pesq")
