"""The gateway with its own CPU time sampled: `python -m bench.profiled FILE` serves, SIGUSR1 begins, SIGUSR2 writes FILE.

The kernel sends SIGPROF for every few milliseconds of CPU that the process has used, and the handler notes the stack.
That costs nothing between two samples, where a tracing profiler makes small functions look expensive; what C code
uses counts for the line of Python that called it.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from proxy.__main__ import main

EVERY_SECONDS = 0.001
_stacks: Counter[tuple[str, ...]] = Counter()


def _begin(*_: object) -> None:
    _stacks.clear()
    signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)


def _note(_number: int, frame: FrameType | None) -> None:
    stack = []
    while frame is not None:
        code = frame.f_code
        stack.append(f"{code.co_filename}:{frame.f_lineno}:{code.co_qualname}")
        frame = frame.f_back
    _stacks[tuple(stack)] += 1


def _write(*_: object) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    found = [[count, *stack] for stack, count in _stacks.items()]
    part = Path(f"{sys.argv[1]}.part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(sys.argv[1])


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, _note)
    signal.signal(signal.SIGUSR1, _begin)
    signal.signal(signal.SIGUSR2, _write)
    sys.exit(main(["serve"]))
