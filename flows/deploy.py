"""`nanochat deploy`: bring a Prefect server into the shape that prefect.yaml and deployments/ describe.

Doing it twice changes nothing, and what people changed in the UI stays and is named (written.py). Prefect's own
`deploy` ignores a misspelt key, overwrites what was edited and keeps schedules that are gone from the file; this one
does none of the three.
"""

import contextlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from flows.configured import check_configured, settings
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.redaction import redact_value, refuse
from nanochat_core.base.text import read_text
from nanochat_core.cli.app import Json

if TYPE_CHECKING:
    from flows.written import Decision, Written

ROOT = Path(__file__).resolve().parents[1]
DEPLOYMENT_KEYS = {
    "name", "entrypoint", "description", "tags", "parameters", "enforce_parameter_schema", "work_pool", "schedules",
    "concurrency_limit",
}  # fmt: skip
SCHEDULE_KEYS = {"cron", "timezone", "active", "slug", "parameters"}
OURS = (
    "entrypoint",
    "path",
    "parameter_openapi_schema",
    "pull_steps",
    "version",
)  # follow the code, whoever edits them
SHOWN_CHARS = 60  # of a value in the list
Spec = dict[str, Any]


@dataclass(frozen=True)
class Registered:
    """One thing on the server and what was done to it."""

    kind: str
    name: str
    did: str
    """created, "updated: ..." or unchanged."""
    kept: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Fields that somebody changed on the server: what it has, what the files say."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(deploy)


