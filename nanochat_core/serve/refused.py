"""The fields of requests that would change the answer and are not done here: one table, which docs/serving.md shows.

A value that asks for nothing (null, n = 1, no tools) is taken: clients write out their defaults.
"""

from dataclasses import dataclass
from typing import Any

from nanochat_core.serve.errors import ApiError


@dataclass(frozen=True)
class NotTaken:
    """A field that is refused unless it is null or one of `plain`."""

    name: str
    plain: tuple[Any, ...]
    reason: str

    def check(self, value: Any) -> None:
        """ApiError where the value asks for something."""
        if value is not None and value not in self.plain:
            raise unsupported(self.name, self.reason)


ONE_TEXT = "the model's answer is free text; nothing holds it to a form"
OWN_TOOLS = "the model has a calculator of its own and no other tools"
FORMS = (
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "json_schema",
    "grammar",
)
SAMPLED_FIELDS = (
    NotTaken("n", (1,), "one answer per request; send it again for another"),
    NotTaken("frequency_penalty", (0,), "tokens that were said are not made less likely"),
    NotTaken("presence_penalty", (0,), "tokens that were said are not made less likely"),
    NotTaken("logit_bias", ({},), "single tokens are not made more or less likely"),
    *(NotTaken(name, ("", {}), ONE_TEXT) for name in FORMS),
)
CHAT_FIELDS = (
    *SAMPLED_FIELDS,
    NotTaken("response_format", ({"type": "text"},), ONE_TEXT),
    NotTaken("tools", ([],), OWN_TOOLS),
    NotTaken("tool_choice", ("none", "auto"), OWN_TOOLS),
    NotTaken("functions", ([],), OWN_TOOLS),
    NotTaken("function_call", ("none", "auto"), OWN_TOOLS),
    NotTaken("web_search_options", (), OWN_TOOLS),
    NotTaken("modalities", (["text"], []), "the answer is text"),
    NotTaken("audio", (), "the answer is text"),
)
COMPLETION_FIELDS = (
    *SAMPLED_FIELDS,
    NotTaken("suffix", ("",), "the model writes forward only"),
    NotTaken("best_of", (1,), "one answer per request; send it again for another"),
)


def unsupported(name: str, reason: str) -> ApiError:
    return ApiError(400, f"{name} is not supported here: {reason}", param=name, code="unsupported_parameter")
