"""What the server takes on before it says no: every bound in one place.

A bound that is met gives a clear refusal (400, 413, 429 with Retry-After), never a slow death: a queue without an end
only turns load into timeouts.
"""

from dataclasses import dataclass

from nanochat_core.base.errors import ConfigError

ROWS_CPU, ROWS_GPU = 8, 64


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one server; those of the engine hold for each model."""

    num_rows: int = ROWS_CPU
    """Answers that are decoded together."""
    max_waiting: int = 128
    """Requests beyond those rows that may wait; the next one gets 429."""
    max_prompts: int = 64
    """Prompts in one completion request."""
    max_body_bytes: int = 4 << 20
    ping_s: float = 10.0
    """A comment goes out after so long, so that proxies do not take a long prefill for a dead connection."""
    stalled_s: float = 60.0
    """A reader that takes nothing of its stream for so long is let go: what it has not read is our memory."""
    shutdown_s: float = 10.0
    """Running answers may end within this time when the server is told to stop."""
    retry_after_max_s: int = 60

    def __post_init__(self) -> None:
        for name, least in (("num_rows", 1), ("max_waiting", 0), ("max_prompts", 1), ("max_body_bytes", 1024)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} = {value} is below {least}")
        for name in ("ping_s", "stalled_s", "shutdown_s"):
            if (value := getattr(self, name)) <= 0:
                raise ConfigError(f"{name} = {value} must be above 0")