def deploy(
    names: Annotated[list[str] | None, typer.Argument(help="Deployments of prefect.yaml.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Undo what was changed on the server.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Register deployments, work pools, limits and automations on your Prefect server; again is no harm.

    What people changed in the UI (a schedule, a limit, a parameter) stays, and is named.

    nanochat deploy --all

    nanochat deploy speedrun gpu_step --dry-run
    """
    if bool(names) == everything:
        known = ", ".join(spec["name"] for spec in read_deployments(ROOT))
        raise ConfigError("say which deployments", hint=f"--all, or some of: {known}")
    done = list(register_all(ROOT, names or None, overwrite=overwrite, dry_run=dry_run))
    if as_json:
        print(json.dumps([asdict(item) for item in done], indent=1))
        return
    for item in done:
        print(f"{item.kind:<11} {item.name:<24} {item.did}")
        for name, (there, file) in item.kept.items():
            print(f"{'':<11} {'':<24} kept {name}: the server has {_short(there)}, the file says {_short(file)}")
    if any(item.kept for item in done):
        print("\nkept: what was changed on the server; --overwrite writes what the files say")


def _short(value: Any) -> str:
    """A value on one line."""
    text = json.dumps(redact_value(value), ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def register_all(
    root: Path, names: Sequence[str] | None = None, *, overwrite: bool = False, dry_run: bool = False
) -> Iterator[Registered]:
    """Register the deployments of `root`/prefect.yaml (all, or those named) and what they need."""
    specs = chosen(read_deployments(root), names)  # before anything is changed
    folder = described(root) / "deployments"
    pools, automations = read(folder / "pools.yaml"), read(folder / "automations.yaml")
    with server_client() as client:
        from flows import automations as register
        from flows.written import Written

        written = Written(client, overwrite=overwrite, dry_run=dry_run)
        for kind, sort, one in (
            ("work pool", pools["work_pools"], register.register_pool),
            ("automation", automations["automations"], register.register_automation),
        ):
            for spec in sort:
                yield _registered(kind, spec["name"], one(client, written, spec), written)
        for spec in specs:
            full_name = f"{load_flow(spec['entrypoint']).name}/{spec['name']}"
            yield _registered("deployment", full_name, register_deployment(client, written, spec, root), written)
        written.save()


def _registered(kind: str, name: str, decision: "Decision | None", written: "Written") -> Registered:
    return Registered(kind, name, written.told(decision), {} if decision is None else decision.kept)


def described(root: Path) -> Path:
    """Where prefect.yaml and deployments/ are: at the top of a clone, beside the flows in an installed package."""
    return root if (root / "prefect.yaml").is_file() else root / "flows"


def read(path: Path) -> Any:
    """A YAML file."""
    if not path.is_file():
        raise MissingError(f"{path} is not there", hint="restore it (git checkout), or install the package again")
    try:
        described = yaml.safe_load(read_text(path, error=ConfigError))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    refuse(described, path.name, hint="give it to the worker by its environment, or name a block of Prefect's")
    return described


def read_deployments(root: Path) -> list[Spec]:
    """The deployments of prefect.yaml, with every key known."""
    specs: list[Spec] = read(described(root) / "prefect.yaml")["deployments"]
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

    from flows.parameters import form_schema

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
        "parameter_openapi_schema": form_schema(parameter_schema(flow).model_dump_for_openapi()),
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(root)}}],
        "concurrency_limit": limit["limit"] if limit else None,
        "concurrency_options": options,
        "version": flow.version,
    }


def register_deployment(client: Any, written: "Written", spec: Spec, root: Path) -> "Decision | None":
    """Create or update a deployment, never by creating it again, which would drop its schedules."""
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound

    from flows.written import Decision

    wanted, flow_name = wanted_fields(spec, root), load_flow(spec["entrypoint"]).name
    thing = f"deployment {flow_name}/{spec['name']}"
    theirs = {name: _compared(name, value) for name, value in wanted.items() if name not in OURS}
    try:
        there = client.read_deployment_by_name(f"{flow_name}/{spec['name']}")
    except ObjectNotFound:
        if not written.dry_run:
            identity = client.create_deployment(client.create_flow_from_name(flow_name), spec["name"], **wanted)
            _schedules(client, written, identity, spec)
        written.created(thing, theirs)
        return None
    has = held(there)
    decision = written.decide(thing, {name: _compared(name, has[name], wanted[name]) for name in theirs}, theirs)
    changed = [*decision.changed, *(name for name in OURS if json_of(has[name]) != json_of(wanted[name]))]
    if changed and not written.dry_run:
        client.update_deployment(there.id, DeploymentUpdate(**{name: wanted[name] for name in changed}))
    schedules = _schedules(client, written, there.id, spec)
    return Decision((*changed, *schedules.changed), {**decision.kept, **schedules.kept})


def held(deployment: Any) -> dict[str, Any]:
    """A deployment as the server holds it, in the fields of `wanted_fields`."""
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    return {
        **deployment.model_dump(mode="json"),
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": options.model_dump(mode="json", exclude_none=True) if options else None,
    }


def _compared(name: str, value: Any, wanted: Any = None) -> Any:
    """A field in the form in which it is compared: without the defaults that a server adds to concurrency options."""
    if name == "concurrency_options" and value and wanted:
        return {key: value.get(key) for key in wanted}
    return value


def json_of(value: Any) -> str:
    """The one text of a JSON value."""
    return json.dumps(value, sort_keys=True)


def _schedules(client: Any, written: "Written", deployment_id: Any, spec: Spec) -> "Decision":
    """Bring the schedules into shape: one that was edited, paused, taken away or added on the server stays so."""
    from flows.written import Decision

    there = {schedule.slug: schedule for schedule in client.read_deployment_schedules(deployment_id)}
    prefix, changed, kept = f"schedule {spec['name']} ", list[str](), dict[str, tuple[Any, Any]]()
    entries = {entry["slug"]: entry for entry in spec.get("schedules", [])}
    for slug, entry in entries.items():
        decision = _schedule(client, written, deployment_id, prefix + slug, entry, there.get(slug))
        changed += [f"schedule {slug}"] if decision is None or decision.changed else []
        kept |= {f"schedule {slug} {name}".strip(): pair for name, pair in (decision.kept if decision else {}).items()}
    for slug in set(written.of(prefix)) - set(entries):  # gone from the file
        if slug in there and not written.dry_run:
            client.delete_deployment_schedule(deployment_id, there[slug].id)
        changed += [f"schedule {slug} removed"] if slug in there else []
        written.forget(prefix + slug)
    return Decision(tuple(changed), kept)


def _schedule(
    client: Any, written: "Written", deployment_id: Any, thing: str, entry: Spec, there: Any
) -> "Decision | None":
    """One schedule of the file; `there`: as the server has it, or None."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    from flows.written import Decision

    cron = CronSchedule(cron=entry["cron"], timezone=entry["timezone"])
    wanted = {"schedule": cron, "parameters": entry.get("parameters", {}), "active": entry.get("active", True)}
    fields = {**wanted, "schedule": cron.model_dump(mode="json")}
    if there is None and written.knows(thing):
        return Decision(kept={"": (None, entry["cron"])})  # somebody took it away
    if there is None:
        if not written.dry_run:
            new = DeploymentScheduleCreate(**wanted, slug=entry["slug"])
            client.create_deployment_schedules(deployment_id, [new])
        written.created(thing, fields)
        return None
    held = {**there.model_dump(), "schedule": there.schedule.model_dump(mode="json")}
    decision = written.decide(thing, held, fields)
    if decision.changed and not written.dry_run:
        values = {name: wanted[name] for name in decision.changed}
        client.update_deployment_schedule(deployment_id, there.id, **values)
    return decision


@contextlib.contextmanager
def server_client() -> Iterator[Any]:
    """A client of the server that is configured; a deployment on one that ends with this command serves nobody."""
    if not settings().api.url:
        raise ConfigError(
            "no Prefect server is configured",
            hint="nanochat up --local starts one; or export PREFECT_API_URL=http://host:4200/api",
        )
    check_configured()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield client
