"""The compose file fits the specification, has no default secrets, and starts its parts in an order that works."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
import yaml
from conftest import ROOT

from flows.stack_worker import GRACE_S, WORKER_S
from nanochat_core.base.process import die_with_parent
from nanochat_core.cli.prefect_api import authorization

FILE = ROOT / "infra/compose.yaml"
SECRETS = {name: f"secret-{name.lower()}" for name in ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")}
SECRETS["PREFECT_AUTH"] = "someone:else"
PINNED = re.compile(r"[a-z0-9./-]+@sha256:[0-9a-f]{64}")
VERSION = re.compile(r" *image: [^@ ]+@sha256:[0-9a-f]{64} # v?\d+\.\d+[\w.-]*")
CHECK = "import sys; from compose_spec import PyCompose; print(PyCompose.from_yaml(sys.stdin.read()).service_names())"


def configuration(
    validators: Path, folder: Path, environment: dict[str, str], file: Path = FILE
) -> "subprocess.CompletedProcess[str]":
    """What compose makes of the file: variables filled in, anchors merged, paths absolute."""
    (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    command = [str(validators / "podman-compose"), "--env-file", str(folder / "env"), "--file", str(file)]
    return subprocess.run(
        [*command, "--profile", "gpu", "config"],
        env={"PATH": f"{validators}:/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip


def fits_the_specification(validators: Path, text: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(validators / "python"), "-c", CHECK], input=text, capture_output=True, text=True)


@pytest.fixture(scope="module")
def config(validators: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = configuration(validators, tmp_path_factory.mktemp("compose"), SECRETS)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


def test_the_compose_file_fits_the_specification(validators: Path, config: dict[str, Any]) -> None:
    done = fits_the_specification(validators, yaml.safe_dump(config))
    assert done.returncode == 0, done.stderr
    parts = {"database", "store", "server", "deploy", "worker-cpu", "worker-gpu"}
    assert set(config["services"]) == parts
    assert all(f"'{part}'" in done.stdout for part in parts)


@pytest.mark.parametrize(
    ("service", "wrong"),
    [("server", {"healthchek": {}}), ("store", {"restart": "sometimes"}), ("database", {"stop_grace_period": "soon"})],
)
def test_a_mistake_would_be_found(
    validators: Path, config: dict[str, Any], service: str, wrong: dict[str, Any]
) -> None:
    services = {**config["services"], service: {**config["services"][service], **wrong}}
    done = fits_the_specification(validators, yaml.safe_dump({**config, "services": services}))
    assert done.returncode, f"{wrong} was accepted"


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_that_is_not_set_is_refused_and_none_has_a_default(
    validators: Path, tmp_path: Path, name: str
) -> None:
    for environment in ({**SECRETS, name: ""}, {key: value for key, value in SECRETS.items() if key != name}):
        done = configuration(validators, tmp_path, environment)
        assert done.returncode, f"started without {name}"
        assert name in done.stderr


def test_the_example_of_the_environment_names_what_the_file_asks_for_and_holds_no_secret() -> None:
    text = (ROOT / "infra/env.example").read_text()
    asked = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    given = dict(re.findall(r"^#?([A-Z_0-9]+)=(.*)$", text, re.MULTILINE))
    assert set(given) == asked
    assert {name for name, value in given.items() if not value} == set(SECRETS)
    ignored = (ROOT / "infra/.gitignore").read_text().split()
    assert ".env" in ignored


def test_what_waits_for_health_or_an_end_waits_for_something_that_has_one(config: dict[str, Any]) -> None:
    services = config["services"]
    conditions = []
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            conditions.append(wait["condition"])
            if wait["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"], f"{name} would wait for ever"
            else:
                assert services[other]["restart"] == "no", f"{other} never ends"
    assert set(conditions) == {"service_healthy", "service_completed_successfully"}


def test_images_are_pinned_and_what_is_kept_is_on_a_declared_volume(config: dict[str, Any]) -> None:
    for service in config["services"].values():
        image = service["image"]
        assert image in ("nanochat:cpu", "nanochat:cuda") or PINNED.fullmatch(image), "make pin-images"
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in config["volumes"]
    assert {"database", "store"} <= set(config["volumes"])
    named = [line for line in FILE.read_text().splitlines() if "@sha256:" in line]
    assert all(VERSION.fullmatch(line) for line in named), "people read versions, and make pin-images does"


def test_workers_get_the_time_that_runs_need_to_save(config: dict[str, Any]) -> None:
    for name in ("worker-cpu", "worker-gpu"):
        worker = config["services"][name]
        assert int(worker["stop_grace_period"].removesuffix("s")) > GRACE_S + WORKER_S
        assert worker["command"][:3] == ["python", "-m", "flows.stack_worker"]
        assert worker["init"], "somebody has to wait for the ends of processes whose parent is gone"
    [device] = config["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def test_only_the_server_can_be_reached_and_only_from_this_machine_and_with_a_password(config: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in config["services"].items() if "ports" in service}
    assert published == {"server": ["127.0.0.1:4200:4200"]}
    server, worker = (config["services"][name]["environment"] for name in ("server", "worker-cpu"))
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == worker["PREFECT_API_AUTH_STRING"] == SECRETS["PREFECT_AUTH"]
    assert not [secret for service in config["services"].values() for secret in SECRETS.values()
                if secret in str(service.get("command"))]  # fmt: skip


def test_the_settings_are_names_that_this_prefect_knows(config: dict[str, Any]) -> None:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    known = set(_get_settings_fields(Settings)) | {"PREFECT_LOGGING_EXTRA_LOGGERS"}
    used = {
        name
        for service in config["services"].values()
        for name in service.get("environment", {})
        if name.startswith("PREFECT_")
    }
    assert used
    assert used <= known, used - known


@pytest.mark.slow
def test_its_server_asks_for_the_password_and_answers_to_its_own_names(config: dict[str, Any], tmp_path: Path) -> None:
    """The command and the environment of the file, with SQLite for PostgreSQL and a port of this machine."""
    server = config["services"]["server"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [port if word == "4200" else word for word in server["command"]]
    environment = {**os.environ, **server["environment"], "PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{tmp_path}/prefect.db"
    process = subprocess.Popen([sys.executable, *command[1:]], env=environment, preexec_fn=die_with_parent)
    with_it = authorization(SECRETS["PREFECT_AUTH"], None)

    def status(path: str, **headers: str) -> int:
        return requests.get(f"http://127.0.0.1:{port}/api/{path}", headers=headers, timeout=60).status_code

    try:
        deadline = time.monotonic() + 240
        while subprocess.run(
            [sys.executable, str(ROOT / "infra/health.py"), f"http://127.0.0.1:{port}/api/ready"]
        ).returncode:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert status("version") == 401
        assert status("version", **with_it, Host="server:4200") == 200
        assert status("version", **with_it, Host="evil.example") == 403
        assert status("version", **with_it, Origin="http://evil.example") == 403
    finally:
        process.kill()
        process.wait()


def test_pin_images_writes_the_digests_that_the_registry_has(tmp_path: Path) -> None:
    """Of every image in both files, and nothing else of them."""
    docker, new = tmp_path / "docker", "a" * 64
    docker.write_text(
        "#!/bin/sh\n"
        f'test "$*" = "buildx imagetools inspect $4 --format {{{{.Manifest.Digest}}}}" && echo sha256:{new}\n'
    )
    docker.chmod(0o755)
    for name in ("compose.yaml", "Dockerfile", "pin_images.sh"):
        shutil.copy(ROOT / "infra" / name, tmp_path)
    told = subprocess.run(
        ["sh", str(tmp_path / "pin_images.sh")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=True,
        capture_output=True,
    ).stdout.decode()
    assert re.findall(r"^(\w+/?\w*):", told, re.MULTILINE) == ["postgres", "versity/versitygw", "python"]
    for name in ("compose.yaml", "Dockerfile"):
        before, after = (ROOT / "infra" / name).read_text(), (tmp_path / name).read_text()
        assert set(re.findall(r"sha256:(\w+)", after)) == {new}
        assert re.sub(r"sha256:\w+", "", after) == re.sub(r"sha256:\w+", "", before)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_ends_as_the_answer_says(status: int, code: int) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, str(ROOT / "infra/health.py"), f"http://127.0.0.1:{server.server_port}/health"]
        assert subprocess.run(command, capture_output=True).returncode == code
        server.shutdown()
    assert subprocess.run(command, capture_output=True).returncode == 1, "nobody listens there now"


def test_the_server_starts_the_program_that_is_locked() -> None:
    lock = re.search(r"^prefect==(.+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert lock
    assert yaml.safe_load((ROOT / "prefect.yaml").read_text())["prefect-version"] == lock[1]
    for file in ("infra/compose.yaml", "infra/Dockerfile"):
        text = (ROOT / file).read_text()
        assert not re.search(r"prefect(hq/prefect)?[:=]+\d", text), f"{file} names a version of its own"
    assert (ROOT / "infra/Dockerfile").read_text().count("-r requirements.lock") == 2
