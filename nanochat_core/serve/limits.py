"""What the server takes on before it says no: every bound in one place.

A bound that is met gives a clear refusal (400, 413, 429 with Retry-After), never a slow death: a queue without an end
only turns load into timeouts.
"""

from dataclasses import dataclass

from nanochat_core.base.errors import ConfigError

ROWS_CPU, ROWS_GPU = 8, 64
SHARE_KEPT = 8  # for every 8 rows or places one more of each kind, for those who ask for little and who hold none


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one server; those of the engine hold for each model."""

    num_rows: int = ROWS_CPU
    """Answers that are decoded together."""
    max_waiting: int = 128
    """Prompts beyond those rows that may wait; the next one gets 429."""
    max_prompts: int = 64
    """Prompts in one completion request."""
    max_body_bytes: int = 4 << 20
    max_header_bytes: int = 16 << 10
    max_connections: int = 1024
    """Fewer where the process may not have so many files open."""
    max_client_connections: int = 512
    """From one address; of IPv6 from one network."""
    max_unfinished_bytes: int = 64 << 20
    """Of all bodies that are being sent, the oldest of which is let go beyond, and of those that wait to be read."""
    max_unread_bytes: int = 256 << 20
    """Of all answers that are still being taken; the largest of them is let go beyond."""
    header_s: float = 10.0
    """From the connection, or from the answer before, until a request's header is whole."""
    body_s: float = 30.0
    """From the header until the body is whole; longer for a body that keeps the pace."""
    min_bytes_per_s: int = 16 << 10
    """The pace: what bodies and answers may take beyond their time."""
    keep_alive_s: float = 5.0
    """A connection without a request stays open for so long."""
    ping_s: float = 10.0
    """A comment goes out after so long, so that proxies do not take a long prefill for a dead connection."""
    stalled_s: float = 60.0
    """A reader that is behind for so long is let go, streamed or not: what it has not read is our memory."""
    shutdown_s: float = 10.0
    """Running answers may end within this time when the server is told to stop."""
    retry_after_max_s: int = 60

    def __post_init__(self) -> None:
        for name, least in (
            ("num_rows", 1),
            ("max_waiting", 0),
            ("max_prompts", 1),
            ("max_body_bytes", 1024),
            ("max_header_bytes", 1024),
            ("max_connections", 1),
            ("max_client_connections", 1),
            ("min_bytes_per_s", 1),
        ):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} = {value} is below {least}")
        for name in ("ping_s", "stalled_s", "shutdown_s", "header_s", "body_s", "keep_alive_s"):
            if (value := getattr(self, name)) <= 0:
                raise ConfigError(f"{name} = {value} must be above 0")

    @property
    def num_kept_rows(self) -> int:
        """Rows beyond `num_rows` for requests that ask for little, and as many for addresses that hold none."""
        return max(1, self.num_rows // SHARE_KEPT)

    @property
    def num_kept_places(self) -> int:
        """Places to wait beyond `max_waiting`, for single prompts, and as many for those of clients that hold none."""
        return self.max_waiting // SHARE_KEPT
