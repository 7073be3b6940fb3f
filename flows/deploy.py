"""`nanochat deploy`: bring a Prefect server into the shape that prefect.yaml and deployments/ describe.

Doing it twice changes nothing, and what people changed in the UI on purpose stays: a schedule or an automation that
was paused is still paused. Prefect's own `deploy` ignores a misspelt key and keeps schedules that are gone from the
file; this one refuses the first and removes the second.
"""

import contextlib
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from nanochat_core.base.errors import ConfigError, HardwareError, MissingError
from nanochat_core.base.text import read_text
from nanochat_core.cli.app import Json

ROOT = Path(__file__).resolve().parents[1]
DEPLOYMENT_KEYS = {
    "name", "entrypoint", "description", "tags", "parameters", "enforce_parameter_schema", "work_pool", "schedules",
    "concurrency_limit",
}  # fmt: skip
SCHEDULE_KEYS = {"cron", "timezone", "active", "slug", "parameters"}
Spec = dict[str, Any]


@dataclass(frozen=True)
class Registered:
    """One thing on the server and what was done to it."""

    kind: str
    name: str
    did: str
    """created, "updated: ..." or unchanged."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(deploy)


def deploy(
    names: Annotated[list[str] | None, typer.Argument(help="Deployments of prefect.yaml.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    as_json: Json = False,
) -> None:
    """Register deployments, work pools, limits and automations on your Prefect server; again is no harm.

    nanochat deploy --all

    nanochat deploy speedrun gpu_step
    """
    if bool(names) == everything:
        known = ", ".join(spec["name"] for spec in read_deployments(ROOT))
        raise ConfigError("say which deployments", hint=f"--all, or some of: {known}")
    done = list(register_all(ROOT, names or None))
    if as_json:
        print(json.dumps([asdict(item) for item in done], indent=1))
        return
    for item in done:
        print(f"{item.kind:<11} {item.name:<24} {item.did}")


def register_all(root: Path, names: Sequence[str] | None = None) -> Iterator[Registered]:
    """Register the deployments of `root`/prefect.yaml (all, or those named) and what they need."""
    specs = chosen(read_deployments(root), names)  # before anything is changed
    pools, automations = read(root / "deployments/pools.yaml"), read(root / "deployments/automations.yaml")
    with server_client() as client:
        from flows import automations as register

        for spec in pools["work_pools"]:
            yield Registered("work pool", spec["name"], register.register_pool(client, spec))
        for spec in pools["tag_limits"]:
            yield Registered("tag limit", spec["tag"], register.register_tag_limit(client, spec))
        for spec in automations["automations"]:
            yield Registered("automation", spec["name"], register.register_automation(client, spec))
        for spec in specs:
            full_name, did = register_deployment(client, spec, root)
            yield Registered("deployment", full_name, did)


def read(path: Path) -> Any:
    """A YAML file."""
    if not path.is_file():
        raise MissingError(f"{path} is not there", hint="run it from a checkout of the repository")
    try:
        return yaml.safe_load(read_text(path, error=ConfigError))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error


def read_deployments(root: Path) -> list[Spec]:
    """The deployments of prefect.yaml, with every key known."""
    specs: list[Spec] = read(root / "prefect.yaml")["deployments"]
    for spec in specs:
        unknown = [*(set(spec) - DEPLOYMENT_KEYS)]
        unknown += [f"schedules.{key}" for entry in spec.get("schedules", []) for key in set(entry) - SCHEDULE_KEYS]
        if unknown:
            raise ConfigError(
                f"prefect.yaml: {spec.get('name')} has unknown keys: {', '.join(sorted(unknown))}",
                hint=f"known: {', '.join(sorted(DEPLOYMENT_KEYS))}",
            )
    return specs


def chosen(specs: list[Spec], names: Sequence[str] | None) -> list[Spec]:
    """Those with the given names, in the file's order."""
    known = [spec["name"] for spec in specs]
    if missing := [name for name in names or () if name not in known]:
        raise MissingError(f"prefect.yaml has no deployment {missing[0]!r}", hint=f"it has: {', '.join(known)}")
    return [spec for spec in specs if names is None or spec["name"] in names]


