"""What goes on beyond the edges of a signal."""

# An edge is mostly an offset if its mean is so many times its deviation.
OFFSET = 3


def edge_offset(samples):
    """Return the offset of the first or last samples of a signal, or 0.

    With zeros beyond it a large offset ends in a step, louder than speech, as
    in ONNX graphs that have the STFT inside. Maps floating point (B, n), of
    NumPy or torch, n > 0, to (B, 1): the mean where the samples are mostly an
    offset, else 0.

    Example
    -------
    >>> import numpy as np
    >>> edge_offset(np.array([[0.3, 0.3], [0.3, -0.2]]))
    array([[0.3],
           [0. ]])
    """
    mean = samples.mean(-1, keepdims=True)
    deviation = abs(samples - mean).mean(-1, keepdims=True)
    return mean * (abs(mean) > OFFSET * deviation)
