"""What Prefect's server is told of a run, without a server: parameters, their errors, and what a form refuses."""

import re

import pytest
from planted import ORDINARY, PLANTED, WORD
from prefect.utilities.schema_tools.validation import validate

from flows.deploy import ROOT, read, read_deployments, wanted_fields
from flows.parameters import FORM_PATTERN
from flows.speedrun import speedrun
from nanochat_core.base.errors import ConfigError


@pytest.fixture(scope="module")
def schema():
    """The form of the speedrun deployment, as it is registered."""
    [spec] = [spec for spec in read_deployments(ROOT) if spec["name"] == "speedrun"]
    return wanted_fields(spec, ROOT)["parameter_openapi_schema"]


@pytest.mark.parametrize("name", PLANTED)
def test_no_field_of_a_form_takes_a_secret(schema, name: str) -> None:
    secret = PLANTED[name]
    for parameters in (
        {"overrides": [f"core.url={secret}"]},
        {"settings": {"corpus_path": secret}},
        {"settings": {"corpus_dataset": f"  {secret} "}},
    ):
        assert validate(parameters, schema), "the API would keep it"


# a form is stricter where only a name tells: code that speaks of passwords is no setting
SPOKEN = re.compile("pass|secret|api_key|hook|_key|auth|\n", re.IGNORECASE)
TYPED = [text for text in ORDINARY if text and not SPOKEN.search(text)]


@pytest.mark.parametrize("text", TYPED)
def test_a_form_takes_what_is_no_secret(schema, text: str) -> None:
    assert validate({"settings": {"corpus_path": text}}, schema) == []


def test_a_form_s_pattern_is_one_that_a_browser_reads() -> None:
    """JSON schema has ECMAScript's patterns: no flags inside, no names in Python's form."""
    assert "(?P" not in FORM_PATTERN
    assert "(?i" not in FORM_PATTERN


@pytest.mark.parametrize("name", PLANTED)
def test_parameters_and_their_errors_are_told_without_secrets(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    secret = PLANTED[name]
    told = speedrun.serialize_parameters({"preset": "tiny", "overrides": [f"core.url={secret}", "seed=3"]})
    assert WORD.findall(str(told)) == []
    assert told["overrides"][1] == "seed=3"
    with pytest.raises(Exception, match="corpus_pth") as error:
        speedrun.validate_parameters({"preset": "tiny", "settings": {"corpus_pth": secret}})
    assert WORD.findall(repr(error.value) + str(capfd.readouterr())) == []


def test_the_flow_has_the_version_of_its_own_file_and_keeps_its_errors_clean() -> None:
    again = speedrun.with_options(name="another")
    assert again.version == speedrun.version
    assert speedrun.fn.__name__ == "speedrun"
    with pytest.raises(ConfigError, match="an address with a password"):
        speedrun.fn(overrides=[f"core.url={PLANTED['a password in an address']}"])


def test_job_variables_with_a_secret_are_not_registered(tmp_path) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(
        f"deployments:\n- name: x\n  work_pool: {{job_variables: {{env: {{HF_TOKEN: '{PLANTED['hub']}'}}}}}}\n"
    )
    with pytest.raises(
        ConfigError, match=r"prefect.yaml.deployments\[0\].work_pool.job_variables.env.HF_TOKEN"
    ) as error:
        read(path)
    assert WORD.findall(f"{error.value}") == []
    path.write_text("env: {HF_TOKEN: '{{ prefect.blocks.secret.hub }}'}\n")
    assert read(path)
