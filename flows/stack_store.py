"""The S3 server of a stack of plain processes: which program is there, how it is started, its bucket.

Somebody's VersityGW (folders as buckets, atomic conditional writes from 1.8.0 on) or MinIO (archived in 2026, still
installed in many places) is taken, else SeaweedFS, which one wheel of PyPI installs anywhere. One copy of everything,
on one disk: for a team that has no object store yet.
"""

import shutil
from pathlib import Path

from flows import seaweedfs
from flows.stack import BUCKET, REGION, Stack
from flows.stack_process import Part
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.loopback import SILENT, ask


def installed() -> str | None:
    """The best S3 server that this machine has."""
    for program in ("versitygw", "minio"):
        if shutil.which(program):
            return program
    return "seaweedfs" if seaweedfs.program() else None


def parts(stack: Stack) -> list[Part]:
    """The processes of the stack's store; none where it is a folder or somebody else's."""
    folder, port = stack.path / "store", stack.ports[2]
    if stack.store == "seaweedfs":
        command, health = seaweedfs.command(seaweedfs.program() or Path("weed"), folder, stack.ports[2:]), "/healthz"
        environment = dict(seaweedfs.environment(folder))
    elif stack.store == "versitygw":
        command, health = (
            ["versitygw", "--port", f"127.0.0.1:{port}", "--health", "/health", "posix", str(folder)],
            "/health",
        )
        environment = {"ROOT_ACCESS_KEY": stack.store_key, "ROOT_SECRET_KEY": stack.store_secret}
    elif stack.store == "minio":
        command, health = ["minio", "server", str(folder), "--address", f"127.0.0.1:{port}"], "/minio/health/live"
        environment = {
            "MINIO_ROOT_USER": stack.store_key,
            "MINIO_ROOT_PASSWORD": stack.store_secret,
            "MINIO_BROWSER": "off",
        }
    else:
        return []
    return [
        Part(
            name="store",
            command=command,
            environment=environment,
            port=port,
            is_ready=lambda: answers_http(f"http://127.0.0.1:{port}{health}"),
            before=lambda: _prepare(stack, folder),
            after=lambda: make_bucket(stack.store_exports, BUCKET),
        )
    ]


def _prepare(stack: Stack, folder: Path) -> None:
    if stack.store == "seaweedfs":
        seaweedfs.configure(folder, key=stack.store_key, secret=stack.store_secret)
        seaweedfs.sweep(stack.ports[2:])


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
