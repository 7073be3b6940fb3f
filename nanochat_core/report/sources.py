"""What a run took of each of several sources, as rows of words; from the refs alone, so it is told in mid-run too."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat_core.base.units import count

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import Ref

HEADERS = ("source", "tokens", "share", "gone through", "held-out bits per byte", "documents", "licence")
NUMBERS = (1, 2, 3, 4, 5)  # columns


@dataclass(frozen=True)
class SourceRow:
    """One source; what is not known yet is empty."""

    name: str
    tokens: str
    share: str
    epochs: str
    bits: str
    documents: str
    licence: str

    @property
    def cells(self) -> tuple[str, ...]:
        return self.name, self.tokens, self.share, self.epochs, self.bits, self.documents, self.licence


def source_rows(refs: "list[Ref]") -> list[SourceRow]:
    """By name; none where the text is of one source."""
    of_step: dict[str, dict[str, Any]] = {ref.step: ref.metrics.get("sources") or {} for ref in refs}
    texts, drawn = of_step.get("corpus", {}), of_step.get("pretrain", {})
    bits = of_step.get("evaluate_base", {})
    return [_row(name, texts.get(name, {}), drawn.get(name), bits.get(name)) for name in sorted(texts)]


def _row(name: str, text: dict[str, Any], drawn: dict[str, Any] | None, bits: float | None) -> SourceRow:
    return SourceRow(
        name=name,
        tokens=count(drawn["tokens"]) if drawn else "",
        share=f"{drawn['share']:.1%}" if drawn else "",
        epochs=f"{drawn['epochs']:.2f} times" if drawn else "",
        bits=f"{bits:.4f}" if bits is not None else "",
        documents=count(text["train_docs"]) if "train_docs" in text else "",
        licence=str(text.get("licence", "not recorded")),
    )
