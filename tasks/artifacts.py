"""Prefect's artifacts, which everybody who sees the server's page reads: those of ours come without secrets."""

import functools
from collections.abc import Callable
from typing import Any

from prefect import artifacts

from nanochat_core.base.redaction import redact_value


def _redacting(publish: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(publish)
    def call(*args: Any, **kwargs: Any) -> Any:
        return publish(*redact_value(args), **redact_value(kwargs))

    return call


create_link_artifact = _redacting(artifacts.create_link_artifact)
create_markdown_artifact = _redacting(artifacts.create_markdown_artifact)
create_progress_artifact = _redacting(artifacts.create_progress_artifact)
create_table_artifact = _redacting(artifacts.create_table_artifact)
update_progress_artifact = _redacting(artifacts.update_progress_artifact)
