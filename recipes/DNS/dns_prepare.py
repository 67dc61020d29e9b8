"""Data preparation of the DNS Challenge recipe.

There are no transcripts and no download: get the data with the scripts of
https://github.com/microsoft/DNS-Challenge and pass their folder as
``data_folder``.
"""

from dbtransform_lobes.data.dns import prepare_dns

__all__ = ["prepare_dns"]
