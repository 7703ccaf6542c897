"""A load generator must not wait for its core: what it was late by would count as latency of what it measures.

The scheduler of Linux lets a process that runs go on to the end of its turn of some milliseconds before another that has woken up
comes in. Whoever asks for shorter turns comes in at once (sched_setattr(2), `sched_runtime` under SCHED_OTHER, since Linux 6.12;
needs no privilege, says nothing of shares, and is passed on to children).

    python -m benchmarks.serving.turns COMMAND [ARGUMENT ...]    the command, with short turns
"""

import ctypes
import os
import platform
import struct
import sys

SYSTEM_CALL = {"x86_64": 314, "aarch64": 274}
SHORTEST_NS = 100_000
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


if __name__ == "__main__":
    take_short_turns()
    os.execvp(sys.argv[1], sys.argv[1:])
