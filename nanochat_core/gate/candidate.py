"""One commit's training, run by that commit's own code: what `nightly bisect` starts in each worktree.

Started by path with the worktree first on PYTHONPATH, so every import below is the commit's. It therefore uses only
what commits have had for long: presets, plan, steps and their keys. Reads one JSON argument, prints one JSON line:
the digest of the recipe (that of gate/night.py), and where a seed is wanted the refs of its steps.
"""

import dataclasses
import json
import sys
from typing import Any


def main() -> None:
    """{"preset", "overrides", "seed": number or null} -> {"recipe"} or {"recipe", "refs"}."""
    from nanochat_core.plan import plan_run
    from nanochat_core.presets import load_config

    wanted = json.loads(sys.argv[1])
    plan = plan_run(load_config(wanted["preset"], wanted["overrides"]))
    upstream = _upstream(plan)
    answer: dict[str, Any] = {"recipe": _recipe(plan, upstream)}
    if wanted["seed"] is not None:
        seeded = dataclasses.replace(plan, config=dataclasses.replace(plan.config, seed=wanted["seed"]))
        answer["refs"] = [[ref.step, ref.fingerprint] for ref in _train(seeded, upstream)]
    print(json.dumps(answer))


def _upstream(plan: Any) -> tuple[Any, Any, Any]:
    from nanochat_core.pipeline import steps

    corpus = steps.corpus(plan)
    tokenizer = steps.tokenizer(plan, corpus)
    return corpus, tokenizer, steps.tokens(plan, corpus, tokenizer)


def _recipe(plan: Any, upstream: tuple[Any, Any, Any]) -> str:
    from nanochat_core.base.fingerprint import identity_digest
    from nanochat_core.pipeline.step import step_key
    from nanochat_core.pipeline.steps import STEPS

    digests = {"tokenizer": upstream[1].digest, "tokens": upstream[2].digest}
    trained = dict(step_key(STEPS["pretrain"], plan, digests).identity)
    trained["config"] = {name: value for name, value in trained["config"].items() if name != "seed"}
    measured = step_key(STEPS["evaluate_base"], plan, {}).identity
    parts = {
        "pretrain": {name: trained[name] for name in ("config", "inputs", "code", "packages")},
        "evaluate": {name: measured[name] for name in ("config", "code", "packages")},
    }
    return str(identity_digest(parts))


def _train(plan: Any, upstream: tuple[Any, Any, Any]) -> list[Any]:
    from nanochat_core.pipeline import steps

    corpus, tokenizer, tokens = upstream
    base = steps.pretrain(plan, tokenizer, tokens)
    found = [corpus, tokenizer, tokens, base, steps.evaluate_base(plan, tokenizer, tokens, base)]
    if plan.has_core:
        bundle = steps.core_bundle(plan)
        found.append(steps.evaluate_core(plan, steps.core_prompts(plan, tokenizer, bundle), base))
    return found


if __name__ == "__main__":
    main()
