"""CPU time, read where the kernel keeps it: of this process, of others, and of the whole machine.

The last matters beside the others: loopback TCP does part of its work in soft interrupts, charged to no process.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

_CPUCLOCK_SCHED = 2  # Linux, posix-timers.h: the scheduler's clock of a whole thread group


def own_cpu_s() -> float:
    """Return the CPU seconds this process has used, all its threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds these running processes have used, in nanosecond resolution."""
    return sum(time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


def machine_busy_s() -> float:
    """Return the seconds the machine's cores were busy since boot, interrupts included."""
    fields = Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()
    user, nice, system, _idle, _wait, hard, soft, *_ = map(int, fields[1:])
    return (user + nice + system + hard + soft) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return *pid* and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [pid, *map(int, children)]
