"""The Prefect server that somebody has configured: by a variable, a profile or a file beside the data.

Every verb that is going to talk to it asks it first (nanochat_core/cli/prefect_api.py), with the credentials that
Prefect's own client would use. Settings that Prefect cannot read are one line here, and not its traceback.
"""

import importlib.metadata
import os
import tomllib
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import ConfigError
from nanochat_core.cli import prefect_api
from nanochat_core.cli.prefect_api import Configured

FILES = (".env", "prefect.toml", "pyproject.toml")  # Prefect reads them in the current folder, before a profile


def settings() -> Any:
    """Prefect's settings."""
    try:
        from prefect.settings import get_current_settings

        return get_current_settings()
    except (OSError, ValueError) as error:  # pydantic's and tomllib's errors are ValueErrors
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"Prefect cannot read its settings: {' '.join(lines[:3])}",
            hint="look at the variables PREFECT_..., profiles.toml in PREFECT_HOME, prefect.toml and .env here",
        ) from error


def may_be_configured() -> bool:
    """Whether a file of the current folder may say something to Prefect; asking Prefect takes a second of import."""
    return any(os.access(name, os.R_OK) and _may_say(name) for name in FILES)


def _may_say(name: str) -> bool:
    """Of pyproject.toml Prefect reads its own table alone; a project may be called after it, as ours is."""
    if name != "pyproject.toml":
        return "prefect" in name + _text(name).lower()
    try:
        return "prefect" in tomllib.loads(_text(name)).get("tool", {})
    except ValueError:
        return True  # it says so itself


def check_configured() -> None:
    """Raise what is wrong with the configured server, within seconds."""
    api = settings().api
    verify: bool | str = not api.tls_insecure_skip_verify
    prefect_api.check(
        Configured(
            url=str(api.url),
            source=_source(str(api.url)),
            major=importlib.metadata.version("prefect").split(".")[0],
            headers=prefect_api.authorization(_secret(api.auth_string), _secret(api.key)),
            verify=str(api.ssl_cert_file) if verify and api.ssl_cert_file else verify,
        )
    )


def _text(name: str) -> str:
    return Path(name).read_text(encoding="utf-8", errors="replace") if os.path.isfile(name) else ""


def _secret(value: Any) -> str | None:
    return value.get_secret_value() if value else None


def _source(url: str) -> str:
    """Who names the server."""
    if os.environ.get("PREFECT_API_URL"):
        return "PREFECT_API_URL"
    for name in FILES:
        if url in _text(name):
            return f"PREFECT_API_URL of {Path(name).absolute()}"
    from prefect.context import get_settings_context

    return f"PREFECT_API_URL of the profile {get_settings_context().profile.name}"
