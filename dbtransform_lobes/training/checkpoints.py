"""Checkpoints that a killed process cannot leave half written."""

import os

from speechbrain.utils.checkpoints import Checkpointer


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, with the file that marks a checkpoint last.

    The stock class writes CKPT.yaml first, so that a run killed while saving
    finds a broken checkpoint and cannot resume. See Checkpointer for the
    arguments.

    Example
    -------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpointer = AtomicCheckpointer(
    ...         folder, {"model": torch.nn.Linear(1, 1)}
    ...     )
    ...     saved = checkpointer.save_checkpoint()
    ...     sorted(os.listdir(saved.path))
    ['CKPT.yaml', 'model.ckpt']
    """

    def _save_checkpoint_metafile(self, fpath, *args, **kwargs):
        self._meta_path = fpath
        part = fpath.with_suffix(".part")
        return super()._save_checkpoint_metafile(part, *args, **kwargs)

    def save_checkpoint(self, *args, **kwargs):
        """Save a checkpoint; it counts once every file is written."""
        saved = super().save_checkpoint(*args, **kwargs)
        if saved is not None:  # the main process
            part = self._meta_path.with_suffix(".part")
            os.replace(part, self._meta_path)
        return saved
