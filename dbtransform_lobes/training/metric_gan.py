"""Adversarial training against a learned PESQ.

Sources: MetricGAN (Fu et al., 2019, arXiv:1905.04874); CMGAN (Cao et al.,
2022, arXiv:2203.15149), eq. 5 and 6, with D the discriminator, Q = (PESQ - 1)
/ 3.5 the target, S and Y the clean and the estimated magnitudes:

  discriminator  mean (D(S, S) - 1)^2 + mean (D(S, Y) - Q)^2
  generator      mean (D(S, Y) - 1)^2
"""

from collections import Counter

import torch
from speechbrain.utils.distributed import is_distributed_initialized
from torch.nn.parallel import DistributedDataParallel

from dbtransform_lobes.evaluation.composite import SAMPLE_RATE
from dbtransform_lobes.models.band_split import compress
from dbtransform_lobes.models.metric_discriminator import MetricDiscriminator
from dbtransform_lobes.training.pesq_workers import PesqWorkers


class MetricGAN:
    """The discriminator, its optimizer and the workers that score for it.

    All of it runs in fp32. PESQ is computed beside the training, and an
    estimate is learned from in the first step at which it has its score; so
    runs of the same seed differ a little from one to the next. Ranks take the
    same steps whatever each has scored by then. ValueError if the weight is
    not above 0 or the sample rate not that of PESQ.

    Arguments
    ---------
    compute_stft : torch.nn.Module
        SpeechBrain's STFT, at 16 kHz.
    weight, lr : float
        Of the generator's term in the loss; of the discriminator, constant.
    start_epoch : int
        First epoch in which it is trained and used.
    exponent : float
        Compression of the magnitudes.
    num_channels : int
        See ``MetricDiscriminator``.
    num_workers : int
        Processes that compute PESQ, of each rank.
    device : str
        Where the discriminator is.

    Example
    -------
    >>> from speechbrain.processing.features import STFT
    >>> stft = STFT(sample_rate=16000, win_length=32, hop_length=8, n_fft=512)
    >>> gan = MetricGAN(stft, num_channels=2)
    >>> clean = torch.randn(2, 8000)
    >>> gan.generator_term(clean, clean + 0.1).shape
    torch.Size([2])
    """

    def __init__(
        self,
        compute_stft,
        weight=0.05,
        start_epoch=1,
        lr=1e-3,
        exponent=0.3,
        num_channels=16,
        num_workers=2,
        device="cpu",
    ):
        if weight <= 0:
            raise ValueError(
                f"metric_weight is {weight}, expected more than 0, or 0 to "
                f"have no discriminator"
            )
        if compute_stft.sample_rate != SAMPLE_RATE:
            raise ValueError(
                f"sample_rate is {compute_stft.sample_rate} Hz, expected "
                f"{SAMPLE_RATE} Hz, for which PESQ is defined; set "
                f"metric_weight to 0"
            )
        self.compute_stft, self.exponent = compute_stft, exponent
        self.weight, self.start_epoch = weight, start_epoch
        self.discriminator = MetricDiscriminator(num_channels).to(device)
        self.parallel = self.discriminator
        if is_distributed_initialized():
            self.parallel = DistributedDataParallel(self.discriminator)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=lr
        )
        self.workers = PesqWorkers(num_workers)

    def add_to(self, checkpointer):
        """Have the discriminator and its optimizer saved and recovered."""
        checkpointer.add_recoverable("discriminator", self.discriminator)
        checkpointer.add_recoverable("metric_optimizer", self.optimizer)

    def magnitude(self, wave):
        """Return compressed magnitudes (B, T, F) of waveforms (B, L), fp32."""
        with torch.autocast(wave.device.type, enabled=False):
            spec = compress(self.compute_stft(wave.float()), self.exponent)
            return (spec.square().sum(-1) + 1e-12).sqrt()

    def generator_term(self, clean, estimate):
        """Return the loss of the generator, (D(S, Y) - 1)^2: (B, L) to (B,).

        The gradient goes to the estimate and not to the discriminator.
        """
        discriminator = self.discriminator.requires_grad_(False).eval()
        with torch.autocast(clean.device.type, enabled=False):
            score = discriminator(
                self.magnitude(clean), self.magnitude(estimate)
            )
        return (score - 1).square()

    def on_batch_end(self, clean, estimate, should_step):
        """Have waveforms (B, L) scored; at a step learn from those scored.

        ``should_step`` is False for all but the last of accumulated batches.
        It returns the loss of the discriminator, None if it has not learned.
        """
        self.workers.submit(clean, estimate)
        return self.step(clean, self.workers.ready()) if should_step else None

    def counts(self):
        """Count items scored, failed and skipped since the last call."""
        counts, self.workers.counts = self.workers.counts, Counter()
        kinds = ("scored", "failed", "skipped")
        return {f"pesq_{kind}": counts[kind] for kind in kinds}

    def step(self, clean, items):
        """Train the discriminator for one step; return its loss, detached.

        A pair of each waveform of ``clean`` (B, L) with itself has the target
        1. ``items`` are those of ``PesqWorkers.ready``; without any, nothing
        is learned and None returned, but other ranks are kept company.
        """
        refs, estimates, targets = [clean], [clean], [torch.ones(len(clean))]
        for reference, estimate, target in items:
            refs.append(reference[None].to(clean.device))
            estimates.append(estimate[None].to(clean.device))
            targets.append(torch.tensor([target]))
        self.discriminator.requires_grad_(True).train()
        scores = self.parallel(
            self.magnitude(torch.cat(refs)),
            self.magnitude(torch.cat(estimates)),
        )
        error = (scores - torch.cat(targets).to(scores)).square()
        loss = error[: len(clean)].mean()
        # Clean pairs alone would teach it to say 1 to everything, and its
        # sigmoid would have no gradient left when scores come.
        loss = loss + error[len(clean) :].mean() if items else 0 * loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach() if items else None
