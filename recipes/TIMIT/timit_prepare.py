"""Data preparation of the TIMIT recipe.

There are no transcripts and no download: TIMIT is LDC93S1 of the Linguistic
Data Consortium, noises are any recordings, a folder for each type.
"""

from dbtransform_lobes.data.timit import prepare_timit

__all__ = ["prepare_timit"]