def load_flow(entrypoint: str) -> Any:
    """The flow that "flows/speedrun.py:speedrun" names."""
    file, _, function = entrypoint.partition(":")
    try:
        return getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise MissingError(f"the entrypoint {entrypoint} is not there: {error}") from error


def wanted_fields(spec: Spec, root: Path) -> dict[str, Any]:
    """A deployment as the server is to hold it, without its schedules."""
    from prefect.utilities.callables import parameter_schema

    flow, limit = load_flow(spec["entrypoint"]), spec.get("concurrency_limit")
    options = {key: value for key, value in limit.items() if key != "limit"} if limit else None
    return {
        "description": spec["description"].strip(),
        "tags": spec.get("tags", []),
        "parameters": spec.get("parameters", {}),
        "entrypoint": spec["entrypoint"],
        "path": None,
        "work_pool_name": spec["work_pool"]["name"],
        "job_variables": spec["work_pool"].get("job_variables", {}),
        "enforce_parameter_schema": spec.get("enforce_parameter_schema", True),
        "parameter_openapi_schema": parameter_schema(flow).model_dump_for_openapi(),
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}],
        "concurrency_limit": limit["limit"] if limit else None,
        "concurrency_options": options,
        "version": flow.version,
    }


def register_deployment(client: Any, spec: Spec, root: Path) -> tuple[str, str]:
    """Create or update a deployment; returns its full name and what was done."""
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound

    from flows.automations import CREATED, changes

    wanted, flow_name = wanted_fields(spec, root), load_flow(spec["entrypoint"]).name
    full_name = f"{flow_name}/{spec['name']}"
    try:
        there = client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        there = None
    changed = [] if there is None else [name for name in wanted if _differs(name, held(there)[name], wanted[name])]
    if there is None:
        identity = client.create_deployment(client.create_flow_from_name(flow_name), spec["name"], **wanted)
    else:
        identity = there.id
    if changed:  # not by creating it again, which would drop its schedules
        client.update_deployment(identity, DeploymentUpdate(**wanted))
    changed += _schedules(client, identity, spec.get("schedules", []))
    return full_name, CREATED if there is None else changes(changed)


def held(deployment: Any) -> dict[str, Any]:
    """A deployment as the server holds it, in the fields of `wanted_fields`."""
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    return {
        **deployment.model_dump(mode="json"),
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": options.model_dump(mode="json", exclude_none=True) if options else None,
    }


def _differs(name: str, held: Any, wanted: Any) -> bool:
    if name == "tags":
        return sorted(held) != sorted(wanted)
    if name == "concurrency_options" and held and wanted:  # the server adds defaults
        return any(held.get(key) != value for key, value in wanted.items())
    return bool(json.dumps(held, sort_keys=True) != json.dumps(wanted, sort_keys=True))


def _schedules(client: Any, deployment_id: Any, specs: list[Spec]) -> list[str]:
    """Bring the schedules into shape; a paused one stays paused. Returns what changed."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    there = {schedule.slug: schedule for schedule in client.read_deployment_schedules(deployment_id)}
    did = []
    for spec in specs:
        cron = CronSchedule(cron=spec["cron"], timezone=spec["timezone"])
        old, parameters = there.pop(spec["slug"], None), spec.get("parameters", {})
        if old is not None and (old.schedule, old.parameters) == (cron, parameters):
            continue
        active = spec.get("active", True) if old is None else old.active
        if old is not None:
            client.delete_deployment_schedule(deployment_id, old.id)
        new = DeploymentScheduleCreate(schedule=cron, active=active, slug=spec["slug"], parameters=parameters)
        client.create_deployment_schedules(deployment_id, [new])
        did.append(f"schedule {spec['slug']}")
    for slug, schedule in there.items():
        client.delete_deployment_schedule(deployment_id, schedule.id)
        did.append(f"schedule {slug or schedule.id} removed")
    return did


@contextlib.contextmanager
def server_client() -> Iterator[Any]:
    """A client of the server that is configured; a deployment on one that ends with this command serves nobody."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        raise ConfigError(
            "no Prefect server is configured",
            hint="nanochat up --local starts one; or export PREFECT_API_URL=http://host:4200/api",
        )
    with get_client(sync_client=True) as client:
        if (failure := client.api_healthcheck()) is not None:
            raise HardwareError(f"{PREFECT_API_URL.value()} does not answer: {failure}", hint="is the server up?")
        yield client
