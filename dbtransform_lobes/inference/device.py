"""The device that a model is to run on."""


def check_device(device):
    """Refuse a device that this machine or this torch does not have.

    Arguments
    ---------
    device : str
        Such as "cpu", "cuda", "cuda:1" or "mps".

    Raises
    ------
    ValueError
        With the reason that torch gives.

    Example
    -------
    >>> check_device("cpu")
    """
    import torch

    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        # What is raised depends on the kind of device and the build.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"the device {device!r} cannot be used ({reason}), expected one "
            f"of this machine: cpu, or one of {torch.cuda.device_count()} "
            "GPUs, cuda:N"
        ) from error
