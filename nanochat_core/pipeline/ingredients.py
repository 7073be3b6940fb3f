"""What a run was made of, and which of it is another one here: `python -m nanochat_core.pipeline.ingredients FILE`.

`evidence` gathers it from the store: settings, commit and patch, package versions, and of every step the identity that
its fingerprint was computed from. `differences` is called in a rebuilt checkout: it computes every identity again, from
the settings and the recorded digests of the inputs, before anything runs.
"""

import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat_core import named_tables
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.store.manifest import LOG_FOLDER
from nanochat_core.store.provenance import collect
from nanochat_core.store.store import Store
from nanochat_core.store.why import explain

Evidence = dict[str, Any]
IDENTITY = ("step", "config", "inputs", "code", "packages")
MACHINE = ("cpu", "platform")  # another one may round differently; said, not refused
# By how much of its bits per byte a model may be apart that was made with another number of processes, on another kind
# of device or in another compute type: fp32 sums in another order, anything else drifts apart as two seeds do.
TOLERANCES = {"float32": 1e-4}
TOLERANCE = 1e-2


@dataclass(frozen=True)
class _Recorded:
    """One step of the evidence, as store/why.py compares it."""

    step: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    code: Mapping[str, str]
    packages: Mapping[str, str]


def evidence(store: Store, run_id: str) -> Evidence:
    """Everything that a run was made of, as JSON values."""
    record = store.run(run_id)
    if "kind" in record:
        raise ConfigError(f"{run_id} is a {record['kind']}, not one run", hint="reproduce one of its models' runs")
    steps = []
    for line in record["steps"]:
        artifact = store.find(line["step"], line["fingerprint"])
        if artifact is None:
            raise MissingError(
                f"{line['step']} {line['fingerprint'][:12]} of {run_id} is not in {store.url} any more",
                hint="only runs whose artifacts are kept can be reproduced",
            )
        identity = {name: getattr(artifact, name) for name in IDENTITY}
        steps.append(
            {
                **identity,
                "digest": line["digest"],
                "provenance": dict(artifact.provenance),
                "metrics": line["metrics"],
                "has_log": any(name.startswith(f"{LOG_FOLDER}/") for name in artifact.files),
            }
        )
    return {"run_id": run_id, "config": record["config"], "source": record.get("source") or {}, "steps": steps}


def made_with(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What decides a training's bits and is in no key: its processes, device and compute type; {} of another step."""
    tries = sorted({int(one["world_size"]) for one in metrics.get("tries", ())})
    told = {name: str(metrics[name]) for name in ("device", "dtype") if name in metrics}
    return {"processes": " and ".join(map(str, tries)), **told} if tries else {}


def tolerance(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """Of the bits per byte of two models that may differ in their bits, by their metrics: relative."""
    kinds = {str(metrics.get("dtype")) for metrics in (recorded, now)}
    return TOLERANCES.get(kinds.pop(), TOLERANCE) if len(kinds) == 1 else TOLERANCE


def toml_of(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """A run's settings as a preset file, and as `--set` options what TOML cannot say (none)."""
    lines, sets = [], []
    plain = {name: value for name, value in config.items() if not isinstance(value, dict) and name != "preset"}
    sections = {"": plain, **{name: value for name, value in config.items() if isinstance(value, dict)}}
    for section, values in sections.items():
        lines += [f"[{section}]"] if section else []
        for name, value in values.items():
            full_name = f"{section}.{name}" if section else name
            if value is None:
                sets.append(f"{full_name}=none")
            elif full_name in named_tables.TABLES:
                lines.append(f"{name} = {named_tables.toml_tables(value)}")
            elif isinstance(value, str) and not value.isprintable():  # what JSON can escape and TOML cannot
                sets.append(f"{full_name}={json.dumps(value)}")
            else:
                lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n", sets


def differences(gathered: Evidence, folder: Path) -> list[str]:
    """What is another one in this checkout and environment, by name; `folder` is for a preset file."""
    from nanochat_core.pipeline.table import STEPS
    from nanochat_core.plan import plan_run
    from nanochat_core.presets import load_config

    text, sets = toml_of(gathered["config"])
    preset = folder / f"{gathered['config']['preset']}.toml"
    preset.write_text(text, encoding="utf-8")
    plan = plan_run(load_config(str(preset), sets))
    found = list(_environment(gathered))
    for line in gathered["steps"]:
        recorded = _Recorded(**{name: line[name] for name in IDENTITY})
        if recorded.step not in STEPS:
            found.append(f"{recorded.step}: this version has no such step")
            continue
        current = _identity(STEPS[recorded.step], plan, recorded.inputs)
        found += [f"{recorded.step}: {reason}" for reason in explain(current, recorded)]
    return list(dict.fromkeys(found))


def machine_differences(gathered: Evidence) -> list[str]:
    """What of the machine is another one here. No reason to refuse: digests may still be equal."""
    here = collect(arguments=[], started_at=time.time())
    recorded = [line["provenance"] for line in gathered["steps"]]
    found = [f"{name}: {facts.get(name)} -> {here[name]}" for name in MACHINE for facts in recorded
             if facts.get(name) != here[name]]  # fmt: skip
    return list(dict.fromkeys(found))


def _identity(step: Any, plan: Any, inputs: Mapping[str, str]) -> dict[str, Any]:
    from nanochat_core.pipeline.step import step_key

    return step_key(step, plan, inputs).identity


def _environment(gathered: Evidence) -> Iterator[str]:
    """Python and packages that are not those of the step that was made last."""
    if not gathered["steps"]:
        return
    recorded = max((line["provenance"] for line in gathered["steps"]), key=lambda facts: facts["finished_at"])
    if recorded["python"] != platform.python_version():
        yield f"python: {recorded['python']} -> {platform.python_version()}"
    for name, version in recorded["packages"].items():
        if name != "nanochat-prefect" and (here := _version(name)) != version:
            yield f"package {name}: {version} -> {here}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    where = Path(sys.argv[1])
    print(json.dumps(differences(json.loads(where.read_text(encoding="utf-8")), where.parent)))
