"""How much of the enhancement is heard.

    blend = noisy + wet (enhanced - noisy),    0 <= wet <= 1:

what the model leaves as it is keeps its level, and what it removes is left at
1 - wet of its amplitude. A limit of A dB therefore is 1 - wet = 10^(-A / 20).
"""

import math
from numbers import Real


def wet_share(strength=1.0, attenuation_limit_db=None):
    """Return the share of the enhanced signal, the smaller of both demands.

    The limit is what noise is reduced by at most, in dB, None for none.
    ValueError if the strength is not in 0 to 1 or the limit is negative.

    Example
    -------
    >>> wet_share(0.5), wet_share(1.0, attenuation_limit_db=20.0)
    (0.5, 0.9)
    """
    if not isinstance(strength, Real) or not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {strength}, expected 0 (the noisy signal) to 1"
        )
    if attenuation_limit_db is None:
        return float(strength)
    limit = attenuation_limit_db
    if not isinstance(limit, Real) or math.isnan(limit) or limit < 0:
        raise ValueError(
            f"attenuation_limit_db is {limit}, expected 0 or more decibels"
        )
    return min(float(strength), 1 - 10 ** (-limit / 20))


def blend(noisy, enhanced, wet):
    """Blend two arrays or tensors of one shape; exact at both ends."""
    return enhanced if wet == 1 else noisy + wet * (enhanced - noisy)
