"""Which attention a process uses: the first rung of a ladder that is there, takes the case, and computes it right.

The fastest kernels are separate packages of changing quality, so a rung counts only after a self-test: forward and
backward at a small shape against blocked attention in fp32. The choice is made once per case (device, dtype, head
size, window or not, documents or not, training or not), logged with its reason and with what was refused and why:
falling back without a word has cost others days. Nothing here runs on a CPU, where blocks are the fastest.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.base.errors import ConfigError, HardwareError
from nanochat_core.model.blocked_attention import blocked_attention
from nanochat_core.model.documents import Documents
from nanochat_core.model.flash_attention import (
    FA3_MODULES,
    FA3_OF_THE_HUB,
    FA4_MODULES,
    HUB_LOADER,
    Attend,
    from_hub,
    from_package,
    installed,
    torch_flash,
)
from nanochat_core.model.flex_attention import flex

log = logging.getLogger(__name__)

# B rows, T tokens, H query heads, K key/value heads, D head size
TEST_ROWS, TEST_TOKENS, TEST_WINDOW, TEST_HEADS = 2, 384, 100, 4
TEST_DOCUMENT_STARTS = ((0, 1, 250), (0, 37))  # long enough for the window to matter as well
TOLERANCE = {torch.float32: 5e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of the norm; fp32 may run in tf32
HALF = (torch.bfloat16, torch.float16)
HOPPER, AMPERE = (9, 0), (8, 0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What decides whether a rung can be used."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    is_full: bool
    """Every position sees all before it."""
    has_groups: bool = False
    """Fewer key heads than query heads."""
    has_documents: bool = False
    is_training: bool = True
    has_free_length: bool = False
    """Each pass has a number of tokens of its own: what plans or compiles for one number would do so each time."""

    def __str__(self) -> str:
        kind = "documents" if self.has_documents else "full" if self.is_full else "window"
        use = ("training" if self.is_training else "inference") + (" of any length" if self.has_free_length else "")
        return f"{kind}, {use}, {str(self.dtype).removeprefix('torch.')}, head {self.head_dim}, {self.device.type}"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The attention that was chosen, and why."""

    name: str
    reason: str
    attend: Attend


@dataclass(frozen=True)
class Rung:
    """One attention; `obstacle` says why it does not take a case, or None."""

    name: str
    obstacle: Callable[[Case], str | None]
    load: Callable[[], Attend]


_forced: ContextVar[str | None] = ContextVar("forced attention", default=None)
_has_free_length: ContextVar[bool] = ContextVar("passes of any length", default=False)


def force(name: str | None) -> Token[str | None]:
    """Use the rung `name` wherever attention runs from here on; None: choose."""
    if name is not None and name not in RUNGS:
        raise ConfigError(f"there is no attention {name!r}", hint=f"one of {', '.join(RUNGS)}")
    return _forced.set(name)


def free_lengths() -> Token[bool]:
    """From here on passes are of any length, as those of reinforcement learning are."""
    return _has_free_length.set(True)


def has_free_lengths() -> bool:
    return _has_free_length.get()


@contextmanager
def forced(name: str | None) -> Iterator[None]:
    """Use the rung `name` wherever attention runs inside the block; None: choose."""
    token = force(name)
    try:
        yield
    finally:
        _forced.reset(token)


def attend(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None = None) -> Tensor:
    """q (B, H, T, D) scaled, k and v (B, K, T, D) to (B, T, H, D) by the rung for this case."""
    case = Case(
        device=q.device,
        dtype=q.dtype,
        head_dim=q.size(3),
        is_full=window >= q.size(2) - 1,
        has_groups=q.size(1) != k.size(1),
        has_documents=documents is not None,
        is_training=torch.is_grad_enabled() and q.requires_grad,
        has_free_length=_has_free_length.get(),
    )
    name = _forced.get()
    if name is not None and not case.is_training and RUNGS[name].obstacle(case) is not None:
        name = None  # asked for a training, which also validates; some kernels are for training only
    return resolve(case, forced_name=name).attend(q, k, v, window=window, documents=documents)


@lru_cache(maxsize=64)
def resolve(case: Case, *, forced_name: str | None = None) -> Backend:
    """The rung for `case`; a forced one that cannot be used is a `HardwareError`."""
    refused: list[str] = []
    for name, rung in RUNGS.items():
        if forced_name not in (None, name):
            continue
        obstacle, finding = rung.obstacle(case), None
        if obstacle is None:
            obstacle, finding = _tested(rung, case)
        if obstacle is None:
            reason = "; ".join([finding or "", *refused]) if forced_name is None else f"{finding}; asked for"
            backend = Backend(name=name, reason=reason, attend=rung.load())
            level = logging.DEBUG if case.device.type == "cpu" else logging.INFO
            log.log(level, "attention (%s): %s, %s", case, name, reason)
            return backend
        refused.append(f"no {name}: {obstacle}")
    raise HardwareError(
        f"attention {forced_name} does not take {case}: {'; '.join(refused)}", hint="leave it to choose"
    )


