"""Progress, on standard error, with the time since the start."""

import sys
import time

_BEGAN = time.monotonic()


def say(text):
    seconds = int(time.monotonic() - _BEGAN)
    print(f"[{seconds // 60}:{seconds % 60:02}] {text}", file=sys.stderr, flush=True)
