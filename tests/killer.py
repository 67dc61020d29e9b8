"""A model that takes its process down."""

import os

from dbtransform_lobes.models.db_transform import DBTransform


class Killer(DBTransform):
    """Ends the process, as a lack of memory does, on more than 100 frames."""

    def forward(self, spec):
        """Map a complex spectrum (B, F, T) to one of that shape."""
        if spec.shape[-1] > 100:
            os._exit(9)
        return super().forward(spec)
