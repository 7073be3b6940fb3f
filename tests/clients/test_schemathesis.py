"""schemathesis reads our OpenAPI description and tries what it allows and what it does not.

Checked: no request makes the server fail, every status, content type and body is one that is described, and what the
description forbids is refused.
"""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from model_server import byte_tokenizer, calculator_script, scripted_model, serve_here
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from nanochat_core.inference.engine import Engine
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.pool import ModelPool, ServedModel

pytestmark = pytest.mark.slow
DESCRIBED = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/{name}"),
    ("GET", "/health"), ("GET", "/metrics"), ("GET", "/tokenizer_info"), ("POST", "/tokenize"), ("POST", "/detokenize"),
]  # fmt: skip


@pytest.fixture(scope="module")
def schema():
    """The description of a server whose model has little room to talk."""
    tokenizer = byte_tokenizer()
    engine = Engine(scripted_model(calculator_script(tokenizer), context_tokens=48), tokenizer)
    card = ModelCard(id="m", ref="m@1", kind="chat", context_tokens=48, num_parameters=1)
    pool = ModelPool([ServedModel(card, lambda: engine)])
    with serve_here(pool) as url:
        pool.wait(60)
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_is_described(schema):
    described = {(one.ok().method.upper(), one.ok().path) for one in schema.get_all_operations()}
    assert described == set(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [(*one, GenerationMode.POSITIVE) for one in OPERATIONS]
    + [(*one, GenerationMode.NEGATIVE) for one in OPERATIONS if one[0] == "POST"],
)
def test_the_server_does_what_it_describes(schema, method, path, mode):
    checks = DESCRIBED if mode is GenerationMode.POSITIVE else [*DESCRIBED, negative_data_rejection]
    statuses = set()
    num_examples = 12 if method == "POST" else 3
    quick = settings(
        max_examples=num_examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip

    @quick
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def try_all(case):
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = None  # invented names would all end at 404
        statuses.add(case.call_and_validate(checks=checks).status_code)

    try_all()
    if mode is GenerationMode.POSITIVE and path != "/v1/models/{name}":
        assert 200 in statuses
