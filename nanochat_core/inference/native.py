"""Decoding in C (native_step.c, native_draw.c): compiled for this processor when first needed, and then kept.

With a compiler, tokens of few rows come from one call that holds no interpreter lock; without one, or where the
compiled step does not compute what the model does (admission.py), from decoder.py's operations. This compiles in a
second, once; torch.compile takes half a minute in each process, and on a CPU its steps were no faster than operations.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from nanochat_core.base.hardware import cpu_flags
from nanochat_core.inference.threads import threads_for

CLOSURE_FILES = ("native_step.c", "native_draw.c", "native_vector.h")
FOLDER = Path(__file__).parent
# no -ffast-math: it lets NaN pass for a number, and a library linked with it changes the rounding of the whole process
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
COMPILE_S = 60.0
WIDE = 16  # outputs of a block, as in the source
Pointer, Whole = ctypes.c_void_p, ctypes.c_int64

log = logging.getLogger(__name__)

# N rows of input, I inputs, O outputs


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled functions; None, said once in the log, where there is no compiler or its work does not load."""
    try:
        found = _loaded(_compiled())
        found.product.argtypes = [Whole, Whole, Whole, Whole, Pointer, Pointer, Pointer, Whole]
        found.scratch_floats.argtypes, found.scratch_floats.restype = [Pointer, Whole, Whole], Whole
        found.draw.argtypes = [Whole, Whole, *[Pointer] * 6]
        found.step.argtypes = [Pointer, Whole, Pointer, Pointer, Pointer, Pointer, Whole, Whole]
    except (OSError, RuntimeError, subprocess.SubprocessError, AttributeError) as error:  # Runtime: there is no home
        log.info("decoding without compiled steps: %s", error)
        return None
    return found


def _loaded(made: Path) -> ctypes.CDLL:
    """The library; one that was damaged is compiled again."""
    try:
        return ctypes.CDLL(str(made))
    except OSError:
        made.unlink(missing_ok=True)
        return ctypes.CDLL(str(_compiled()))


def _compiled() -> Path:
    """The shared library of this source for this processor; compiled where it is not there yet."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler: cc, gcc and clang are not on the PATH, and CC names none")
    sources = [(FOLDER / name).read_bytes() for name in CLOSURE_FILES]
    identity = repr((sources, FLAGS, compiler, platform.machine(), sorted(cpu_flags())))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nanochat"
    made = cache / f"step-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (held := cache.stat()).st_uid != os.geteuid() or held.st_mode & 0o022:
        raise RuntimeError(f"others may write in {cache}, and what lies there is run")
    if made.is_file():
        return made
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        fresh = Path(folder) / made.name
        try:
            _compile(compiler, "-fopenmp", fresh)
        except subprocess.CalledProcessError:  # Apple's clang has none
            _compile(compiler, "-Wno-unknown-pragmas", fresh)
        return fresh.replace(cache / made.name)  # whole or not at all, whoever else compiles it now


def _compile(compiler: str, flag: str, target: Path) -> None:
    sources = [str(FOLDER / name) for name in CLOSURE_FILES if name.endswith(".c")]
    command = [*shlex.split(compiler), *FLAGS, flag, *sources, "-o", str(target), "-lm"]
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_S)


class BlockedMatrix:
    """A matrix (O, I) in fp32 or fp16 as the compiled product reads it: 16 outputs side by side, (O / 16, I, 16)."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.num_outputs, self.num_inputs = weight.shape
        full = weight.new_zeros(-(-self.num_outputs // WIDE) * WIDE, self.num_inputs, dtype=dtype)
        full[: self.num_outputs] = weight
        self.weight = full.view(-1, WIDE, self.num_inputs).transpose(1, 2).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """x (N, I) to fp32 (N, O)."""
        compiled, x = library(), x.float().contiguous()
        assert compiled is not None
        out = torch.empty(x.size(0), self.num_outputs)
        is_half, weight = self.weight.dtype == torch.float16, self.weight
        shape = (x.size(0), self.num_outputs, self.num_inputs, is_half)
        compiled.product(*shape, x.data_ptr(), weight.data_ptr(), out.data_ptr(), threads_for(weight.nbytes))
        return out
