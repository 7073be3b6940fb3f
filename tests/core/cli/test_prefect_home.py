"""A folder of Prefect that the installed one cannot use is said in a line that tells how to go on."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy

from nanochat_core.base.errors import NanochatError
from nanochat_core.cli.prefect_home import DATABASE, check, connection_url


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_SERVER_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)


def make(file: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def newest(file: Path, revision: str = "a3b9c7d2e5f1") -> None:
    make(file, "create table alembic_version(version_num)", f"insert into alembic_version values('{revision}')")


def newer(file: Path) -> None:
    newest(file, "ffff00001111")


def foreign(file: Path) -> None:
    make(file, "create table contacts(name)")


def no_database(file: Path) -> None:
    file.write_bytes(b"<html>" * 500)


def cut(file: Path) -> None:
    make(file, "create table alembic_version(version_num)", "create table log(text)", "create index i on log(text)")
    file.write_bytes(file.read_bytes()[:-4096])


def overwritten(file: Path) -> None:
    newest(file)
    make(file, "create table log(text)", "insert into log values (zeroblob(20000))")
    held = bytearray(file.read_bytes())
    held[4096:12288] = b"\xff" * 8192
    file.write_bytes(bytes(held))


def a_folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (newer, "revision ffff00001111: it is of a newer version of Prefect"),
        (foreign, "no database of Prefect"),
        (no_database, "damaged"),
        (cut, "damaged"),
        (overwritten, "damaged"),
        (a_folder, "cannot be read"),
    ],
)
def test_a_database_that_cannot_be_used_is_named(spoil: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    spoil(tmp_path / DATABASE)
    with pytest.raises(NanochatError, match=said) as caught:
        check(tmp_path)
    assert str(tmp_path / DATABASE) in caught.value.message
    assert f"mv {tmp_path / DATABASE}" in str(caught.value.hint)


def test_a_database_that_another_one_holds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat_core.cli.prefect_home.LOCK_WAIT_S", 0.1)
    newest(tmp_path / DATABASE)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        other.execute("begin exclusive")
        with pytest.raises(NanochatError, match="locked by another process"):
            check(tmp_path)


@pytest.mark.parametrize(
    "folder", ["team #1", "50%41 done", "what?", "a:b", "it's", 'say "x"', "[x]", "größe", "a" * 200]
)
def test_a_good_database_is_good_in_any_folder(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    newest(tmp_path / folder / DATABASE)
    check(tmp_path / folder)


@pytest.mark.parametrize("make", [Path.touch, lambda file: make(file, "create table alembic_version(version_num)")])
def test_a_database_that_is_not_made_yet_is_good(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / DATABASE)
    check(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NanochatError, match="cannot be written"):
        check(tmp_path / "file/prefect")


@pytest.mark.parametrize(
    ("profiles", "said"),
    [
        (b'active = "de', "profiles.toml cannot be read"),
        (b"\xff\xfe", "profiles.toml cannot be read"),
        (b"[profiles]\nmine = 3\n", "profiles.toml cannot be read"),
        (b'active = "absent"\n[profiles.mine]\n', "absent: there is no such profile"),
    ],
)
def test_profiles_that_cannot_be_used_are_named(profiles: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_bytes(profiles)
    with pytest.raises(NanochatError, match=said):
        check(tmp_path)


def test_a_profile_that_is_asked_for_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_PROFILE", "theirs")
    with pytest.raises(NanochatError, match="PREFECT_PROFILE = theirs"):
        check(tmp_path)
    (tmp_path / "profiles.toml").write_text('active = "gone"\n[profiles.theirs]\n')
    check(tmp_path)


@pytest.mark.parametrize("folder", ["team #1", "50%41 done", "what?", "what?a=b#c", "[x]", "größe"])
def test_sqlalchemy_opens_the_file_that_is_meant(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    database = tmp_path / folder / DATABASE
    engine = sqlalchemy.create_engine(connection_url(database).replace("+aiosqlite", ""))
    with engine.connect() as connection:
        connection.exec_driver_sql("create table t(x)")
    engine.dispose()
    assert database.is_file()
    assert [path.name for path in tmp_path.iterdir()] == [folder]
