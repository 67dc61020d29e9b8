"""Checkpoints that a killed process cannot leave half written."""

import os
import shutil

from speechbrain.utils.checkpoints import CKPT_PREFIX, METAFNAME, Checkpointer
from speechbrain.utils.distributed import ddp_barrier, main_process_only


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, with the file that marks a checkpoint last.

    The stock class writes CKPT.yaml first, so that a run killed while saving
    finds a broken checkpoint and cannot resume.

    Example
    -------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     saver = AtomicCheckpointer(folder, {"model": torch.nn.Linear(1, 1)})
    ...     sorted(os.listdir(saver.save_checkpoint().path))
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
        ddp_barrier()  # no rank looks for checkpoints before it counts
        return saved

    @main_process_only
    def delete_checkpoints(self, **kwargs):
        """Delete on the main process what is neither best, newest nor whole.

        In the stock method ranks whose lists differ would wait for ever.
        """
        super().delete_checkpoints(**kwargs)
        for folder in self.checkpoints_dir.glob(f"{CKPT_PREFIX}*"):
            if not (folder / METAFNAME).exists():
                shutil.rmtree(folder)
