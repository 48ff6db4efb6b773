"""Eight sweeps' worth of tracking at once: ``python senders.py JOURNAL FOLDER URI NAME...``, a
process for each name.

Each sends the whole journal under its name, as the sweep of that name would, and exits 1 if that
did not work out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from suite import tracking
from suite.storage import journal


def send(entries: list[journal.Entry], folder: Path, uri: str, name: str) -> int:
    """Returns an exit code."""
    tracker = tracking.Projection(tracking.MlflowStore(name, uri, None, f"journal-{name}"), folder)
    told: list[str] = []
    sender = tracking.Sender(tracker, folder / f"{name}.cursor", told.append)
    for entry in entries:
        sender.put(entry)
    done = sender.drain(180)
    sender.close()
    print(name, done, told, sender.lost)
    return 0 if done and not any("passed over" in text for text in told) else 1


def main(file: str, folder: str, uri: str, *names: str) -> int:
    entries = journal.read(Path(file))
    tracking.warm().join()  # once: the processes share it
    children = []
    for name in names:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = send(entries, Path(folder), uri, name)
            finally:
                sys.stdout.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
