"""Where independent work is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


def test_workers_end_when_their_parent_is_killed() -> None:
    """They hold the pipe, whose end is the end of the last of them, until then; one works, and one waits for work."""
    script = """
import time
from pcdiff.executors import processes
if __name__ == "__main__":
    with processes(2)(2) as pool:
        pool.submit(time.sleep, 0).result()
        pool.submit(time.sleep, 3600)
        pool.submit(time.sleep, 0).result()
        print("working", flush=True)
        time.sleep(3600)
"""
    reading, writing = os.pipe()
    with subprocess.Popen([sys.executable, "-c", script], stdout=writing) as process:
        os.close(writing)
        # In two parts, where Python does not buffer.
        said = os.read(reading, 7) + os.read(reading, 1)
        process.send_signal(signal.SIGKILL)
    assert said == b"working\n"
    os.set_blocking(reading, False)
    deadline = time.monotonic() + 60
    while True:
        try:
            assert os.read(reading, 1) == b""
        except BlockingIOError:
            assert time.monotonic() < deadline, "workers live on"
            time.sleep(0.02)
        else:
            break
    os.close(reading)
