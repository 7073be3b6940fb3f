"""The job template of the gpu pool: rendered as Prefect renders it, valid for Kubernetes, kind to spot nodes."""

import asyncio
import copy
import json
from typing import Any
from uuid import uuid4

import jsonschema
import pytest
from conftest import ROOT
from prefect.client.schemas import FlowRun
from prefect.utilities.templating import apply_values, find_placeholders

from flows.stack_worker import GRACE_S

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="development requirements are not installed")
TEMPLATE = json.loads((ROOT / "infra/kubernetes/gpu-pool.json").read_text())
PROPERTIES = TEMPLATE["variables"]["properties"]


def job(**values: Any) -> dict[str, Any]:
    """The Job of one run, as the worker makes it: placeholders filled, env a list, the command split."""
    defaults = {name: held["default"] for name, held in PROPERTIES.items() if "default" in held}
    given = {"name": "a-run", "labels": {"prefect.io/flow-run-name": "a-run"}, "image": "example.org/nanochat:1"}
    given |= {"command": "prefect flow-run execute", "env": {"A": "1"}}
    manifest: dict[str, Any] = apply_values(TEMPLATE["job_configuration"], {**defaults, **given, **values})[
        "job_manifest"
    ]
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = container["args"].split()
    return manifest


def validate(manifest: dict[str, Any]) -> None:
    pod = copy.deepcopy(manifest)
    # prefect-kubernetes 0.8 refuses a manifest without these two in the pod, where Kubernetes knows (and drops) neither
    assert pod["spec"]["template"]["spec"].pop("parallelism") == 1
    assert pod["spec"]["template"]["spec"].pop("completions") == 1
    kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.parametrize(
    "values", [{}, {"gpus": 1, "node_selector": {"cloud.google.com/gke-spot": "true"}, "service_account_name": "runs"}]
)
def test_the_job_fits_the_schema_of_kubernetes(values: dict[str, Any]) -> None:
    manifest = job(**values)
    validate(manifest)
    limits = manifest["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == values.get("gpus", 8)
    assert manifest["spec"]["template"]["spec"]["nodeSelector"] == values.get("node_selector", {})


def test_a_misspelt_field_of_the_job_would_be_found() -> None:
    manifest = job()
    manifest["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(manifest)


def test_every_placeholder_has_a_variable_and_every_variable_a_place() -> None:
    used = {placeholder.name for placeholder in find_placeholders(TEMPLATE["job_configuration"])}
    assert used == set(PROPERTIES)


def test_the_variables_are_a_schema_that_its_own_defaults_fit() -> None:
    schema = TEMPLATE["variables"]
    jsonschema.Draft202012Validator.check_schema(schema)
    defaults = {name: held["default"] for name, held in PROPERTIES.items() if "default" in held}
    jsonschema.validate({"image": "x:1", **defaults}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**defaults, "image": "x:1", "gpus": 0}, schema)


def test_a_spot_node_that_goes_leaves_time_to_save_and_prefect_schedules_the_run_again() -> None:
    spec = job()["spec"]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= max(120, 2 * GRACE_S)
    assert spec["backoffLimit"] == 0, "with another value Kubernetes would start it again, beside Prefect"
    assert any(each["key"] == "nvidia.com/gpu" for each in spec["template"]["spec"]["tolerations"])


def test_secrets_come_from_a_secret_and_shared_memory_is_not_the_64_mb_of_containers() -> None:
    pod = job()["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "nanochat-store"}}]
    [shared] = [volume for volume in pod["volumes"] if volume["name"] == "shared-memory"]
    assert shared["emptyDir"]["medium"] == "Memory"
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_the_workers_password_is_not_written_into_the_job() -> None:
    """Whoever may look at jobs would read it; the Secret has it."""
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
    from prefect.workers.base import BaseJobConfiguration

    with temporary_settings({PREFECT_API_AUTH_STRING: "team:secret"}):
        values = {"image": "example.org/nanochat:1", "env": {"A": "1"}}
        making = BaseJobConfiguration.from_template_and_values(TEMPLATE, values, client=object())  # names no block
        configuration = asyncio.run(making)
        configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="a-run"))
    assert configuration.env["A"] == "1"
    assert "team:secret" not in str(configuration.env)
