"""The embedded engines: real servers that keep their data, refuse strangers, and say what is wrong with a folder."""

import shutil
import socket
from pathlib import Path

import psycopg
import pytest
import redis

from cli.stack import account, ports, postgres, valkey
from cli.stack.errors import StackError
from tests.engines import Engines, running_engines


def test_both_answer_and_keep_their_data(tmp_path: Path) -> None:
    with running_engines(tmp_path) as engines, psycopg.connect(engines.database_url, autocommit=True) as connection:
        version = connection.execute("SHOW server_version_num").fetchone()
        assert version is not None
        assert version[0].startswith(postgres.MAJOR)
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (7)")
        with redis.Redis.from_url(engines.redis_url) as client:
            client.set("kept", "7")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
    with running_engines(tmp_path) as engines, psycopg.connect(engines.database_url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(7,)]
        with redis.Redis.from_url(engines.redis_url) as client:
            assert client.get("kept") == b"7"


def test_settings_of_the_server(engines: Engines) -> None:
    with psycopg.connect(engines.database_url) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()
            for name in ("server_encoding", "timezone", "max_connections", "data_checksums", "full_page_writes")
        }
    assert shown == {
        "server_encoding": ("UTF8",),
        "timezone": ("UTC",),
        "max_connections": ("200",),
        "data_checksums": ("on",),
        "full_page_writes": ("on",),
    }


def test_strangers_are_refused(engines: Engines) -> None:
    without = engines.database_url.replace("for-tests-only", "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(without)
    with (
        redis.Redis.from_url(engines.redis_url.replace("for-tests-only", "wrong")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


async def test_what_does_not_answer_says_why() -> None:
    port = next(ports.free_ports(avoid=()))
    assert "refused" in (await postgres.not_ready(postgres.url(port, "x")) or "")
    assert "111" in (await valkey.not_ready(valkey.url(port, "x")) or "")


def test_an_interrupted_initialisation_is_done_again(tmp_path: Path) -> None:
    user = account.for_engine(tmp_path, postgres.programs() / "postgres")
    unfinished = tmp_path / "postgres.new"
    (unfinished / "base").mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres").mkdir()
    postgres.initialise(tmp_path / "postgres", "password", user)
    assert (tmp_path / "postgres" / "global" / "pg_control").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["postgres"]


@pytest.mark.parametrize("files", [("PG_VERSION",), ("notes.txt",)])
def test_a_folder_that_is_not_whole_is_left_alone(tmp_path: Path, files: tuple[str, ...]) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("18\n")
    with pytest.raises(StackError, match=r"not a whole PostgreSQL data folder.*left alone.*backup.*--home"):
        postgres.initialise(folder, "password", account.SAME_USER)
    assert sorted(path.name for path in folder.iterdir()) == sorted(files)


def test_data_of_another_release_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    (folder / "global").mkdir(parents=True)
    (folder / "global" / "pg_control").touch()
    (folder / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackError, match=r"made by PostgreSQL 16; this release runs 18"):
        postgres.initialise(folder, "password", account.SAME_USER)


def test_a_lock_file_with_the_number_of_another_program_is_dropped(tmp_path: Path) -> None:
    """After a restart of a container the pid in the file is often that of some other process."""
    with running_engines(tmp_path):
        lock = tmp_path / "postgres" / "postmaster.pid"
        held = lock.read_text()
        user = account.for_engine(tmp_path, postgres.programs() / "postgres")
        postgres.initialise(tmp_path / "postgres", "x", user)
        assert lock.exists()  # its process lives and is PostgreSQL in this folder
    lines = held.splitlines()
    lock.write_text("\n".join(["1", *lines[1:]]) + "\n")
    with running_engines(tmp_path) as engines:
        psycopg.connect(engines.database_url).close()


def test_a_port_taken_by_another_is_not_handed_out() -> None:
    with socket.socket() as server:
        server.bind((ports.LOOPBACK, 0))
        server.listen()
        assert not ports.is_free(server.getsockname()[1])


def test_a_failed_initialisation_leaves_nothing_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "programs", lambda: tmp_path / "bin")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "initdb"
    script.write_text("#!/bin/sh\necho 'initdb: error: could not write file: No space left on device' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(StackError, match=r"(?s)initdb failed.*No space left.*disk is full.*--home"):
        postgres.initialise(tmp_path / "postgres", "password", account.SAME_USER)
    shutil.rmtree(tmp_path / "bin")
    assert list(tmp_path.iterdir()) == []
