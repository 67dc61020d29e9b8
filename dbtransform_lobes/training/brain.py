"""A Brain whose runs go on exactly where they stopped."""

import math

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.logger import get_logger

from dbtransform_lobes.training.ranks import gather_lists, rank_and_count

logger = get_logger(__name__)


class ResumableBrain(sb.Brain):
    """Resume amid an epoch, and leave out batches of a loss not finite.

    A run that was stopped goes on with the next step, from the same data. A
    batch of a loss or gradient that is not finite makes no step; more than
    ``nonfinite_patience`` of them in an epoch stop the run, which goes on
    after them. The means of what is added to ``terms`` are of a whole epoch
    also after an interruption.

    It needs a checkpointer, the hparams ``seed``, ``epoch_counter``,
    ``steps_per_epoch`` and ``batch_size`` (the crops of a step on all ranks),
    and before ``fit`` as ``train_sampler`` the ``EpochSampler`` of the training
    data. ValueError if gradients would be clipped wrongly, or a run has to
    stop.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.max_grad_norm > 0:
            raise ValueError(
                f"max_grad_norm is {self.max_grad_norm}, expected a number "
                "above 0 (a negative one turns gradients around); give 1e9 "
                "for no clipping"
            )
        if self.remove_vector_weight_decay:
            raise ValueError(
                "remove_vector_weight_decay is set, but SpeechBrain clips the "
                "first of its two groups of weights alone; leave it out"
            )
        self.bad_losses, self.train_sampler = 0, None
        self.terms = _RunningMeans()
        self.checkpointer.add_recoverable(
            "terms", self.terms, optional_load=True
        )

    def on_fit_start(self):
        """Compile, wrap and resume; find the place in a broken epoch.

        The steps done say where it is; one that was not complete is done again.
        """
        super().on_fit_start()
        if self.step == 0:  # a new run, or the end of an epoch
            return
        finished = self.hparams.epoch_counter.current
        # Other steps_per_epoch are refused by ``check_same_run``.
        done = self.optimizer_step - finished * self.hparams.steps_per_epoch
        self.step = done * self.grad_accumulation_factor
        self.train_sampler.skip(done * self.hparams.batch_size)

    def on_stage_start(self, stage, epoch=None):
        """Begin the means of a stage; a broken epoch goes on with its own."""
        if stage != sb.Stage.TRAIN or self.step == 0:
            self.terms.clear()
        self.bad_losses = 0

    def on_fit_batch_start(self, batch, should_step):
        """Seed dropout by the step, so that it is the same when resumed."""
        place = self.optimizer_step, self.step, *rank_and_count()
        torch.manual_seed(hash((self.hparams.seed, *place)))

    def are_finite(self, losses, names, stage):
        """Tell whether losses (B,) are finite; name the files that have not.

        Off training these are a ValueError.
        """
        finite = torch.isfinite(losses).tolist()
        bad = [name for name, ok in zip(names, finite, strict=True) if not ok]
        if bad and stage != sb.Stage.TRAIN:
            raise ValueError(
                f"the loss is not finite for {bad}: check these files "
                "for NaN; the last checkpoint is intact"
            )
        if bad:
            logger.warning(
                "the loss is not finite for %s, so there is no step: check "
                "these files for NaN or lower the learning rate; after more "
                "than nonfinite_patience such batches the run stops",
                bad,
            )
        return not bad

    def check_loss_isfinite(self, loss):
        """Note a bad loss; all ranks count it together, at their step."""
        self.bad_losses += int(not torch.isfinite(loss))

    def optimizers_step(self):
        """Make a step, unless a gradient is not finite."""
        parameters = self.modules.parameters()
        # No clipping: the norm, which is the same on every rank.
        norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf)
        if not torch.isfinite(norm):
            # The scaler tries other scales, with infinite gradients by design.
            bad = self.bad_losses or not self.scaler.is_enabled()
            self.nonfinite_count += any(gather_lists([bad]))
        self.bad_losses = 0
        if self.scaler.is_enabled() or torch.isfinite(norm):
            super().optimizers_step()
        else:
            self.optimizer.zero_grad(set_to_none=True)
            self.optimizer_step += 1  # which says where the data is

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """Stop after too many bad batches."""
        if should_step and self.nonfinite_count > self.nonfinite_patience:
            self._save_intra_epoch_ckpt()  # its place is past them
            raise ValueError(
                "the loss or its gradient was not finite for "
                f"{self.nonfinite_count} batches of this epoch, expected at "
                f"most {self.nonfinite_patience} (nonfinite_patience): check "
                "the files named above, if any, and new blocks and losses; the "
                "same command goes on after them"
            )


@register_checkpoint_hooks
class _RunningMeans:
    """Average numbers by name; a checkpoint holds what has been added."""

    def __init__(self):
        self.clear()

    def clear(self):
        """Begin anew."""
        self.sums, self.counts = {}, {}

    def add(self, numbers):
        """Add a tensor of one number, or several with equal weight, by name."""
        for name, number in numbers.items():
            total = self.sums.get(name, 0.0)
            self.sums[name] = total + number.detach().mean()
            self.counts[name] = self.counts.get(name, 0) + 1

    def result(self):
        """Return the means, a dict of float."""
        return {
            name: float(total) / self.counts[name]
            for name, total in self.sums.items()
        }

    @mark_as_saver
    def _save(self, path):
        sums = {name: float(total) for name, total in self.sums.items()}
        torch.save((sums, self.counts), path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.sums, self.counts = torch.load(path, weights_only=True)
