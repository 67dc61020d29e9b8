"""Means with confidence intervals."""

CONFIDENCE = 0.95
INTERVAL = (
    f"{100 * CONFIDENCE:g} % Student t interval of the mean over files, which "
    "are taken as independent"
)


def intervals(table):
    """Return the mean of every column and its 95 % confidence interval.

    That is mean +- t s / sqrt(n), with the 97.5 % quantile t of Student's
    distribution of n - 1 degrees of freedom (Student, "The probable error of
    a mean", Biometrika 6(1), 1908): of differences of two systems on the same
    files, that of the paired t-test.

    The table, of pandas, has a row for each file and a column for each
    metric; returned are by column ``mean``, ``low`` and ``high`` as floats.
    The limits are None for one row, all three for none.

    Example
    -------
    >>> import pandas as pd
    >>> estimate = intervals(pd.DataFrame({"pesq": [1.0, 2.0, 3.0]}))["pesq"]
    >>> assert abs(estimate["high"] - 4.4841) < 1e-4
    """
    import pandas as pd
    from scipy.stats import t as student_t

    table = table.astype(float)
    mean, count = table.mean(), table.count()
    half = student_t.ppf((1 + CONFIDENCE) / 2, count - 1) * table.sem()
    limits = {"mean": mean, "low": mean - half, "high": mean + half}
    return without_nan(pd.DataFrame(limits)).to_dict("index")


def without_nan(table):
    """Return a table with None in place of NaN, as JSON needs it."""
    return table.astype(object).where(table.notna(), None)
