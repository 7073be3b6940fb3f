"""One commit's training, run by that commit's own code: what `nightly bisect` starts in each worktree.

Started by path with the worktree first on PYTHONPATH, so every import below is the commit's. It therefore uses only
what commits have had for long: presets, plan, the table of steps and their keys. Reads one JSON argument, prints one
JSON line: the digest of the recipe (that of gate/night.py), and where a seed is wanted the refs of its steps.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any


def main() -> None:
    """{"preset", "overrides", "seed": number or null} -> {"recipe"} or {"recipe", "refs"}."""
    from nanochat_core.plan import plan_run
    from nanochat_core.presets import load_config

    wanted = json.loads(sys.argv[1])
    plan = plan_run(load_config(wanted["preset"], wanted["overrides"]))
    answer: dict[str, Any] = {"recipe": _recipe(plan, _made(plan, until="tokens"))}
    if wanted["seed"] is not None:
        seeded = dataclasses.replace(plan, config=dataclasses.replace(plan.config, seed=wanted["seed"]))
        refs = _made(seeded, until="evaluate_core" if plan.has_core else "evaluate_base")
        answer["refs"] = [[step, ref.fingerprint] for step, ref in refs.items()]
    print(json.dumps(answer))


def _table() -> Mapping[str, Any]:
    try:
        from nanochat_core.pipeline.table import STEPS
    except ImportError:  # a commit from before each step had its own file
        from nanochat_core.pipeline.steps import STEPS  # type: ignore[no-redef, import-not-found, unused-ignore]
    return STEPS


def _execute(step: Any, plan: Any, inputs: Mapping[str, Any]) -> Any:
    try:
        from nanochat_core.pipeline.execute import execute
    except ImportError:
        from nanochat_core.pipeline import step as older

        return older.execute(step, plan, inputs, _table())  # type: ignore[attr-defined, unused-ignore]
    return execute(step, plan, inputs)


def _made(plan: Any, *, until: str) -> dict[str, Any]:
    """The refs of all steps of the table up to and including `until`."""
    refs: dict[str, Any] = {}
    for name, step in _table().items():
        if step.is_wanted(plan):
            sources = [getattr(source, "name", source) for source in step.inputs]
            refs[name] = _execute(step, plan, {source: refs[source] for source in sources if source in refs})
        if name == until:
            break
    return refs


def _recipe(plan: Any, made: Mapping[str, Any]) -> str:
    from nanochat_core.base.fingerprint import identity_digest
    from nanochat_core.pipeline.step import step_key

    steps = _table()
    digests = {source: made[source].digest for source in ("tokenizer", "tokens")}
    trained = dict(step_key(steps["pretrain"], plan, digests).identity)
    trained["config"] = {name: value for name, value in trained["config"].items() if name != "seed"}
    measured = step_key(steps["evaluate_base"], plan, {}).identity
    parts = {
        "pretrain": {name: trained[name] for name in ("config", "inputs", "code", "packages")},
        "evaluate": {name: measured[name] for name in ("config", "code", "packages")},
    }
    return str(identity_digest(parts))


if __name__ == "__main__":
    main()
