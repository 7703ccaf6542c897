"""As whom PostgreSQL runs. It refuses to be root, so root hands it to an ordinary user without opening private folders.

not root                     as this user
root, user namespaces work   as uid 1000 of a namespace of its own; outside, the files stay root's and private
root, namespaces forbidden   as `nobody`, when that user can reach the folder and the programs; else an error
"""

import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cli.stack import leash
from cli.stack.errors import StackError

NAMESPACE_UID = 1000
FALLBACK_USER = "nobody"
TRIED_WITHIN_S = 30.0


@dataclass(frozen=True)
class Account:
    """Options for the leash, and who owns the data folder seen from outside (None: whoever runs this)."""

    options: tuple[str, ...] = ()
    owner: tuple[int, int] | None = None


SAME_USER = Account()
NAMESPACE = Account(options=("--namespace", str(NAMESPACE_UID)), owner=(0, 0))


def for_engine(folder: Path, program: Path) -> Account:
    """Choose the account that can run `program` on data under `folder` (which exists).

    Raises:
        StackError: root may not use user namespaces here, and `nobody` cannot reach the folder or the program; or the
            program does not end when it is tried.
    """
    if os.geteuid() != 0:
        return SAME_USER
    if sys.platform == "linux" and runs(NAMESPACE, program, "--version"):
        return NAMESPACE
    return fallback(folder, program)


def fallback(folder: Path, program: Path) -> Account:
    """The account of `nobody`, checked by trying it. Others may from now on pass through `folder`, but not list it.

    Raises:
        StackError: it cannot reach the folder or the program, or the program does not end when it is tried.
    """
    user = pwd.getpwnam(FALLBACK_USER)
    folder.chmod(folder.stat().st_mode | 0o011)
    account = Account(options=("--user", f"{user.pw_uid}:{user.pw_gid}"), owner=(user.pw_uid, user.pw_gid))
    for path, reached in (
        (program, runs(account, program, "--version")),
        (folder, runs(account, "/usr/bin/test", "-x", folder)),
    ):
        if not reached:
            raise StackError(
                f"PostgreSQL refuses to run as root, this machine forbids user namespaces, and the user {FALLBACK_USER} "
                f"cannot reach {path}. Run relevo as an ordinary user, or install it and put --home where all users may "
                f"enter (such as /var/lib/relevo), or set DATABASE_URL to a server of your own."
            )
    return account


def runs(account: Account, program: str | os.PathLike[str], *arguments: str | os.PathLike[str]) -> bool:
    """Whether the program runs, and succeeds, under the account.

    Raises:
        StackError: it does not end.
    """
    try:
        result = subprocess.run(
            leash.command([program, *arguments], options=account.options), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=TRIED_WITHIN_S, check=False, cwd="/",
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise StackError(
            f"{os.fspath(program)} did not end within {late.timeout:.0f} s: this machine is overloaded, or the disk with "
            f"that program does not answer. See what keeps it busy and start again, or set DATABASE_URL to a server of "
            f"your own."
        ) from None
    return result.returncode == 0


def own(folder: Path, account: Account) -> None:
    """Give the folder, with all in it, to the account. Only root meets another owner: a fallback taken or left behind."""
    if account.owner is None or (folder.stat().st_uid, folder.stat().st_gid) == account.owner:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, *account.owner, follow_symlinks=False)
