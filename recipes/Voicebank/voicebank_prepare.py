"""Data preparation of the VoiceBank-DEMAND recipe.

There are no transcripts, no lexicon and no download: get the four archives
from https://datashare.ed.ac.uk/handle/10283/2791, unpack them into one folder,
and pass it as ``data_folder``.
"""

from dbtransform_lobes.data.voicebank import prepare_voicebank, prepared_root

__all__ = ["prepare_voicebank", "prepared_root"]
