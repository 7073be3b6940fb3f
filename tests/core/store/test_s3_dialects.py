"""Object stores that are not Amazon: what cures itself does, what does not is named with its cure, in one line."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_s3 import BUCKET, FaultyS3, Refusal, Request

from nanochat_core.base.errors import ConfigError, HardwareError, MissingError, NanochatError
from nanochat_core.store import Store, s3, s3_open
from nanochat_core.store.failures import UnreachableError

URL = f"s3://{BUCKET}/team/store"
Refuse = Callable[[Request], Refusal | None]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the person who runs the tests, and no patience that tests would have to wait for."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr(s3_open, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(s3_open, "S3FS_RETRIES", 1)


@contextmanager
def served(
    monkeypatch: pytest.MonkeyPatch, refuse: Refuse = lambda request: None, *, certificate: Path | None = None
) -> Iterator[FaultyS3]:
    with FaultyS3(refuse, certificate=certificate) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


def always(status: int, code: str, message: str = "", more: str = "") -> Refuse:
    return lambda request: Refusal(status, code, message, more)


def opened(tmp_path: Path) -> Store:
    return Store.open(URL, cache_folder=tmp_path / "cache")


def error_of(call: Callable[[], object]) -> NanochatError:
    with pytest.raises(NanochatError) as caught:
        call()
    error = caught.value
    assert error.hint
    assert "\n" not in error.message + error.hint
    assert "s3cr3t" not in error.message + error.hint
    return error


def round_trip(store: Store) -> None:
    files = store.files
    files.write("a key/with é+%20", b"content")
    assert files.read("a key/with é+%20") == b"content"
    assert files.num_bytes("a key/with é+%20") == 7
    assert files.num_bytes("absent") is None
    assert files.create("once", b"1")
    assert not files.create("once", b"2")
    assert files.keys("") == ["a key/with é+%20", "once"]
    files.remove("once")
    assert files.read("once") is None


REFUSALS = [
    (403, "InvalidAccessKeyId", "", MissingError, "refuses the key", "AWS_ACCESS_KEY_ID"),
    (403, "SignatureDoesNotMatch", "", MissingError, "refuses the key", "AWS_SECRET_ACCESS_KEY"),
    (400, "ExpiredToken", "", MissingError, "has expired", "AWS_SESSION_TOKEN"),
    (400, "TokenRefreshRequired", "", MissingError, "has expired", "renew"),
    (403, "RequestTimeTooSkewed", "", MissingError, "clock", "timedatectl"),
    (403, "AccessDenied", "Access Denied", MissingError, "listing", "s3:ListBucket"),
    (404, "NoSuchBucket", "", MissingError, "does not exist", "create the bucket"),
    (301, "PermanentRedirect", "", MissingError, "another region", "AWS_REGION"),
    (400, "IllegalLocationConstraintException", "", MissingError, "another region", "AWS_REGION"),
    (411, "MissingContentLength", "", MissingError, "checksums", "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"),
    (400, "XAmzContentSHA256Mismatch", "", MissingError, "checksums", "AWS_REQUEST_CHECKSUM_CALCULATION"),
    (400, "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm'", MissingError, "checksums", "when_"),
    (501, "NotImplemented", "", MissingError, "does not offer", "another server"),
    (507, "XMinioStorageFull", "", HardwareError, "no room left", "free some space"),
    (503, "SlowDown", "", UnreachableError, "too busy", "wait"),
    (503, "ServiceUnavailable", "", UnreachableError, "too busy", "wait"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "code", "message", "kind", "said", "cure"), REFUSALS, ids=lambda value: str(value))
def test_each_refusal_is_one_line_with_its_cause_and_cure(
    monkeypatch, tmp_path, status, code, message, kind, said, cure
):
    with served(monkeypatch, always(status, code, message)):
        error = error_of(lambda: opened(tmp_path).artifacts())
    assert type(error) is kind
    assert said in error.message
    assert code in error.message
    assert cure in (error.hint or "")


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestTimeTooSkewed", "InvalidAccessKeyId"])
def test_a_bare_answer_to_a_head_is_explained_by_asking_again(monkeypatch, tmp_path, code):
    """The answer to a HEAD has no body: 400 could mean anything."""
    with served(monkeypatch) as server:
        store = opened(tmp_path)
        server.refuse = always(400, code)
        error = error_of(lambda: store.files.num_bytes("x"))
    assert code in error.message


def test_a_token_that_ends_in_mid_run_says_so_and_how_to_go_on(monkeypatch, tmp_path):
    with served(monkeypatch) as server:
        monkeypatch.setenv("AWS_SESSION_TOKEN", "t0ken")
        store = opened(tmp_path)
        server.refuse = always(400, "ExpiredToken", "The provided token has expired.")
        for use in (lambda: store.runs(), lambda: store.put_run("r", {}), lambda: store.find("s", "f")):
            error = error_of(use)
            assert "expired" in error.message
            assert "goes on" in (error.hint or "")
            assert "t0ken" not in error.message


def test_a_profile_whose_key_is_renewed_by_a_process_is_asked_anew_in_mid_run(monkeypatch, tmp_path):
    """credential_process, as IMDS and sign-on: the SDK renews what says when it ends."""
    asked = tmp_path / "asked"
    process = tmp_path / "process.sh"
    process.write_text(
        f'#!/bin/sh\necho x >> {asked}\necho \'{{"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "s",'
        f' "SessionToken": "t", "Expiration": "\'$(date -u -d "+30 seconds" +%Y-%m-%dT%H:%M:%SZ)\'"}}\'\n'
    )
    process.chmod(0o755)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {process}\n")
    with served(monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        store = opened(tmp_path)
        before = len(asked.read_text().split())
        store.runs()  # the key has less than the ten minutes left that botocore wants
        store.runs()
    assert len(asked.read_text().split()) > before


def test_checksums_that_nobody_asked_for_are_left_out(monkeypatch, tmp_path):
    """B2, older Ceph and Google's gateway refuse them."""

    def refuse(request: Request) -> Refusal | None:
        sent = [name.lower() for name in request.headers]
        is_about = any(name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer")) for name in sent)
        return Refusal(400, "InvalidArgument", "x-amz-sdk-checksum-algorithm") if is_about else None

    with served(monkeypatch, refuse):
        round_trip(opened(tmp_path))


def test_checksums_that_somebody_asked_for_are_sent(monkeypatch, tmp_path):
    with served(monkeypatch) as server:
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
        opened(tmp_path).put_run("r", {})
    assert any("x-amz-sdk-checksum-algorithm" in request.headers for request in server.seen)


@pytest.mark.parametrize("set_region", [None, "us-east-1", "eu-west-1"])
@pytest.mark.parametrize(
    "say",
    [
        lambda region: Refusal(400, "AuthorizationHeaderMalformed", "wrong", f"<Region>{region}</Region>"),
        lambda region: Refusal(400, "AuthorizationHeaderMalformed", f"the region 'x' is wrong; expecting '{region}'"),
    ],
    ids=["named", "in the words"],
)
def test_the_region_that_the_server_names_is_used(monkeypatch, tmp_path, set_region, say):
    def refuse(request: Request) -> Refusal | None:
        return None if request.region == "fr-par" else say("fr-par")

    with served(monkeypatch, refuse):
        if set_region:
            monkeypatch.setenv("AWS_REGION", set_region)
        store = opened(tmp_path)
        assert store.files.num_bytes("none") is None  # a HEAD: refused, it could not say which region is right
        round_trip(store)


def test_region_and_endpoint_of_a_profile_count(monkeypatch, tmp_path):
    with served(monkeypatch) as server:
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        (tmp_path / "config").write_text(f"[profile lab]\nregion = fr-par\nendpoint_url = {server.url}\n")
        monkeypatch.setenv("AWS_PROFILE", "lab")
        store = opened(tmp_path)
        round_trip(store)
        assert {request.region for request in server.seen} == {"fr-par"}
        assert not store.files.has_atomic_create  # only Amazon is taken at its word


def test_a_file_of_settings_that_cannot_be_read_is_named(monkeypatch, tmp_path):
    with served(monkeypatch):
        (tmp_path / "odd").write_text("no section = here")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "odd"))
        error = error_of(lambda: opened(tmp_path))
        assert str(tmp_path / "odd") in error.message
        assert "AWS_CONFIG_FILE" in str(error.hint)


