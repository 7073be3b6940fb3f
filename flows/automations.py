"""Work pools, limits and automations on a Prefect server, as deployments/*.yaml has them.

Each function brings one thing into the wanted shape and says what it decided, so that doing it again changes nothing
(written.py). What people run as workers is theirs: a pool of another type (docker, kubernetes) keeps its type and
template.
"""

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from flows.written import Decision, Written

Spec = dict[str, Any]


def register_pool(client: SyncPrefectClient, written: Written, spec: Spec) -> Decision | None:
    """A work pool with its concurrency limit; None: it was created."""
    thing, wanted = f"pool {spec['name']}", {name: spec.get(name) for name in ("concurrency_limit", "description")}
    try:
        there = client.read_work_pool(spec["name"])
    except ObjectNotFound:
        if not written.dry_run:
            template = _template(spec["type"])
            client.create_work_pool(
                WorkPoolCreate(name=spec["name"], type=spec["type"], base_job_template=template, **wanted)
            )
        written.created(thing, wanted)
        return None
    decision = written.decide(thing, {name: getattr(there, name) for name in wanted}, wanted)
    if decision.changed and not written.dry_run:
        client.update_work_pool(spec["name"], WorkPoolUpdate(**{name: wanted[name] for name in decision.changed}))
    return decision


def register_automation(client: SyncPrefectClient, written: Written, spec: Spec) -> Decision | None:
    """An automation, by its name. One that was paused in the UI stays paused."""
    thing, wanted = f"automation {spec['name']}", AutomationCore.model_validate(spec)
    fields = {name: _compared(wanted)[name] for name in ("description", "trigger", "actions")}
    there = client.read_automations_by_name(spec["name"])
    if not there:
        if not written.dry_run:
            client.create_automation(wanted)
        written.created(thing, fields)
        return None
    held = _compared(there[0])
    decision = written.decide(thing, held, fields)
    if decision.changed and not written.dry_run:
        kept = {name: getattr(there[0], name) for name in ("enabled", *decision.kept)}
        client.update_automation(there[0].id, wanted.model_copy(update=kept))
    return decision


def _compared(automation: AutomationCore) -> Spec:
    """Its fields without the id that a server gives each trigger."""
    fields: Spec = _without_ids(automation.model_dump(mode="json"))
    return fields


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_ids(item) for key, item in value.items() if key != "id"}
    return [_without_ids(item) for item in value] if isinstance(value, list) else value


def _template(kind: str) -> dict[str, Any]:
    """The settings that a job of the pool may have; other types get theirs from their first worker."""
    if kind != "process":
        return {}
    from prefect.workers.process import ProcessWorker

    return ProcessWorker.get_default_base_job_template()
