"""The kernels compiled to machine code for Hopper and Blackwell at the sizes of use, which needs Triton but no GPU.

The interpreter accepts what the compiler does not (types of branches, layouts, casts that a generation lacks), so both
are asked. What comes out may use a bounded number of registers and nothing of the stack: a kernel that spills is slow.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed; PyTorch's CUDA builds bring it")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nanochat_core.kernels import heads, quantize, quantized, relu_square, softcap_loss

GENERATIONS = {"sm_90": 90, "sm_100": 100}
MAX_REGISTERS = 96
UNALIGNED = ("scale", "amax", "saturated", "n_head", "n_kv_head")  # slices of a vector; 12 heads
PROGRAMS = Path(triton.__file__).parent / "backends/nvidia/bin"
HEADS = dict.fromkeys(["qkv", "added", "cos", "sin", "q", "k", "v", "grad_q", "grad_k", "grad_v", "out"], "*bf16")
HEADS |= {"inverses": "*fp32", "gain_q": "fp32", "gain_k": "fp32", "eps": "fp32"}
BLOCKS = {"HALF": 64, "HALVES": 64, "HEADS": 32}  # 12 heads and as many of keys, 128 wide
CAST = {"x": "*bf16", "gate": "*bf16", "scale": "*fp32", "amax": "*fp32", "saturated": "*i32"}
TILES = {"ROWS": 64, "COLUMNS": 64}
LOSS = {"logits": "*bf16", "targets": "*i64", "losses": "*fp32"}
SQUARE = {"grad": "*bf16", "x": "*bf16", "out": "*bf16"}
KERNELS = {  # kernel, types of its arguments, constants, warps
    "loss": (softcap_loss._softcap_rows, LOSS, {"CAP": 15.0, "BLOCK": 4096, "BLOCKS": 8, "KEEP_GRADIENT": True}, 8),
    "square": (relu_square._square, SQUARE, {"SIZE": 2048}, 4),
    "square backward": (relu_square._square_backward, SQUARE, {"SIZE": 2048}, 4),
    "split": (heads._split, HEADS, {**BLOCKS, "HAS_ADDED": True}, 4),
    "join": (heads._join, HEADS, BLOCKS, 4),
    "largest": (quantize._largest, {"x": "*bf16", "out": "*fp32"}, {"SIZE": 8192}, 8),
    "cast": (
        quantize._cast_tiles,
        CAST | dict.fromkeys(("values", "transposed"), "*fp8e4nv"),
        {**TILES, "LIMIT": 448.0, "SOURCE": quantized.RELU_SQUARE},
        8,
    ),
    "cast of a gradient": (
        quantize._cast_tiles,
        CAST | dict.fromkeys(("values", "transposed"), "*fp8e5"),
        {**TILES, "LIMIT": 57344.0, "SOURCE": quantized.RELU_SQUARE_BACKWARD},
        8,
    ),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_compiles_to_machine_code_that_spills_nothing(name, generation, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # a cached kernel of an earlier run would prove nothing
    kernel, types, constants, warps = KERNELS[name]
    signature = {arg: "constexpr" if arg in constants else types.get(arg, "i32") for arg in kernel.arg_names}
    constexprs = {(kernel.arg_names.index(arg),): value for arg, value in constants.items()}
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, arg in enumerate(kernel.arg_names)
        if arg not in (*constants, *UNALIGNED) and (signature[arg].startswith("*") or signature[arg] == "i32")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    target = GPUTarget("cuda", GENERATIONS[generation], 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    command = [PROGRAMS / "cuobjdump", "-res-usage", tmp_path / "kernel.cubin"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    registers, stack, local = map(int, re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage).groups())
    assert registers <= MAX_REGISTERS
    assert (stack, local) == (0, 0)
    command = [PROGRAMS / "cuobjdump", "-sass", tmp_path / "kernel.cubin"]
    code = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "EXIT" in code
    assert "MEMBAR" not in code, "a memory fence for every tile"
