"""Start one program so that it cannot outlive its supervisor, under the user it may run as.

Run as a script (`python -I -S leash.py OPTIONS -- PROGRAM ARGUMENTS`), it prepares its own process and then becomes the
program. A launcher and no `preexec_fn`: running Python between fork and exec of a process with threads can deadlock.
It uses the standard library alone, so that starting it costs milliseconds.
"""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
CANNOT_ENTER = 125
"""Exit status when the process could not become the user asked for (the program itself did not run)."""


def command(
    program: Sequence[str | os.PathLike[str]],
    *,
    options: Sequence[str] = (),
    death_signal: int = signal.SIGKILL,
    parent: int | None = None,
) -> list[str]:
    """The argument list that runs `program` on a leash held by `parent` (default: this process).

    Args:
        options: `--namespace UID` or `--user UID:GID`; empty keeps the user.
        death_signal: what the kernel sends the program when the thread that started it ends.
    """
    leash = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    leash += [f"--parent={parent or os.getpid()}", f"--death-signal={int(death_signal)}", *options, "--"]
    return leash + [os.fspath(word) for word in program]


def enter_namespace(uid: int) -> None:
    """Move into a user namespace in which this process is the ordinary user `uid`.

    Outside nothing changes: files stay those of the real user, so a private folder stays private.
    The one-line maps of the caller's own ids need no privilege (user_namespaces(7)).
    """
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {outer_uid} 1")
    Path("/proc/self/gid_map").write_text(f"{uid} {outer_gid} 1")


def become(uid: int, gid: int) -> None:
    """Drop to another user for good."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def die_with_parent(parent: int, death_signal: int) -> None:
    """Ask the kernel for `death_signal` when the parent ends. Elsewhere than on Linux the next start sweeps what is left."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the request: no signal will come
        sys.exit(0)


def main(words: Sequence[str]) -> None:
    """Prepare this process, then become the program."""
    at = words.index("--")
    parser = argparse.ArgumentParser(prog="leash")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--namespace", type=int)
    parser.add_argument("--user")
    options = parser.parse_args(words[:at])
    program = words[at + 1 :]
    os.umask(0o077)
    try:
        if options.namespace is not None:
            enter_namespace(options.namespace)
        if options.user is not None:
            uid, gid = map(int, options.user.split(":"))
            become(uid, gid)
    except OSError as error:
        sys.stderr.write(f"leash: cannot become the user asked for: {error}\n")
        sys.exit(CANNOT_ENTER)
    # Last, because a change of user clears the request.
    die_with_parent(options.parent, options.death_signal)
    try:
        os.execvp(program[0], list(program))  # noqa: S606 - becoming the program is the point
    except OSError as error:
        sys.stderr.write(f"leash: cannot run {program[0]}: {error}\n")
        sys.exit(126 if isinstance(error, PermissionError) else 127)


if __name__ == "__main__":
    main(sys.argv[1:])
