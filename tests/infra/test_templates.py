"""What infra/ renders is valid for the systems that read it, and starts the right verb on each node."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="development requirements are not installed")
RENDER = [sys.executable, str(ROOT / "infra/kubernetes/render.py")]
NEEDED = ["--image", "example.org/nanochat:1", "--store", "s3://bucket/runs"]


def render(*options: str) -> list[dict]:  # type: ignore[type-arg]
    done = subprocess.run([*RENDER, *NEEDED, *options], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize(
    "options", [[], ["--nodes", "1", "--gpus", "1"], ["--node-selector", "spot=true", "--set", "sft.path=a b.jsonl"]]
)
def test_the_manifests_fit_the_schemas_of_kubernetes(options: list[str]) -> None:
    for manifest in render(*options):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    _, job = render()
    job["spec"]["completion"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.37", strict=True)


@pytest.mark.parametrize("options", [["--name", "Nano_chat"], ["--nodes", "0"], ["--gpus", "-1"]])
def test_values_that_make_no_job_are_refused(options: list[str]) -> None:
    done = subprocess.run([*RENDER, *NEEDED, *options], capture_output=True, text=True)
    assert done.returncode
    assert done.stderr.startswith("error:")
    assert not done.stdout


@pytest.fixture
def echo(tmp_path: Path) -> dict[str, str]:
    """A `nanochat` that says how it was called, and nothing else on the path but the system."""
    script = tmp_path / "bin/nanochat"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nprintf "%s|" "$NANOCHAT_NODE_RANK" "$NANOCHAT_RENDEZVOUS" "$@"\n')
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:/usr/bin:/bin"}


@pytest.mark.parametrize(("rank", "verb"), [("0", "run"), ("1", "node"), ("7", "node")])
def test_each_pod_starts_its_part_of_the_job(rank: str, verb: str, echo: dict[str, str]) -> None:
    _, job = render("--nodes", "8", "--set", "sft.path=a b.jsonl")
    [container] = job["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in container["env"]}
    command = [*container["command"], *container["args"]]
    environment = {**echo, **given, "JOB_COMPLETION_INDEX": rank}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split("|")
    assert said[:4] == [rank, "nanochat-0.nanochat:29500", verb, "gpt2"]
    assert "sft.path=a b.jsonl" in said
    assert "runtime.num_nodes=8" in said
    assert ("--yes" in said) == (verb == "run")


@pytest.mark.parametrize(("rank", "verb"), [("0", "run"), ("3", "node")])
def test_each_slurm_task_starts_its_part_of_the_job(rank: str, verb: str, echo: dict[str, str]) -> None:
    environment = {**echo, "SLURM_NODEID": rank, "SLURM_NNODES": "4", "NANOCHAT_RENDEZVOUS": "first:1"}
    command = [str(ROOT / "infra/slurm/node.sh"), "gpt2", "--set", "sft.path=a b.jsonl"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split("|")
    assert said[:4] == [rank, "first:1", verb, "gpt2"]
    assert {"sft.path=a b.jsonl", "runtime.num_nodes=4"} <= set(said)


def test_outside_of_slurm_the_script_says_so(echo: dict[str, str]) -> None:
    done = subprocess.run([str(ROOT / "infra/slurm/node.sh"), "gpt2"], env=echo, capture_output=True, text=True)
    assert done.returncode
    assert "start this with srun" in done.stderr


@pytest.mark.parametrize("script", ["infra/slurm/train.sbatch", "infra/slurm/node.sh", "infra/lock.sh"])
def test_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)
