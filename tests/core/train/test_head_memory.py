"""What goes through the head and what is held of its logits, counted: no token without a target, no whole copy.

The head is most of a small model's work and the logits are the largest tensor of all, so both are counted in a real
pass: rows of the products with the head's weights, and the bytes that torch's allocator holds at most.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nudge import nudge
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat_core.config import GPTConfig
from nanochat_core.data.loader import PackedConversations
from nanochat_core.evals.bpb import bits_per_byte
from nanochat_core.model import cross_entropy
from nanochat_core.model.gpt import GPT
from nanochat_core.train.advantage import policy_terms

V, T, ROWS = 8000, 128, 16
CONFIG = GPTConfig(sequence_len=T, vocab_size=V, n_layer=1, n_head=1, n_kv_head=1, n_embd=24)
CHUNK = 32


class HeadRows(TorchDispatchMode):
    """Counts the rows of every product that gives logits."""

    def __init__(self) -> None:
        super().__init__()
        self.num_rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.mkldnn._linear_pointwise):
            self.num_rows += out.numel() // V if out.size(-1) == V else 0
        return out


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that torch's allocator held beyond what it held before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    blocks = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for block in sorted(blocks, key=lambda event: event.start_ns()):
        held += block.nbytes()
        peak = max(peak, held)
    return peak


@pytest.fixture
def targets() -> torch.Tensor:
    """(ROWS, T): turns of a user, which nobody learns, between those of the assistant."""
    drawn = torch.randint(0, V, (ROWS, T), generator=torch.Generator().manual_seed(1))
    return drawn.masked_fill(torch.arange(T) % 48 < 22, -1)


@pytest.fixture
def passes(targets: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], object]]:
    """Each kind of pass whose targets are masked; one has been made already."""
    monkeypatch.setattr(cross_entropy, "CHUNK_TOKENS", CHUNK)
    monkeypatch.setattr(cross_entropy, "SLICE_ELEMENTS_CPU", 8 * V)
    model, reference = GPT(CONFIG), GPT(CONFIG)
    nudge(model, 0.3, seed=0)
    ids = torch.randint(0, V, (ROWS, T), generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "validation.ids.npy", F.pad(targets.clamp(min=0), (1, 0)).numpy())
    np.save(tmp_path / "validation.mask.npy", F.pad(targets >= 0, (1, 0)).numpy())
    held_out = PackedConversations(tmp_path, "validation")
    token_bytes = torch.ones(V, dtype=torch.int64)
    advantages = torch.tensor([0.5, -0.5] * (ROWS // 2))
    kinds = {
        "fine-tuning": lambda: model.loss(ids, targets, reduction="sum").backward(),
        "its validation": lambda: bits_per_byte(model, held_out, token_bytes, num_rows=ROWS, batch_rows=ROWS),
        "practice": lambda: policy_terms(
            model, ids, targets, row_advantages=advantages, reference=reference
        ).loss.backward(),
    }
    for work in kinds.values():
        work()
    return kinds


def test_no_token_without_a_target_goes_through_the_head(passes, targets):
    counted = int((targets >= 0).sum())
    found = {}
    for kind, work in passes.items():
        with HeadRows() as rows:
            work()
        found[kind] = rows.num_rows
    assert found == {"fine-tuning": counted, "its validation": counted, "practice": 2 * counted}  # and the reference's


def test_a_whole_copy_of_the_logits_is_never_held(passes, targets):
    one_copy = 4 * V * int((targets >= 0).sum())
    held = {kind: peak_bytes(work) for kind, work in passes.items()}
    assert {kind: peak / one_copy for kind, peak in held.items() if peak >= 0.5 * one_copy} == {}, "copies held at once"
