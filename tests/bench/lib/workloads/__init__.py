"""Everything that is measured, in the order of the run."""

from .handing import Big, Burst, Latency
from .resting import Idle, Size
from .waiting import Backlog, Memory, Output, Start

ALL = [
    Latency("latency", "static", 5),
    Latency("latency-sh", "sh", 2),
    Backlog(1000, 200),
    Backlog(1000, 200, kind="sh", rounds=3),
    Backlog(10_000, 500, rounds=2),
    Backlog(100_000, 1000, rounds=1),
    Burst(),
    Start(),
    Idle(),
    Memory(),
    Output(),
    Big(),
    Size(),
]
