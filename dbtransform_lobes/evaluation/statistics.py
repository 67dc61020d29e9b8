"""Means with confidence intervals."""

import math

from scipy.stats import t as student_t

CONFIDENCE = 0.95
INTERVAL = (
    f"{100 * CONFIDENCE:g} % Student t interval of the mean over files, which "
    "are taken as independent"
)


def mean_interval(values):
    """Return the mean of some values and its 95 % confidence interval.

    The interval is mean +- t s / sqrt(n), with the standard deviation s
    (n - 1 in the denominator) and the 97.5 % quantile t of Student's
    distribution of n - 1 degrees of freedom. Given differences of two
    systems on the same files, it is the interval of the paired t-test.

    Arguments
    ---------
    values : sequence of float
        One value a file.

    Returns
    -------
    estimate : dict
        ``mean``, ``low`` and ``high``; the limits are None for one value,
        all three for none.

    Example
    -------
    >>> mean_interval([1.0])
    {'mean': 1.0, 'low': None, 'high': None}
    >>> estimate = mean_interval([1.0, 2.0, 3.0])
    >>> assert abs(estimate["high"] - 4.4841) < 1e-4

    Reference: Student, "The probable error of a mean", Biometrika 6(1), 1908.
    """
    count = len(values)
    if count == 0:
        return {"mean": None, "low": None, "high": None}
    mean = math.fsum(values) / count
    if count == 1:
        return {"mean": mean, "low": None, "high": None}
    half = (
        float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1))
        * standard_deviation(values)
        / math.sqrt(count)
    )
    return {"mean": mean, "low": mean - half, "high": mean + half}


def standard_deviation(values):
    """Return the sample standard deviation (n - 1), None below two values.

    Example
    -------
    >>> standard_deviation([1.0, 3.0])
    1.4142135623730951
    """
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    squares = math.fsum((value - mean) ** 2 for value in values)
    return math.sqrt(squares / (len(values) - 1))
