"""Weights and phases of several sources as plain numbers, and what cannot be among them.

Weights count tokens. They become the smallest whole numbers of the same ratio, so 2 : 1 : 1 and 0.5 : 0.25 : 0.25 are
one mix, in keys as well, and draws are shared out without rounding that could add up. A source that weighs nothing in
all phases is as if it were not there: its text shapes no vocabulary either.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from nanochat_core.base.errors import ConfigError
from nanochat_core.named_tables import NAME

if TYPE_CHECKING:
    from nanochat_core.config import RunConfig
    from nanochat_core.corpus_config import SourceConfig

SHARE_TOLERANCE = 1e-6  # shares are written by people: 0.7 and 0.2 and 0.1


@dataclass(frozen=True)
class Phase:
    """A part of the schedule."""

    name: str
    num_steps: int
    weights: dict[str, int]
    """Source -> weight above 0, in the smallest whole numbers."""


def whole_numbers(weights: Mapping[str, float]) -> dict[str, int]:
    """The same ratio, without what is 0: {"a": 0.5, "b": 0.25, "c": 0} -> {"a": 2, "b": 1}."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items() if weight}
    scale = math.lcm(*(each.denominator for each in exact.values()))
    numbers = {name: int(each * scale) for name, each in exact.items()}
    common = math.gcd(*numbers.values())
    return {name: number // common for name, number in sorted(numbers.items())}


def used_sources(config: "RunConfig") -> tuple["SourceConfig", ...]:
    """The sources that weigh something in some phase, by name."""
    used = {name for weights in _weights(config) for name, weight in weights.items() if weight}
    return tuple(sorted((each for each in config.corpus.sources if each.name in used), key=lambda each: each.name))


def left_out(config: "RunConfig") -> list[str]:
    """The names of those that weigh nothing."""
    used = {each.name for each in used_sources(config)}
    return [each.name for each in config.corpus.sources if each.name not in used]


def _weights(config: "RunConfig") -> list[Mapping[str, float]]:
    """Of each phase."""
    own = {each.name: each.weight for each in config.corpus.sources}
    return [phase.weights or own for phase in config.pretrain.phases] or [own]


def unused_text(config: "RunConfig") -> str | None:
    """The setting and value of what `corpus` says of itself, where no source is that; a preset may have said it."""
    corpus = config.corpus
    field = {"path": "path", "hub": "dataset"}.get(corpus.source, "")
    place = getattr(corpus, field, None)
    is_used = any(getattr(each, field, None) == place and each.source == corpus.source for each in corpus.sources)
    return f"corpus.{field} = {place}" if place and not is_used else None


def phases_of(config: "RunConfig", *, num_steps: int) -> tuple[Phase, ...]:
    """The phases of a training of so many steps; none where there is one source only.

    ConfigError for a phase that is too short for one step.
    """
    if not config.corpus.sources:
        return ()
    names = [phase.name for phase in config.pretrain.phases] or ["all"]
    shares = _shares(config)
    ends = [round(sum(shares[: number + 1]) * num_steps) for number in range(len(shares))]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    for name, share, length in zip(names, shares, lengths, strict=True):
        if length < 1:
            raise ConfigError(
                f"the phase {name} has {share:.2%} of {num_steps:,} steps, which is less than one",
                hint=f"a larger pretrain.phases.{name}.share, or a longer training",
            )
    weights = [whole_numbers(each) for each in _weights(config)]
    return tuple(Phase(*each) for each in zip(names, lengths, weights, strict=True))


def _shares(config: "RunConfig") -> list[float]:
    """Of the phases; one that says none has what the others leave."""
    said = [phase.share for phase in config.pretrain.phases]
    left = 1 - sum(share for share in said if share is not None)
    return [left if share is None else share for share in said] or [1.0]


def check_mix(config: "RunConfig") -> None:
    """ConfigError for sources and phases that make no mix."""
    sources, phases = config.corpus.sources, config.pretrain.phases
    _check_names([each.name for each in sources], "corpus.sources")
    _check_names([each.name for each in phases], "pretrain.phases")
    if phases and not sources:
        raise ConfigError(
            "pretrain.phases weighs sources, and there is only one text", hint="[[corpus.sources]] in a file, or --set "
            "corpus.sources.NAME.path=..."
        )  # fmt: skip
    needs_weights = not phases or not all(phase.weights for phase in phases)
    if sources and needs_weights and not any(each.weight for each in sources):
        told = ", ".join(f"{each.name} weighs {each.weight:g}" for each in sources)
        raise ConfigError(
            f"corpus.sources weigh nothing: {told}", hint=f"--set corpus.sources.{sources[0].name}.weight=1"
        )
    known = [each.name for each in sources]
    for phase in phases:
        if unknown := [name for name in phase.weights if name not in known]:
            raise ConfigError(
                f"pretrain.phases.{phase.name}.weights has {unknown[0]}, and no source is called so",
                hint=f"the sources are {', '.join(known)}",
            )
        if phase.weights and not any(phase.weights.values()):
            raise ConfigError(f"the weights of the phase {phase.name} are all 0", hint="give one source more than 0")
    if phases:
        _check_shares(config)


def _check_names(names: Sequence[str], tables: str) -> None:
    for name in names:
        if not NAME.fullmatch(name):
            raise ConfigError(f"{tables} has the name {name!r}", hint="letters, digits, - and _, 40 at most")
    if again := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{tables} has the name {again[0]} twice", hint="each needs one of its own")


def _check_shares(config: "RunConfig") -> None:
    """Together they are the schedule, and one at most may be told by the others."""
    phases = config.pretrain.phases
    silent = [phase.name for phase in phases if phase.share is None]
    total = sum(phase.share for phase in phases if phase.share is not None)
    told = ", ".join(f"{phase.name} {phase.share:g}" for phase in phases if phase.share is not None)
    if len(silent) > 1:
        raise ConfigError(
            f"the phases {' and '.join(silent)} have no share", hint="one may be left out: it has the rest"
        )
    if total > 1 + SHARE_TOLERANCE or (silent and total > 1 - SHARE_TOLERANCE):
        raise ConfigError(f"the shares of the phases are {total:g} together: {told}", hint="1 in all")
    if not silent and total < 1 - SHARE_TOLERANCE:
        raise ConfigError(f"the shares of the phases are {total:g} together: {told}", hint="1 in all, or leave one out")


def percent(weights: Mapping[str, int]) -> dict[str, float]:
    """Of all, by source."""
    total = sum(weights.values())
    return {name: 100 * weight / total for name, weight in weights.items()}


def told(phases: Iterable[Phase]) -> str:
    """Shares in words: "docs 50%, web 25%, own 25%"; of several phases each by its name."""
    phases = list(phases)
    texts = [", ".join(f"{name} {share:.3g}%" for name, share in percent(each.weights).items()) for each in phases]
    if len(phases) == 1:
        return texts[0]
    return "; ".join(
        f"{each.name} ({each.num_steps:,} steps): {text}" for each, text in zip(phases, texts, strict=True)
    )
