"""`nanochat serve`: models of the store behind an OpenAI-compatible API, with the chat page at /.

It listens on this machine only. To be reached from elsewhere it wants a token: an open port to a model is an open port
to somebody's GPU.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.proxies import LOOPBACK
from nanochat_core.base.text import read_text

if TYPE_CHECKING:
    from nanochat_core.serve.data import DataSource
    from nanochat_core.serve.pool import ModelPool

MIN_TOKEN_CHARS = 8
SWITCH_S = 0.0005


def register(app: typer.Typer) -> None:
    """Add the verb of this module to the command line."""
    app.command()(serve)


def serve(
    refs: Annotated[
        list[str] | None, typer.Argument(help="Models: NAME or NAME@VERSION; default: the newest chat model, its base.")
    ] = None,
    port: Annotated[int, typer.Option(help="0: a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Another address than this machine's own needs a token.")] = "127.0.0.1",
    token_file: Annotated[Path | None, typer.Option(help="File with the token that clients must send.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    rows: Annotated[
        int | None, typer.Option(help="Answers decoded together; default: 8 on a CPU, 64 on a GPU.")
    ] = None,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait for a row.")] = 128,
    max_body_bytes: Annotated[int, typer.Option(help="Largest request.")] = 4 << 20,
    ping_s: Annotated[float, typer.Option(help="Seconds of silence in a stream before a comment is sent.")] = 10.0,
    shutdown_s: Annotated[float, typer.Option(help="Seconds that running answers get when the server stops.")] = 10.0,
    data: Annotated[bool, typer.Option("--data", help="Also show what the runs learnt from, at /data.")] = False,
) -> None:
    """Serve models over OpenAI's API, and the chat page.

    nanochat serve

    nanochat serve gpt2-chat gpt2-base --host 0.0.0.0 --token-file token.txt
    """
    token = _read_token(token_file)
    if host not in LOOPBACK and token is None:
        raise ConfigError(
            f"--host {host} lets others in, and there is no token",
            hint="openssl rand -hex 16 > token.txt, then --token-file token.txt",
        )
    if dtype not in ("auto", "bf16", "fp32"):
        raise ConfigError(f"there is no dtype {dtype!r}", hint="auto, bf16 or fp32")
    from nanochat_core import workspace
    from nanochat_core.base.hardware import pick_device
    from nanochat_core.serve.data import DataSource
    from nanochat_core.serve.limits import ROWS_CPU, ROWS_GPU, Limits
    from nanochat_core.serve.listen import limit_log
    from nanochat_core.serve.pool import ModelPool

    is_gpu = pick_device(device).type == "cuda"
    limits = Limits(
        num_rows=rows or (ROWS_GPU if is_gpu else ROWS_CPU), max_waiting=max_waiting, max_body_bytes=max_body_bytes,
        ping_s=ping_s, shutdown_s=shutdown_s,
    )  # fmt: skip
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    limit_log()
    space = workspace.current()
    store = space.store
    pool = ModelPool.from_store(store, refs or [], device=device, dtype=dtype, limits=limits, may_be_empty=data)
    run_server(pool, host=host, port=port, token=token, data=DataSource(store, space.home) if data else None)


def run_server(pool: "ModelPool", *, host: str, port: int, token: str | None, data: "DataSource | None" = None) -> None:
    """Listen until a signal ends it; the address is printed once connections are taken."""
    import uvicorn

    from nanochat_core.serve.listen import server_config

    # every operation of the engine gives the interpreter away and waits to get it back: 5 ms, as it is, beside a body
    # that is being read makes a step of a second
    sys.setswitchinterval(SWITCH_S)
    config = server_config(pool, token=token, host=host, port=port, data=data)
    try:
        listening = config.bind_socket()
    except SystemExit as error:  # uvicorn has logged the reason
        raise ConfigError(f"{host}:{port} cannot be listened on", hint="take another --port, or 0 for any") from error
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = read_text(path, error=ConfigError).strip()
    except OSError as error:
        raise MissingError(f"{path} cannot be read: {error.strerror}", hint="openssl rand -hex 16 > FILE") from error
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"{path} holds no usable token ({len(token)} characters)",
            hint=f"at least {MIN_TOKEN_CHARS} printable ASCII characters without blanks: openssl rand -hex 16 > FILE",
        )
    return token
