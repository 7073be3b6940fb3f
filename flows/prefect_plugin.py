"""What Prefect loads into every process of a deployed run: a server that is away is waited for, from the first request.

Prefect's client tries a refused connection again only once it has been connected, so that a wrong address fails at
once. A process that starts while the server restarts, or a step that makes a client then, would fail at once as well,
and its run be called Crashed. The address of a run's process is the one that its worker has just used: it is right.

The entry point is in pyproject.toml; PREFECT_PLUGINS_ENABLED in prefect.yaml turns it on for runs, and for no command.
"""

from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient
from prefect.plugins import HookContext, register_hook


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Let each client of this process count as one that has been connected; it gives up after its own retries."""
    del ctx  # its name is Prefect's
    for client in (PrefectHttpxSyncClient, PrefectHttpxAsyncClient):
        client._has_connected = property(lambda _self: True, lambda _self, _value: None)
