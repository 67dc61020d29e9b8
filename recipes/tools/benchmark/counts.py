"""Parameters and multiply-accumulate operations of a model."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from dbtransform_lobes.models.db_transform import DBTransform

COUNTED_SECONDS = 30.0


def components(model):
    """Return the parts of a model by name, as lists of names of submodules."""
    if not isinstance(model, DBTransform):
        children = model.named_children()
        return {name: list(_called(name, child)) for name, child in children}
    whole = isinstance(model.detrend, nn.Identity)
    parts = {} if whole else {"detrend": ["detrend"]}
    parts["band_split"] = ["band_split"]
    for number, name in enumerate(model.block_names * model.num_layers):
        parts.setdefault(name, []).append(f"blocks.{number}")
    return {**parts, "mask_decoder": ["mask_decoder"]}


def _called(name, module):
    """Yield names of modules that are called; lists of them are not."""
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        yield name
        return
    for key, child in module.named_children():
        yield from _called(f"{name}.{key}", child)


def _by_part(model, total, count):
    """Return a total and, by name, the counts of the parts of a model."""
    parts = components(model).items()
    return {"total": total} | {n: sum(map(count, each)) for n, each in parts}


def count_parameters(model):
    """Return the number of parameters: ``total``, then ``components``."""

    def size(name):
        weights = model.get_submodule(name).parameters()
        return sum(weight.numel() for weight in weights)

    return _by_part(model, size(""), size)


def count_macs(model, function):
    """Count multiply-accumulates while a function runs the model.

    They are those of products and convolutions as executed: with the masked
    part of attention and with padding, without Fourier transforms, norms and
    elementwise functions. Returned are ``total``, then the ``components``.
    """
    aten = torch.ops.aten
    formulas = {  # of the CPU, which torch lacks
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten.mkldnn_rnn_layer: _recurrent_layer,
    }
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    # The fused nn.MultiheadAttention of inference has no formula either.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # Whole signals: only then every part is called as a module.
    in_chunks = getattr(model, "in_chunks", False)
    model.in_chunks = False
    try:
        with torch.no_grad(), counter:
            function()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        model.in_chunks = in_chunks
    flops = counter.get_flop_counts()

    def macs(part):
        name = f"{type(model).__name__}.{part}"
        return sum(flops.get(name, {}).values()) // 2

    return _by_part(model, sum(flops["Global"].values()) // 2, macs)


def macs_per_second(candidate, length):
    """Return ``count_macs`` for each second of a signal of a length in s.

    With full attention the cost of a second depends on the length; that of a
    model that cuts its input does not, so it is counted at most over 30 s.
    """
    if getattr(candidate.model, "in_chunks", False):
        length = min(length, COUNTED_SECONDS)
    noisy = candidate.noise(length)
    macs = count_macs(candidate.model, lambda: candidate.enhance(noisy))
    return {part: count / length for part, count in macs.items()}


def _attention(query, key, value, *args, out_shape=None, **kwargs):
    """Return the flops of scaled_dot_product_attention on the CPU."""
    return sdpa_flop_count(query, key, value)


def _recurrent_layer(x, weight_x, weight_h, *args, out_shape=None, **kwargs):
    """Return the flops of one direction of an LSTM layer on the CPU."""
    return 2 * x[0] * x[1] * weight_x[0] * (weight_x[1] + weight_h[1])
