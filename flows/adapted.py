"""What a server of ours does otherwise than Prefect's: the order of a run's artifacts, the words of a refusal."""

from collections.abc import Iterator
from typing import Any

from nanochat_core.presets import did_you_mean


def show_newest_artifacts_first() -> None:
    """A run's page sorts its artifacts by falling id, and ids are random; here they grow with time."""
    from prefect._internal.uuid7 import uuid7
    from prefect.server.schemas.core import Artifact

    Artifact.model_fields["id"].default_factory = uuid7
    Artifact.model_rebuild(force=True)


def suggest_settings() -> None:
    """A form's override that names no setting is refused with the one that may be meant, not with a list of all."""
    from prefect.utilities.schema_tools import validation

    rules = validation._VALIDATOR.VALIDATORS
    prefects = rules["pattern"]

    def pattern(validator: Any, wanted: str, value: Any, schema: Any) -> Iterator[Any]:
        for error in prefects(validator, wanted, value, schema):
            from flows.parameters import OVERRIDE  # what most servers never need

            if wanted == OVERRIDE and (meant := did_you_mean(str(value).partition("=")[0])):
                error.message = f"{value!r} is no section.field=value of a setting: {meant}"
            yield error

    rules["pattern"] = pattern
