"""A load generator must not wait for its core: what it was late by would count as latency of what it measures.

The scheduler of Linux lets a process that runs go on to the end of its turn of some milliseconds before another that has woken up
comes in. Whoever asks for shorter turns comes in at once (sched_setattr(2), `sched_runtime` under SCHED_OTHER, since Linux 6.12;
needs no privilege, says nothing of shares, and is passed on to children).

A kernel that preempts lazily (PREEMPT_LAZY, since Linux 6.13) lets it go on to the end of a tick of 4 ms all the same. Only a
process of a realtime class comes in at once there; that needs root or CAP_SYS_NICE.

    python -m benchmarks.serving.turns [--first] COMMAND [ARGUMENT ...]    the command, with short turns, or before all others
"""

import ctypes
import os
import platform
import struct
import sys

SYSTEM_CALL = {"x86_64": 314, "aarch64": 274}
SHORTEST_NS = 100_000
FIRST = "--first"
ATTRIBUTES = struct.Struct("=IIQiIQQQII")
"""size, policy, flags, nice, priority, runtime, deadline, period, least and most utilisation."""


def take_short_turns() -> None:
    """For the calling thread and what it starts from now on. Says so where the system does no such thing."""
    number, nice = SYSTEM_CALL.get(platform.machine()), os.getpriority(os.PRIO_PROCESS, 0)
    attributes = ATTRIBUTES.pack(ATTRIBUTES.size, 0, 0, nice, 0, SHORTEST_NS, 0, 0, 0, 0)
    taken = number is not None and ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0
    if not taken:
        print(
            "The load generator cannot ask for short turns here: latencies hold what it waits for its core.",
            file=sys.stderr,
        )


def go_first() -> None:
    """As `take_short_turns`, but before all else that wants the core, where that is allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        take_short_turns()


if __name__ == "__main__":
    command = sys.argv[1:]
    if command[0] == FIRST:
        go_first()
        del command[0]
    else:
        take_short_turns()
    os.execvp(command[0], command)
