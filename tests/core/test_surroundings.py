"""What other machines have in our way is mended before a verb starts, and nothing that is of use is changed."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from nanochat_core import surroundings
from nanochat_core.base import proxies
from nanochat_core.base.errors import ConfigError
from nanochat_core.workspace import home_from_environment, user_home

VARIABLES = [name for name, _ in (*surroundings.KEPT_IN_HOME, *surroundings.READ_IN_HOME)]
PROXIES = [name for word in ("http", "https", "all", "no") for name in (f"{word}_proxy", f"{word}_PROXY".upper())]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a home and nothing set, in a folder that is there; all of it is put back."""
    for name in ["HOME", "NANOCHAT_HOME", "NANOCHAT_STORE", "LOGNAME", *VARIABLES, *PROXIES]:
        monkeypatch.setenv(name, "")  # remembered by monkeypatch, whoever changes it later
        monkeypatch.delenv(name)
    home = tmp_path / "user"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(proxies, "left_out", [])
    return tmp_path


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PWD"}


def test_a_machine_without_faults_is_left_as_it_is() -> None:
    before, folder = environment(), os.getcwd()
    assert surroundings.settle() == []
    assert (environment(), os.getcwd()) == (before, folder)


def test_a_folder_that_is_gone_is_left_for_one_whose_name_says_it(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = machine / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    [note] = surroundings.settle()
    assert "gone" in note
    assert Path("data").absolute().parent.name.startswith("current-folder-is-gone")
    assert os.listdir() == []


@pytest.mark.parametrize("name", ["NANOCHAT_HOME", "PREFECT_HOME", "NANOCHAT_STORE"])
def test_what_lies_below_a_folder_that_is_gone_is_refused(
    name: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = machine / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv(name, "mine")
    with pytest.raises(ConfigError, match=f"{name} = mine is below the current folder"):
        surroundings.settle()


def test_relative_folders_mean_the_same_in_children_that_stand_elsewhere(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NANOCHAT_HOME", "PREFECT_HOME", "NANOCHAT_STORE"):
        monkeypatch.setenv(name, "mine/")
    surroundings.settle()
    for name in ("NANOCHAT_HOME", "PREFECT_HOME", "NANOCHAT_STORE"):
        assert os.environ[name] == str(machine / "mine")


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "file:///a/b", "memory://x"])
def test_the_address_of_a_store_stays_an_address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_STORE", url)
    surroundings.settle()
    assert os.environ["NANOCHAT_STORE"] == url


@pytest.mark.parametrize("home", ["", "somewhere", "/dev/null/home", None])
def test_with_a_home_of_ours_no_other_home_is_needed(
    home: str | None, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", _no_entry)
    monkeypatch.setenv("NANOCHAT_HOME", str(machine / "ours"))
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    assert surroundings.settle() == []
    for name in ("PREFECT_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_HOME", "HOME"):
        assert Path(os.environ[name]).is_relative_to(machine / "ours"), name
    assert os.environ["LOGNAME"]


def test_what_people_keep_in_a_home_that_is_read_only_stays_in_use(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = machine / "user/.prefect/profiles.toml"
    profiles.parent.mkdir()
    profiles.touch()
    monkeypatch.setenv("NANOCHAT_HOME", str(machine / "ours"))
    monkeypatch.setattr(surroundings, "is_writable", lambda folder: folder.is_relative_to(machine / "ours"))
    surroundings.settle()
    assert os.environ["PREFECT_PROFILES_PATH"] == str(profiles)
    assert os.environ["HOME"] == str(machine / "user")
    assert Path(os.environ["PREFECT_HOME"]).is_relative_to(machine / "ours")


def test_what_somebody_has_set_is_not_moved(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(machine / "ours"))
    monkeypatch.setenv("HOME", "/dev/null/home")
    monkeypatch.setenv("MPLCONFIGDIR", "/a/b")
    surroundings.settle()
    assert os.environ["MPLCONFIGDIR"] == "/a/b"


@pytest.mark.parametrize("home", ["", "somewhere", None])
def test_without_any_home_one_line_says_what_to_set(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", _no_entry)
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    surroundings.settle()
    with pytest.raises(ConfigError) as caught:
        home_from_environment()
    assert "NANOCHAT_HOME" in str(caught.value.hint)


def test_the_system_knows_a_home_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert user_home() == Path(pwd.getpwuid(os.getuid()).pw_dir)


def _no_entry(uid: int) -> None:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@pytest.mark.parametrize(
    "given",
    [
        {"http_proxy": "http://127.0.0.1:9"},
        {"HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": "localhost"},
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"all_proxy": "socks5h://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1"},
        {"ALL_PROXY": "socks://127.0.0.1:9"},
        {"http_proxy": "proxy.invalid:3128"},
        {"http_proxy": "http://user:p#ss@proxy.invalid:80"},
        {"https_proxy": "ftp://proxy.invalid"},
        {"http_proxy": "http://[::1"},
        {"http_proxy": "http://127.0.0.1:9", "NO_PROXY": "localhost,127.0.0.1,::1,fd00::/8"},
        {"http_proxy": "http://127.0.0.1:9", "NO_PROXY": "localhost,[::1]"},
        {"http_proxy": "http://127.0.0.1:9", "no_proxy": "*"},
        {"NO_PROXY": "fe80::/10, 10.0.0.0/8 ,.corp.example,[::1]:80,é.example, 127.0.0.1:abc"},
    ],
)
def test_no_proxy_stands_between_us_and_this_machine(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    surroundings.settle()
    with httpx.Client() as client:  # Prefect's
        for host in ("127.0.0.1", "localhost", "[::1]"):
            transport = client._transport_for_url(httpx.URL(f"http://{host}:4200/api"))
            assert transport is client._transport, host


def test_what_no_client_reads_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://me:secret@proxy.example:1080")
    monkeypatch.setenv("NO_PROXY", "a.example,fd00::/8")
    notes = surroundings.settle()
    assert proxies.left_out == notes
    assert [name for name in ("ALL_PROXY = proxy.example:1080", "fd00::/8") if name in " ".join(notes)]
    assert "secret" not in " ".join(notes)
    assert os.environ["NO_PROXY"].startswith("a.example,")


def test_what_clients_read_stays_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", ".corp.example, 10.0.0.0/8,store.example:9000")
    assert surroundings.settle() == []
    assert os.environ["https_proxy"] == "http://me:secret@proxy.example:3128"
    assert os.environ["no_proxy"].split(",")[:3] == [".corp.example", "10.0.0.0/8", "store.example:9000"]


@pytest.mark.parametrize(
    "variables",
    [
        {"NO_PROXY": "localhost,127.0.0.1,::1,fd00::/8"},
        {"NO_PROXY": "localhost,[::1]", "HTTP_PROXY": "http://127.0.0.1:9"},
        {"ALL_PROXY": "socks5://127.0.0.1:9", "no_proxy": "localhost"},
        {"https_proxy": "proxy:port"},
    ],
)
def test_any_program_of_this_installation_makes_its_client(variables: dict[str, str], tmp_path: Path) -> None:
    """Workers are started by Prefect's own command: no verb of ours has mended what they see."""
    (tmp_path / proxies.HOOK).write_text(proxies.START)
    code = f"import site; site.addsitedir({str(tmp_path)!r}); import httpx; httpx.Client(); print('made')"
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-c", code]
    bare = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; import httpx; httpx.Client()"]
    done = subprocess.run(command, env=kept | variables, capture_output=True, text=True)
    assert done.stdout == "made\n", done.stderr
    if "fd00" in variables.get("NO_PROXY", ""):
        assert subprocess.run(bare, env=kept | variables, capture_output=True).returncode != 0, "httpx reads it by now"


def test_a_home_whose_name_is_not_utf8_is_refused_in_words(monkeypatch):
    monkeypatch.setenv("NANOCHAT_HOME", "/a/caf\udce9")
    with pytest.raises(ConfigError, match="/a/caf\ufffd has a name that is not UTF-8") as error:
        home_from_environment()
    assert "NANOCHAT_HOME" in str(error.value.hint)
