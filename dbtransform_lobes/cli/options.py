"""Options that several commands have, each written once."""

from pathlib import Path

OPTIONS = {
    "--model": {
        "metavar": "MODEL",
        "help": "model folder written by `dbtransform export`, name of a "
        "model of the package or of the Hugging Face hub (owner/name) "
        "(default: one that comes with the package)",
    },
    "--backend": {
        "choices": ("torch", "onnx"),
        "default": "torch",
        "help": "what computes: PyTorch or ONNX Runtime; --model is then a "
        "file of `dbtransform export-onnx`, for streams made with --streaming "
        "--stft outside (default torch)",
    },
    "--revision": {"help": "branch, tag or commit of a model of the hub"},
    "--trust-code": {
        "action": "store_true",
        "help": "let the hyperparams.yaml of the model name any Python "
        "object: it can run any code then",
    },
    "--device": {
        "default": "cpu",
        "help": "cpu, cuda or cuda:N (default cpu)",
    },
    "--threads": {
        "metavar": "N",
        "type": int,
        "help": "CPU threads of each process (default: all, shared; for a "
        "stream 1)",
    },
    "--jobs": {
        "metavar": "N",
        "type": int,
        "default": 1,
        "help": "number of processes (default 1)",
    },
    "--strength": {
        "metavar": "0..1",
        "type": float,
        "default": 1.0,
        "help": "0 leaves the noisy signal, 1 is the whole enhancement "
        "(default 1)",
    },
    "--attenuation-limit": {
        "metavar": "DB",
        "type": float,
        "help": "reduce noise by at most this many decibels; speech keeps its "
        "level (default: no limit)",
    },
    "--force": {"action": "store_true", "help": "replace what exists"},
}
LOADING = ("--revision", "--trust-code", "--device")
ENHANCING = (
    *("--model", "--backend", *LOADING, "--threads"),
    *("--strength", "--attenuation-limit"),
)


def add_options(parser, *names):
    """Add options of OPTIONS to a parser or a group of one."""
    for name in names:
        parser.add_argument(name, **OPTIONS[name])


def check_options(args):
    """Refuse values of ENHANCING that cannot be, before anything is loaded."""
    from dbtransform_lobes.inference.device import check_device
    from dbtransform_lobes.inference.source import resolve
    from dbtransform_lobes.inference.strength import wet_share

    for name in ("threads", "jobs", "channels"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}, expected at least 1")
    wet_share(args.strength, args.attenuation_limit)
    if args.backend == "onnx":
        _check_onnx(args.model, args.device)
        return
    resolve(args.model)
    check_device(args.device)


def _check_onnx(model, device):
    from dbtransform_lobes.inference.onnx_model import import_onnxruntime

    import_onnxruntime()
    if model is None or not Path(model).is_file():
        raise FileNotFoundError(
            f"--model is {model}, expected with --backend onnx a file that "
            "`dbtransform export-onnx` wrote"
        )
    if device != "cpu":
        raise ValueError(
            f"--device is {device}, but --backend onnx computes on the CPU: "
            "leave it out"
        )


def fetch_config(revision):
    """How a model of the hub is looked for."""
    from huggingface_hub import get_token
    from speechbrain.utils.fetching import FetchConfig

    return FetchConfig(revision=revision, token=get_token() is not None)


def model_options(args):
    """What ``EnhanceModel.from_hparams`` gets of the arguments."""
    if getattr(args, "backend", None) == "onnx":
        return {"onnx": args.model}
    return {
        "source": args.model,
        "run_opts": {"device": args.device},
        "trust_code": args.trust_code,
        "fetch_config": fetch_config(args.revision),
    }
