"""The kernels compiled to machine code for Ampere and Hopper, which needs Triton but no GPU.

The interpreter accepts what the compiler does not (types of branches, layouts, casts that a generation lacks), so both
are asked. Blocks are smaller than in use: compiling time grows with them, what can go wrong does not.
"""

import os

import pytest

pytest.importorskip("triton", reason="Triton is not installed; PyTorch's CUDA builds bring it")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nanochat_core.kernels import heads, quantize, quantized, relu_square, softcap_loss

AMPERE, HOPPER = 80, 90
HEADS = dict.fromkeys(["qkv", "added", "cos", "sin", "q", "k", "v", "grad_q", "grad_k", "grad_v", "out"], "*bf16")
HEADS |= {"inverses": "*fp32", "gain_q": "fp32", "gain_k": "fp32", "eps": "fp32"}
BLOCKS = {"HALF": 16, "HALVES": 16, "HEADS": 4}
CAST = {"x": "*bf16", "gate": "*bf16", "scale": "*fp32", "amax": "*fp32", "saturated": "*i32"}
TILES = {"LIMIT": 448.0, "ROWS": 32, "COLUMNS": 32}
LOSS = {"logits": "*bf16", "targets": "*i64", "losses": "*fp32"}
KERNELS = {
    "loss": (softcap_loss._softcap_rows, LOSS, {"CAP": 15.0, "BLOCK": 512, "BLOCKS": 3, "KEEP_GRADIENT": True}, AMPERE),
    "square": (relu_square._square, {"x": "*bf16", "out": "*bf16"}, {"SIZE": 512}, AMPERE),
    "square backward": (
        relu_square._square_backward,
        {"grad": "*bf16", "x": "*bf16", "out": "*bf16"},
        {"SIZE": 512},
        AMPERE,
    ),
    "split": (heads._split, HEADS, {**BLOCKS, "HAS_ADDED": True}, AMPERE),
    "join": (heads._join, HEADS, BLOCKS, AMPERE),
    "largest": (quantize._largest, {"x": "*bf16", "out": "*fp32"}, {"SIZE": 512}, AMPERE),
    "cast": (
        quantize._cast_tiles,
        CAST | dict.fromkeys(("values", "transposed"), "*fp8e4nv"),
        {**TILES, "SOURCE": quantized.RELU_SQUARE},
        HOPPER,
    ),
    "cast of a gradient": (
        quantize._cast_tiles,
        CAST | dict.fromkeys(("values", "transposed"), "*fp8e5"),
        {**TILES, "SOURCE": quantized.RELU_SQUARE_BACKWARD},
        HOPPER,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_compiles_to_machine_code(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # a cached kernel of an earlier run would prove nothing
    kernel, types, constants, capability = KERNELS[name]
    signature = {arg: "constexpr" if arg in constants else types.get(arg, "i32") for arg in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(arg),): value for arg, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    assert compiled.asm["cubin"]
