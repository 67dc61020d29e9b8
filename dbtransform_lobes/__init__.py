"""DB-Transform: a band-split speech enhancer for SpeechBrain.

One axis legend holds for the whole package: B batch, L samples, F frequency
bins, T frames, K bands, w_k bins of band k, C channels, H heads, d head
dimension. Importing the package imports nothing heavy, so that the command
line starts at once; take what you need from its subpackages.
"""

__version__ = "0.1.0"
