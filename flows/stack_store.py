"""The S3 server of a stack of plain processes: which program is there, how it is started, its bucket.

VersityGW (folders as buckets, maintained, atomic conditional writes from 1.8.0 on) is taken first, then MinIO (archived
in 2026, still installed in many places), then OpenStack Swift in a venv of its own: it comes from PyPI, so `--store
swift` can install it anywhere. One copy of everything, on one disk: for a team that has no object store yet.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from flows import swift
from flows.stack import BUCKET, REGION, Stack
from flows.stack_process import Part
from flows.swift import LOCK, STORAGE_SERVICES
from nanochat_core.base.errors import HardwareError, NanochatError
from nanochat_core.base.loopback import SILENT, ask
from nanochat_core.workspace import home_from_environment

INSTALL_TIMEOUT_S = 900


def installed() -> str | None:
    """The best S3 server that this machine has."""
    for program in ("versitygw", "minio"):
        if shutil.which(program):
            return program
    return "swift" if swift_is_installed() else None


def parts(stack: Stack) -> list[Part]:
    """The processes of the stack's store; none where it is a folder or somebody else's."""
    folder, port = stack.path / "store", stack.ports[2]
    if stack.store == "swift":
        return _swift_parts(stack, folder)
    if stack.store == "versitygw":
        command = ["versitygw", "--port", f"127.0.0.1:{port}", "--health", "/health", "posix", str(folder)]
        keys, health = ("ROOT_ACCESS_KEY", "ROOT_SECRET_KEY"), "/health"
    elif stack.store == "minio":
        command = ["minio", "server", str(folder), "--address", f"127.0.0.1:{port}"]
        keys, health = ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"), "/minio/health/live"
    else:
        return []
    environment = dict(zip(keys, (stack.store_key, stack.store_secret), strict=True)) | {"MINIO_BROWSER": "off"}
    return [
        Part(
            name="store",
            command=command,
            environment=environment,
            port=port,
            is_ready=lambda: answers_http(f"http://127.0.0.1:{port}{health}"),
            after=lambda: make_bucket(stack.store_exports, BUCKET),
        )
    ]


def make_bucket(exports: dict[str, str], bucket: str) -> None:
    """Create a bucket, if it is not there."""
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = botocore.session.Session().create_client(
        "s3",
        endpoint_url=exports.get("AWS_ENDPOINT_URL"),
        region_name=exports.get("AWS_REGION", REGION),
        aws_access_key_id=exports["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=exports["AWS_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 8}),
    )
    try:
        if bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise NanochatError(f"the bucket {bucket} cannot be made: {error}", hint="see the log of the store") from error


def answers_http(url: str) -> bool:
    """Whether a GET is answered with a success."""
    try:
        ask(url, timeout_s=5).close()
    except SILENT:
        return False
    return True


def swift_is_installed() -> bool:
    done = _swift_venv() / "installed.lock"
    return done.is_file() and _pins(done) == _pins(LOCK)


def install_swift() -> None:
    """Install the pinned versions into a venv in the home; a half-made one is made again."""
    if swift_is_installed():
        return
    venv = _swift_venv()
    shutil.rmtree(venv, ignore_errors=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
    try:
        _run(sys.executable, "-m", "venv", str(venv))
        _run(*pip, "install", "--quiet", "--no-deps", "--requirement", str(LOCK))
        _run(*pip, "check")
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
        raise HardwareError(f"OpenStack Swift cannot be installed: {said[-300:]}", hint="--store folder") from error
    shutil.copyfile(LOCK, venv / "installed.lock")


def _swift_venv() -> Path:
    version = next((pin for pin in _pins(LOCK) if pin.startswith("swift==")), "swift").replace("==", "-")
    return home_from_environment() / f"tools/{version}-py{sys.version_info.major}{sys.version_info.minor}"


def _pins(lock: Path) -> list[str]:
    return (
        [line for line in lock.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
        if lock.is_file()
        else []
    )


def _swift_parts(stack: Stack, folder: Path) -> list[Part]:
    """Three storage servers and the proxy that speaks S3, each one process."""
    binaries = _swift_venv() / "bin"
    ports = {"proxy": stack.ports[2], **dict(zip(STORAGE_SERVICES, stack.ports[3:], strict=False))}

    def part(service: str, name: str) -> Part:
        port = ports[service]
        return Part(
            name=name,
            command=swift.command(folder, binaries, service),
            port=port if service == "proxy" else None,
            is_ready=lambda: swift.answers(folder, service, port),
            before=lambda: _configure_swift(stack, folder, binaries, ports),
            after=(lambda: make_bucket(stack.store_exports, BUCKET)) if service == "proxy" else lambda: None,
        )

    return [*(part(service, f"store-{service}") for service in STORAGE_SERVICES), part("proxy", "store")]


def _configure_swift(stack: Stack, folder: Path, binaries: Path, ports: dict[str, int]) -> None:
    """Write the configuration once: other hash affixes or rings would hide all objects."""
    done = folder / "etc/complete"
    if not done.is_file():
        swift.configure(folder, binaries, ports, key=stack.store_key, secret=stack.store_secret)
        done.touch()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S)