def test_a_profile_that_is_not_there_is_named(monkeypatch, tmp_path):
    with served(monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "nobodys")
        error = error_of(lambda: opened(tmp_path))
    assert "nobodys" in error.message
    assert "AWS_PROFILE" in (error.hint or "")


def test_an_endpoint_of_amazon_is_amazon(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.eu-west-1.amazonaws.com")
    assert s3.endpoint() == s3.AWS


def test_a_server_that_wants_host_names_is_asked_by_them(monkeypatch, tmp_path):
    monkeypatch.setattr(s3_open, "_list_once", _wants_host_names)
    with served(monkeypatch):
        dialect = s3_open._dialect(s3.Files.__init__ and _location(), (OSError,))
    assert dialect.addressing == "virtual"


def _location():
    from nanochat_core.store.filesystem import parse_url

    return parse_url(URL)


def _wants_host_names(dialect: s3_open.Dialect, location: object) -> None:
    if dialect.addressing == "path":
        error = OSError("forbidden")
        error.response = {"Error": {"Code": "SecondLevelDomainForbidden"}}  # type: ignore[attr-defined]
        raise error


@pytest.mark.parametrize("code", ["NotImplemented", "InvalidArgument", "MethodNotAllowed"])
def test_a_server_without_conditional_puts_is_looked_at_first(monkeypatch, tmp_path, code):
    def refuse(request: Request) -> Refusal | None:
        return Refusal(501, code, "If-None-Match") if request.headers.get("If-None-Match") else None

    with served(monkeypatch, refuse):
        round_trip(opened(tmp_path))


@pytest.mark.parametrize("lacks", ["multipart uploads", "etags"])
def test_a_file_of_many_parts_goes_up_whole_where_the_server_has_no_parts(monkeypatch, tmp_path, lacks):
    def refuse(request: Request) -> Refusal | None:
        is_parts = lacks == "multipart uploads" and "uploads" in request.query
        return Refusal(501, "NotImplemented") if is_parts else None

    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    local = tmp_path / "big"
    local.write_bytes(os.urandom(11 << 20))
    with served(monkeypatch, refuse) as server:
        server.has_etags = lacks != "etags"
        opened(tmp_path).files.put(local, "big")
        assert server.objects["team/store/big"] == local.read_bytes()


def test_a_server_that_is_busy_at_first_is_opened(monkeypatch, tmp_path):
    with served(monkeypatch, lambda request: Refusal(503, "SlowDown") if request.number == 1 else None):
        round_trip(opened(tmp_path))


def test_a_key_that_may_not_list_says_which_right_it_needs(monkeypatch, tmp_path):
    with served(monkeypatch, lambda request: Refusal(403, "AccessDenied") if request.is_list else None):
        error = error_of(lambda: opened(tmp_path))
    assert "listing" in error.message
    assert "s3:ListBucket" in (error.hint or "")


def test_a_key_that_may_not_write_says_what_was_tried(monkeypatch, tmp_path):
    with served(monkeypatch, lambda request: Refusal(403, "AccessDenied") if request.method == "PUT" else None):
        store = opened(tmp_path)
        error = error_of(lambda: store.put_run("r", {}))
    assert "writing runs/" in error.message
    assert "s3:PutObject" in (error.hint or "")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate that nobody signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is needed to make a certificate")
    made = tmp_path / "self.pem"
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    made.write_bytes(key.read_bytes() + certificate.read_bytes())
    return made


def test_a_certificate_that_nobody_vouches_for_is_named_and_can_be_trusted(monkeypatch, tmp_path, certificate):
    with served(monkeypatch, certificate=certificate):
        error = error_of(lambda: opened(tmp_path))
        assert "certificate" in error.message
        assert "AWS_CA_BUNDLE" in (error.hint or "")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "cert.pem"))
        round_trip(opened(tmp_path))


@pytest.mark.parametrize(("server_has", "asked_by"), [("https", "http"), ("http", "https")])
def test_http_for_https_and_the_other_way_round_are_named(monkeypatch, tmp_path, certificate, server_has, asked_by):
    with served(monkeypatch, certificate=certificate if server_has == "https" else None) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", re.sub(r"^https?", asked_by, server.url))
        error = error_of(lambda: opened(tmp_path))
    assert f"speaks {server_has}, not {asked_by}" in error.message
    assert f"{server_has}://" in (error.hint or "")


def test_a_host_that_is_not_there_is_named(monkeypatch, tmp_path):
    with served(monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")
        error = error_of(lambda: opened(tmp_path))
    assert isinstance(error, UnreachableError)
    assert "no host of that name" in error.message


def test_an_address_without_http_is_refused(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "user:pass@storage:9000")
    with pytest.raises(ConfigError, match="no address"):
        s3_open.check_endpoint()


def test_a_password_in_the_address_is_not_shown(monkeypatch, tmp_path):
    with served(monkeypatch, always(404, "NoSuchBucket")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace("//", "//me:s3cr3t@"))
        error_of(lambda: opened(tmp_path))
