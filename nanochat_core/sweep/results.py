"""What each cell of a sweep came to, as plain numbers: what the report is drawn from, and what the store keeps.

Kept apart from refs and plans, so that a report can be drawn again from the record alone, also after the code of a
step has changed or its artifact is gone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import PretrainPlan
from nanochat_core.sweep.cells import Cell
from nanochat_core.sweep.price import usd_per_hour


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One trained and measured cell."""

    name: str
    depth: int
    n_embd: int
    budget_flops: float | None
    params: dict[str, int]
    """By the counts of laws.py."""
    tokens: int
    steps: int
    flops: float
    bits_per_byte: float
    core: float | None
    core_standard_error: float | None
    core_is_whole: bool
    """All benchmarks with all items; anything less does not compare with GPT-2's score."""
    train_s: float
    """Wall-clock of the pretraining, whenever it ran, over all attempts."""
    usd: float
    """train_s on the plan's GPUs at the plan's price."""
    epochs: float | None
    """How often the training text was seen."""
    made: tuple[str, ...]
    """Steps that this sweep made; the others were cached."""
    fingerprints: dict[str, str]
    """By step."""

    @property
    def tokens_per_param(self) -> float:
        return self.tokens / self.params["scaling"]


def param_counts(plan: PretrainPlan) -> dict[str, int]:
    """Parameters by the three counts of laws.py."""
    groups = plan.num_params
    return {
        "all": groups["total"],
        "without_embeddings": groups["transformer_matrices"] + groups["scalars"],
        "scaling": plan.scaling_params,
    }


def cell_result(cell: Cell, refs: Sequence[Ref]) -> CellResult:
    """The numbers of a finished cell."""
    by_step = {ref.step: ref for ref in refs}
    derived, trained = cell.plan.pretrain, by_step["pretrain"]
    # the step's own seconds are those of its last attempt; its metrics add up the training of all attempts
    train_s = max(trained.seconds, float(trained.metrics.get("train_s", 0.0)))
    core = by_step["evaluate_core"].metrics if "evaluate_core" in by_step else {}
    return CellResult(
        name=cell.name,
        depth=cell.depth,
        n_embd=derived.model.n_embd,
        budget_flops=cell.budget_flops,
        params=param_counts(derived),
        tokens=derived.num_tokens,
        steps=derived.num_steps,
        flops=float(derived.total_flops),
        bits_per_byte=float(by_step["evaluate_base"].metrics["bits_per_byte"]),
        core=core.get("core"),
        core_standard_error=core.get("core_standard_error"),
        core_is_whole=bool(core.get("is_complete")) and core.get("max_per_benchmark") is None,
        train_s=train_s,
        usd=train_s / 3600 * usd_per_hour(cell.plan),
        epochs=_epochs(cell, by_step["tokens"]),
        made=tuple(ref.step for ref in refs if not ref.is_cached),
        fingerprints={ref.step: ref.fingerprint for ref in refs},
    )


def _epochs(cell: Cell, tokens: Ref) -> float | None:
    num_rows = tokens.metrics.get("train_rows")
    return cell.plan.pretrain.num_tokens / (num_rows * cell.plan.pretrain.model.sequence_len) if num_rows else None


def to_record(result: CellResult) -> dict[str, Any]:
    return asdict(result)


def from_record(record: dict[str, Any]) -> CellResult:
    return CellResult(**{**record, "made": tuple(record["made"])})
