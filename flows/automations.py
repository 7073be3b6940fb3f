"""Work pools, limits and automations on a Prefect server, as deployments/*.yaml has them.

Each function brings one thing into the wanted shape and says what it did, so that doing it again changes nothing. What
people run as workers is theirs: a pool of another type (docker, kubernetes) keeps its type and template.
"""

import json
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

Spec = dict[str, Any]
UNCHANGED, CREATED = "unchanged", "created"


def register_pool(client: SyncPrefectClient, spec: Spec) -> str:
    """A work pool with its concurrency limit."""
    wanted = {name: spec.get(name) for name in ("concurrency_limit", "description")}
    try:
        there = client.read_work_pool(spec["name"])
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(name=spec["name"], type=spec["type"], base_job_template=_template(spec["type"]), **wanted)
        )
        return CREATED
    changed = [name for name, value in wanted.items() if getattr(there, name) != value]
    if changed:
        client.update_work_pool(spec["name"], WorkPoolUpdate(**wanted))
    return changes(changed)


def register_tag_limit(client: SyncPrefectClient, spec: Spec) -> str:
    """How many task runs with a tag may go at once."""
    try:
        there = client.read_concurrency_limit_by_tag(spec["tag"])
    except ObjectNotFound:
        client.create_concurrency_limit(tag=spec["tag"], concurrency_limit=spec["limit"])
        return CREATED
    if there.concurrency_limit == spec["limit"]:
        return UNCHANGED
    client.create_concurrency_limit(tag=spec["tag"], concurrency_limit=spec["limit"])
    return changes(["limit"])


def register_automation(client: SyncPrefectClient, spec: Spec) -> str:
    """An automation, by its name. One that was paused in the UI stays paused."""
    wanted = AutomationCore.model_validate(spec)
    there = client.read_automations_by_name(spec["name"])
    if not there:
        client.create_automation(wanted)
        return CREATED
    wanted.enabled = there[0].enabled
    fields = ("description", "trigger", "actions")
    seen, want = (plain(item.model_dump(mode="json")) for item in (there[0], wanted))
    changed = [name for name in fields if _without_ids(seen[name]) != _without_ids(want[name])]
    if changed:
        client.update_automation(there[0].id, wanted)
    return changes(changed)


def changes(names: list[str]) -> str:
    """What was done to something that was there."""
    return f"updated: {', '.join(names)}" if names else UNCHANGED


def plain(value: Any) -> Any:
    """JSON values with lists in one order: a server keeps sets, and gives them back as it likes."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def _without_ids(value: Any) -> Any:
    """Without the id that a server gives each trigger."""
    if isinstance(value, dict):
        return {key: _without_ids(item) for key, item in value.items() if key != "id"}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def _template(kind: str) -> dict[str, Any]:
    """The settings that a job of the pool may have; other types get theirs from their first worker."""
    if kind != "process":
        return {}
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()
