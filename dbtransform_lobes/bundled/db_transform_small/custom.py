"""What SpeechBrain's foreign_class makes of this folder.

It needs the package: pip install dbtransform
"""

from dbtransform_lobes.inference import EnhanceModel  # noqa: F401
