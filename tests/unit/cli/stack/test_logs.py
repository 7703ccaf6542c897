"""Logs of the parts: their last lines, their bound, what is read out of them, and going on as they grow."""

import io
from pathlib import Path

import pytest

from cli.stack import child, follow
from cli.stack.errors import cure_for, last_lines


def test_the_last_lines_of_this_run_only(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("old\n" * 100)
    began = log.stat().st_size
    with log.open("a") as file:
        file.write("one\ntwo\nthree\n")
    assert last_lines(log, 2, since=began) == ["two", "three"]
    assert last_lines(log, 9, since=began) == ["one", "two", "three"]
    assert last_lines(tmp_path / "absent.log", 9) == []


def test_a_log_is_bounded_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        assert not child.rotate(log, limit_bytes=100)
        writer.write(b"y")
        assert child.rotate(log, limit_bytes=100)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "part.log.1").read_bytes() == b"x" * 100 + b"y"


def test_following_shows_whole_lines_and_survives_a_cut(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    log.write_text("before\n")
    tail = follow.Tail(log)
    assert tail.new_lines() == []
    with log.open("a") as file:
        file.write("one\nhal")
        file.flush()
        assert tail.new_lines() == ["one"]
        file.write("f\n")
        file.flush()
        assert tail.new_lines() == ["half"]
    log.write_text("a\n")
    assert tail.new_lines() == ["a"]
    log.unlink()
    assert tail.new_lines() == []


def test_lines_of_several_parts_carry_their_names(tmp_path: Path) -> None:
    (tmp_path / "data.log").write_text("1\n2\n")
    (tmp_path / "serving.log").write_text("3\n")
    out = io.StringIO()
    follow.show(sorted(tmp_path.glob("*.log")), 1, out, labelled=True, following=False)
    assert out.getvalue() == "data    | 2\nserving | 3\n"


@pytest.mark.parametrize(
    ("log", "cure"),
    [
        ("FATAL: could not write: No space left on device", "disk is full"),
        ("[Errno 98] error while attempting to bind: address already in use", "--port-base"),
        ("ModuleNotFoundError: No module named 'torch'", "pip install"),
        ('FATAL: password authentication failed for user "relevo"', "DATABASE_URL"),
        ("PermissionError: [Errno 13] Permission denied: '/x'", "--home"),
        ("all is well", None),
        ("", None),
    ],
)
def test_known_words_bring_their_cure(log: str, cure: str | None) -> None:
    found = cure_for(log)
    assert found is None if cure is None else found is not None and cure in found
