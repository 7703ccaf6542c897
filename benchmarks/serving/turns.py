"""A load generator must not wait for its core: what it was late by would count as latency of what it measures.

The scheduler of Linux lets a process that runs go on to the end of its turn of some milliseconds before another that has woken up
comes in. Whoever asks for shorter turns comes in at once (sched_setattr(2), `sched_runtime` under SCHED_OTHER, since Linux 6.12;
needs no privilege, says nothing of shares, and is passed on to children).
"""

import ctypes
import platform
import struct

SYSTEM_CALL = {"x86_64": 314, "aarch64": 274}
SHORTEST_NS = 100_000
ATTRIBUTES = struct.Struct("=IIQiIQQQII")
"""size, policy, flags, nice, priority, runtime, deadline, period, least and most utilisation."""


def take_short_turns() -> None:
    """For the calling thread and what it starts from now on. Does nothing where the system knows no such thing."""
    number = SYSTEM_CALL.get(platform.machine())
    if number is not None:
        attributes = ATTRIBUTES.pack(ATTRIBUTES.size, 0, 0, 0, 0, SHORTEST_NS, 0, 0, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)
