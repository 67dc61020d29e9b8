"""Options that several commands have, each written once."""

OPTIONS = {
    "--model": {
        "metavar": "MODEL",
        "help": "model folder written by `dbtransform export`, name of a "
        "model of the package or of the Hugging Face hub (owner/name), or a "
        "file of `dbtransform export-onnx` (default: one that comes with the "
        "package)",
    },
    "--backend": {
        "choices": ("onnx", "torch"),
        "help": "what computes: ONNX Runtime or PyTorch (default: onnx on the "
        "CPU for models that have a model.onnx, as those of the package)",
    },
    "--revision": {"help": "branch, tag or commit of a model of the hub"},
    "--trust-code": {
        "action": "store_true",
        "help": "let the hyperparams.yaml of the model name any Python "
        "object: it can run any code then",
    },
    "--device": {"default": "cpu", "help": "cpu, cuda or cuda:N (default cpu)"},
    "--precision": {
        "choices": ("fp32", "bf16"),
        "default": "fp32",
        "help": "of the arithmetic; bf16 is faster on GPUs and on CPUs with "
        "AVX512-BF16 or AMX, by PyTorch (default fp32)",
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
MOST = {"threads": 1024, "jobs": 1024, "channels": 32}
LOADING = ("--revision", "--trust-code", "--device")
CHOOSING = ("backend", "device", "precision")
ENHANCING = (
    *("--model", "--backend", *LOADING, "--precision", "--threads"),
    *("--strength", "--attenuation-limit"),
)


def add_options(parser, *names):
    """Add options of OPTIONS to a parser or a group of one."""
    for name in names:
        parser.add_argument(name, **OPTIONS[name])


def check_range(name, low, high, *values):
    """Refuse values of an option, None apart, that are not from low to high."""
    if not all(v is None or low <= v <= high for v in values):
        raise ValueError(
            f"--{name} is {', '.join(map(str, values))}, expected {low:g} to "
            f"{high:g}"
        )


def check_options(args):
    """Refuse values of ENHANCING that cannot be, before anything is loaded.

    Returns what ``load_enhancer`` gets of them. A model of the hub is
    downloaded, so that its path is among that.
    """
    from dbtransform_lobes.inference.backend import choose_backend
    from dbtransform_lobes.inference.bundled import find_source
    from dbtransform_lobes.inference.strength import wet_share

    for name, most in MOST.items():
        check_range(name, 1, most, getattr(args, name, None))
    wet_share(args.strength, args.attenuation_limit)
    chosen = {name: vars(args)[name] for name in CHOOSING}
    chosen["source"] = find_source(args.model, args.revision)
    chosen["backend"] = choose_backend(**chosen)
    return {**chosen, "trust_code": args.trust_code}
