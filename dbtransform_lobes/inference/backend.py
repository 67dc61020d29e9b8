"""What computes: PyTorch or ONNX Runtime, and on which device."""

import importlib.util
import math
import os
from pathlib import Path

from dbtransform_lobes.inference.bundled import (
    GRAPH,
    check_folder,
    find_onnx,
    find_source,
)

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, "max" or two numbers


def choose_backend(source=None, device="cpu", backend=None, precision="fp32"):
    """Return what computes a model, "onnx" or "torch", and check that it can.

    If it is not given, that is ONNX Runtime where the model has a graph: it
    starts in a fraction of the time and takes a third of the memory. PyTorch
    for others, for GPUs and for bf16. ValueError if it is not installed or
    lacks the device or the precision. The source is as of ``load_enhancer``.
    """
    source = find_source(source)
    if backend is None:
        graph = os.path.isfile(os.path.join(source, GRAPH))
        graph = graph and importlib.util.find_spec("onnxruntime") is not None
        light = graph and device == "cpu" and precision == "fp32"
        backend = "onnx" if light or os.path.isfile(source) else "torch"
    if backend != "onnx":
        check_folder(source)
        if importlib.util.find_spec("torch") is None:
            raise ValueError(
                "this needs PyTorch, which is not installed: pip install "
                "dbtransform, or give a model that has a graph (model.onnx, "
                "`dbtransform export-onnx`)"
            )
        check_device(device)
        return backend
    from dbtransform_lobes.inference.onnx_model import import_onnxruntime

    import_onnxruntime()
    find_onnx(source)
    for name, given in (("device", device), ("precision", precision)):
        if given not in ("cpu", "fp32"):
            raise ValueError(
                f"the {name} is {given}, but --backend onnx computes on the "
                "CPU in fp32: leave it out"
            )
    return backend


def check_device(device):
    """Refuse a device, such as "cuda:1", that is not there by a ValueError."""
    import torch

    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:
        # What is raised depends on the kind of device and the build.
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"the device {device!r} cannot be used ({reason}), expected one "
            f"of this machine: cpu, or one of {torch.cuda.device_count()} "
            "GPUs, cuda:N"
        ) from error


def usable_cores():
    """Return how many cores this process may use.

    By its affinity, as under Slurm or taskset, and by the quota of its cgroup.
    More threads than that wait for each other, ten times as slow.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, QUOTA.read_text().split())
        cores = min(cores, math.ceil(quota / period))
    except (OSError, ValueError):
        pass  # there is none
    return cores


def load_enhancer(
    source=None,
    backend=None,
    device="cpu",
    threads=None,
    trust_code=False,
    precision="fp32",
):
    """Load a model; return an ``Enhancer``.

    The source is a model folder, a graph file, or the name of a model of the
    package or of the hub. ``backend``, ``device`` ("cpu", "cuda:1") and
    ``precision`` ("fp32", "bf16") are passed to ``choose_backend``;
    ``threads`` limits the CPU threads; ``trust_code`` is that of
    ``EnhanceModel.from_hparams``. FileNotFoundError or ValueError if the model
    cannot be loaded.

    Example
    -------
    >>> load_enhancer("db_transform_streaming", threads=1).causal
    True
    """
    source = find_source(source)
    if choose_backend(source, device, backend, precision) == "onnx":
        from dbtransform_lobes.inference.onnx_model import OnnxEnhancer

        return OnnxEnhancer(source, threads)
    import torch

    from dbtransform_lobes.inference.enhance_model import EnhanceModel

    if threads is not None:
        torch.set_num_threads(threads)
    options = {"device": device, "precision": precision}
    return EnhanceModel.from_hparams(
        source, trust_code=trust_code, run_opts=options
    )
