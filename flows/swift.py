"""The configuration of OpenStack Swift as an S3 server on loopback: three storage servers and the proxy that speaks S3.

One device, one copy, no worker processes: each server is one process, which a signal ends. Only the proxy has a port,
the storage servers have sockets (swift_daemon.py says why). `nanochat up --store swift` runs it, and the tests do.
"""

import contextlib
import getpass
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.stack import write_private

LOCK = Path(__file__).with_name("swift.lock")
"""The pinned versions, for a venv of its own."""
STORAGE_SERVICES = ("account", "container", "object")
FILTERS = ("catch_errors", "gatekeeper", "cache", "listing_formats", "bulk", "s3api", "tempauth", "slo", "dlo")
REGION = "us-east-1"
RING_TIMEOUT_S = 60
NO_ADDRESS = "192.0.2.1"  # of nobody (RFC 5737): started in any other way a storage server has nowhere to listen
DAEMON = Path(__file__).with_name("swift_daemon.py")

Sections = Mapping[str, Mapping[str, object]]


def configure(folder: Path, binaries: Path, ports: Mapping[str, int], *, key: str, secret: str) -> None:
    """Write etc/<service>-server.conf and the rings below `folder`.

    `ports` by service: those of STORAGE_SERVICES, which name their sockets, then "proxy". `key` is account:user, which
    may do everything.
    """
    etc, node = folder / "etc", folder / "node"
    for private in (folder, etc, node, node / "d1"):
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
        private.chmod(0o700)
    _write(etc / "swift.conf", {"swift-hash": {"swift_hash_path_prefix": "nanochat", "swift_hash_path_suffix": "1"}})
    for service, port in ports.items():
        default: dict[str, object] = {
            "bind_ip": "127.0.0.1" if service == "proxy" else NO_ADDRESS,
            "bind_port": port,
            "workers": 0,
            "swift_dir": etc,
            "log_level": "WARNING",
            "user": getpass.getuser(),
            "log_name": f"swift-{service}",
        }
        if service == "proxy":
            _write(etc / "proxy-server.conf", {"DEFAULT": default, **_proxy_sections(key, secret)})
        else:
            _write(etc / f"{service}-server.conf", _storage_sections(service, default, etc=etc, node=node))
            _write_ring(binaries, etc / f"{service}.builder", port)


def command(folder: Path, binaries: Path, service: str) -> list[str]:
    """What starts a service; `binaries` is the bin folder of Swift's environment."""
    return [str(binaries / "python"), "-I", str(DAEMON), service, str(folder / f"etc/{service}-server.conf")]


def answers(folder: Path, service: str, port: int) -> bool:
    """Whether a service listens."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        place: Any = ("127.0.0.1", port)
        if service != "proxy":
            sockets = os.open(folder / "etc/sockets", os.O_RDONLY)
            stack.callback(os.close, sockets)
            place = f"/proc/self/fd/{sockets}/{port}"
        probe = stack.enter_context(socket.socket(socket.AF_INET if service == "proxy" else socket.AF_UNIX))
        probe.settimeout(2)
        probe.connect(place)
        return True
    return False


def _storage_sections(service: str, default: Mapping[str, object], *, etc: Path, node: Path) -> Sections:
    return {
        "DEFAULT": {**default, "devices": node, "mount_check": "false", "fallocate_reserve": "1%"},
        "pipeline:main": {"pipeline": f"{service}-server"},
        f"app:{service}-server": {"use": f"egg:swift#{service}"},
        f"{service}-updater": {"recon_cache_path": etc},
    }


def _proxy_sections(key: str, secret: str) -> Sections:
    options: dict[str, dict[str, object]] = {
        "cache": {"use": "egg:swift#memcache", "memcache_servers": "127.0.0.1:9"},  # nobody there: nothing is cached
        "s3api": {"location": REGION, "s3_acl": "false", "dns_compliant_bucket_names": "yes"},
        "tempauth": {f"user_{key.replace(':', '_')}": f"{secret} .admin"},
    }
    return {
        "pipeline:main": {"pipeline": " ".join([*FILTERS, "proxy-server"])},
        "app:proxy-server": {
            "use": "egg:swift#proxy",
            "allow_account_management": "true",
            "account_autocreate": "true",
        },
        **{f"filter:{name}": {"use": f"egg:swift#{name}", **options.get(name, {})} for name in FILTERS},
    }


def _write_ring(binaries: Path, builder: Path, port: int) -> None:
    """2**4 partitions, one copy, one device."""
    builder.unlink(missing_ok=True)
    changes = (("create", "4", "1", "1"), ("add", f"r1z1-127.0.0.1:{port}/d1", "1"), ("rebalance",))
    for change in changes:
        command = [str(binaries / "swift-ring-builder"), str(builder), *change]
        subprocess.run(command, check=True, capture_output=True, timeout=RING_TIMEOUT_S)


def _write(path: Path, sections: Sections) -> None:
    lines = [
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in held.items()) for name, held in sections.items()
    ]
    write_private(path, "".join(lines))  # the proxy's holds the key
