"""A decoder's step as one call of compiled code: what native_step.c is told of a model and of its cache.

It reads and writes the tensors of the decoder where they are, so a step may be this or the decoder's own operations,
whichever fits the number of rows, and the next one the other.
"""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanochat_core.inference.native import BlockedMatrix, Pointer, Whole, library
from nanochat_core.inference.packed import Product
from nanochat_core.inference.threads import threads_for
from nanochat_core.model.shape import MLP_RATIO
from nanochat_core.model.stream import RMS_EPS

if TYPE_CHECKING:
    from nanochat_core.inference.decoder import Decoder

# N rows of a call, V vocabulary
Real = ctypes.c_float
# Measured at widths 256 to 768 on a CPU with AVX512 and AMX: above, packed bf16 products are faster, and in fp32 even.
NATIVE_ROWS = 8


class Layer(ctypes.Structure):
    _fields_ = [
        *((name, Pointer) for name in ("qkv", "attn_proj", "fc", "mlp_proj", "table", "keys", "values")),
        ("num_places", Whole),
        *((name, Real) for name in ("residual", "skip")),
    ]  # fmt: skip


class Model(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(Layer)),
        *((name, Pointer) for name in ("head", "embed", "smear_gate", "rotations", "last_embedding", "positions")),
        *((name, Whole) for name in ("n_layer", "n_embd", "n_head", "n_kv_head", "head_dim")),
        *((name, Whole) for name in ("num_hidden", "vocab_size", "is_half")),
        *((name, Real) for name in ("scale", "eps", "smear", "backout", "gate_scale", "softcap")),
    ]  # fmt: skip


class NativeStep:
    """The compiled step of one decoder, whose tensors it holds on to: after a `shrink` make another."""

    def __init__(self, decoder: "Decoder") -> None:
        model, cache, self._decoder = decoder.model, decoder.cache, decoder
        config, weights = model.config, decoder.weights
        self._blocked = [[_blocked(product) for product in layer.all] for layer in weights.layers]
        self._head = _blocked(weights.head)
        self._scratch = torch.empty(0)
        self._most_places = max(cache.sizes)
        skip: list[float] = model.skip_weights.tolist()
        self._layers = (Layer * config.n_layer)()
        for number, (layer, matrices) in enumerate(zip(self._layers, self._blocked, strict=True)):
            layer.qkv, layer.attn_proj, layer.fc, layer.mlp_proj = (each.weight.data_ptr() for each in matrices)
            layer.table = decoder.tables[number].data_ptr() if number in decoder.tables else None
            layer.keys, layer.values = cache.keys[number].data_ptr(), cache.values[number].data_ptr()
            layer.num_places, layer.residual, layer.skip = cache.sizes[number], decoder.residual[number], skip[number]
        self._model = Model(
            layers=self._layers, head=self._head.weight.data_ptr(), embed=model.embed.weight.data_ptr(),
            smear_gate=decoder.smear_gate.data_ptr(), rotations=decoder.rotations.data_ptr(),
            last_embedding=cache.last_embedding.data_ptr(), positions=cache.positions.data_ptr(),
            n_layer=config.n_layer, n_embd=config.n_embd, n_head=config.n_head, n_kv_head=config.n_kv_head,
            head_dim=config.head_dim, num_hidden=MLP_RATIO * config.n_embd, vocab_size=config.vocab_size,
            is_half=self._head.weight.dtype == torch.float16, scale=decoder.scale, eps=RMS_EPS, smear=decoder.smear,
            backout=decoder.backout, gate_scale=config.value_gate_scale, softcap=config.softcap,
        )  # fmt: skip
        matrices = [self._head, *(each for layer in self._blocked for each in layer)]
        self._num_bytes = sum(matrix.weight.nbytes for matrix in matrices)

    @staticmethod
    def fits(decoder: "Decoder") -> bool:
        """Whether there is compiled code for this machine, and for weights of this kind."""
        tables = (decoder.model.embed.weight, *decoder.tables.values())
        return (
            decoder.weights.has_blocks
            and all(table.dtype == torch.float32 and table.device.type == "cpu" for table in tables)
            and library() is not None
        )

    def __call__(self, rows: Sequence[int], ids: Tensor) -> Tensor:
        """Feed ids (N,) to N rows, which on the device have one token more then; fp32 logits (N, V)."""
        found, num_rows = library(), len(rows)
        assert found is not None
        model = ctypes.byref(self._model)
        needed = found.scratch_floats(model, num_rows, self._most_places)
        if self._scratch.numel() < needed:
            self._scratch = torch.empty(needed)
        logits = torch.empty(num_rows, self._model.vocab_size)
        found.step(
            model, num_rows, (Whole * num_rows)(*rows), ids.data_ptr(), logits.data_ptr(), self._scratch.data_ptr(),
            self._most_places, threads_for(self._num_bytes),
        )  # fmt: skip
        return logits


def _blocked(product: Product) -> BlockedMatrix:
    assert product.blocked is not None  # `fits` has looked
    return product.blocked
