"""A server of OpenStack Swift, its storage behind sockets in a folder: `python swift_daemon.py SERVICE CONF`.

Swift trusts its network: storage servers ask nobody for a key, and can only listen on ports, which every user of the
machine reaches. Here they listen on Unix sockets instead, in a folder that its owner alone may enter, and the proxy,
which does ask for keys, finds them there by the ring's port numbers. Run by the Python of Swift's own environment.
"""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import eventlet
from eventlet.green import socket
from swift.common import bufferedhttp, wsgi

BIN = Path(sys.executable).parent


def main() -> None:
    """Start what Swift's own script starts, with the two ends of a connection replaced."""
    service, conf = sys.argv[1:]
    folder = Path(conf).parent / "sockets"
    folder.mkdir(mode=0o700, exist_ok=True)
    sockets = Path(f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}")  # the kernel takes short names of sockets only

    def listen(settings: dict[str, Any]) -> Any:
        path = sockets / settings["bind_port"]
        path.unlink(missing_ok=True)
        return eventlet.listen(str(path), family=socket.AF_UNIX, backlog=4096)

    def connect(connection: Any) -> None:
        connection._connected_time = bufferedhttp.time.time()
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(sockets / str(connection.port)))

    if service != "proxy":
        wsgi.get_socket = listen
    bufferedhttp.BufferedHTTPConnection.connect = connect
    sys.argv = [f"swift-{service}-server", conf]
    runpy.run_path(str(BIN / sys.argv[0]), run_name="__main__")


if __name__ == "__main__":
    main()