def _tested(rung: Rung, case: Case) -> tuple[str | None, str | None]:
    """(obstacle, finding), one of them None."""
    if rung.name == "blocked":
        return None, "takes everything"
    try:
        error = self_test(rung.load(), case)
    # Kernels of other packages raise whatever their compilers do; the log says what, and the next rung is used.
    except Exception as reason:
        first_line = (str(reason).splitlines() or [""])[0]
        return f"self-test failed with {type(reason).__name__}: {first_line[:120]}", None
    if not error <= TOLERANCE[case.dtype]:  # not: error > tolerance, which NaN passes
        return f"self-test is off by {error:.1e}", None
    return None, f"self-test within {error:.1e}"


@torch.inference_mode(False)
def self_test(attend: Attend, case: Case) -> float:
    """The largest error of output and gradients against blocked attention in fp32, relative to their norms."""
    generator = torch.Generator().manual_seed(0)
    heads = (TEST_HEADS, TEST_HEADS // 2, TEST_HEADS // 2) if case.has_groups else (TEST_HEADS,) * 3
    shapes = [(TEST_ROWS, n, TEST_TOKENS, case.head_dim) for n in heads]
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    inputs[0] /= case.head_dim**0.5
    grad = torch.randn(TEST_ROWS, TEST_TOKENS, TEST_HEADS, case.head_dim, generator=generator)
    documents = _test_documents(case.device) if case.has_documents else None
    window = TEST_TOKENS if case.is_full else TEST_WINDOW
    low = [x.to(case.device, case.dtype) for x in (*inputs, grad)]
    run = partial(_results, window=window, documents=documents, has_gradients=case.is_training)
    found, expected = run(attend, low), run(blocked_attention, [x.float() for x in low])
    errors = [
        (a.detach().float() - b.detach()).norm() / b.detach().norm() for a, b in zip(found, expected, strict=True)
    ]
    return float(torch.stack(errors).max())


def _test_documents(device: torch.device) -> Documents:
    is_start = torch.zeros(TEST_ROWS, TEST_TOKENS, dtype=torch.bool)
    for row, starts in enumerate(TEST_DOCUMENT_STARTS):
        is_start[row, list(starts)] = True
    return Documents.starting_at(is_start.to(device))


def _results(
    attend: Attend, tensors: list[Tensor], *, window: int, documents: Documents | None, has_gradients: bool
) -> list[Tensor]:
    *inputs, grad = tensors
    with torch.set_grad_enabled(has_gradients):
        inputs = [x.detach().requires_grad_(has_gradients) for x in inputs]
        out = attend(*inputs, window=window, documents=documents)
        return [out, *torch.autograd.grad(out, inputs, grad)] if has_gradients else [out]


def _no_half_gpu(case: Case, capability: tuple[int, int]) -> str | None:
    if case.device.type != "cuda":
        return f"runs on CUDA, not on {case.device.type}"
    if case.dtype not in HALF:
        return f"takes no {str(case.dtype).removeprefix('torch.')}"
    found = torch.cuda.get_device_capability(case.device)
    return None if found >= capability else f"needs compute capability {capability}, this is {found}"


def _no_package(case: Case, modules: tuple[str, ...]) -> str | None:
    if case.has_documents:
        return "documents are not wired to it"
    return _no_half_gpu(case, HOPPER) or (None if installed(modules) else "not installed")


def _package(modules: tuple[str, ...]) -> Attend:
    module = installed(modules)
    assert module is not None, "its obstacle says so first"
    return from_package(module)


def _no_hub(case: Case) -> str | None:
    if case.has_documents:
        return "documents are not wired to it"
    return _no_half_gpu(case, HOPPER) or (None if installed(HUB_LOADER) else "no package `kernels`")


def _no_cudnn(case: Case) -> str | None:
    if case.has_documents or not case.is_full:
        return "has no windows"
    if not case.is_training or case.has_free_length:
        return "plans anew for every length"
    return _no_half_gpu(case, AMPERE)


def _no_flex(case: Case) -> str | None:
    if case.device.type != "cuda":
        return "compiled on CUDA only"
    if case.is_full and not case.has_documents:
        return "full attention needs no mask"
    return "compiles anew for every length" if case.has_free_length or not case.is_training else None


def _no_sdpa(case: Case) -> str | None:
    if case.device.type != "cuda":
        return f"blocks are faster on {case.device.type}"
    return None if case.is_full and not case.has_documents else "its masks are dense"


def _sdpa(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None) -> Tensor:
    has_groups = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=has_groups).transpose(1, 2)


def _cudnn(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(q, k, v, window=window, documents=documents)


RUNGS = {
    rung.name: rung
    for rung in (
        Rung("fa3", partial(_no_package, modules=FA3_MODULES), partial(_package, FA3_MODULES)),
        Rung("fa3-hub", _no_hub, lambda: from_hub(FA3_OF_THE_HUB)),
        Rung("fa4", partial(_no_package, modules=FA4_MODULES), partial(_package, FA4_MODULES)),
        Rung("cudnn", _no_cudnn, lambda: _cudnn),
        Rung("flex", _no_flex, lambda: flex),
        Rung("fa2", partial(_no_half_gpu, capability=AMPERE), lambda: torch_flash),
        Rung("sdpa", _no_sdpa, lambda: _sdpa),
        Rung("blocked", lambda case: None, lambda: blocked_attention),
    )
}
