"""``python -m benchmarks``, or ``make bench``: every question briefly, and all tables once more
at the end.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.record import RESULTS

QUESTIONS = (
    "augmentation",
    "training",
    "transfer",
    "augmentation_sweep",
    "control",
    "memory",
    "search",
    "report",
    "soundness",
)


def main() -> int:
    """Run them one after the other; 1 where one failed."""
    began, failed = time.time(), []
    for number, question in enumerate(QUESTIONS, 1):
        print(
            f"\n{number} of {len(QUESTIONS)}: {question}, {(time.time() - began) / 60:.0f} min so "
            "far",
            flush=True,
        )
        if subprocess.run(
            [sys.executable, "-m", f"benchmarks.{question}", "--short"], check=False
        ).returncode:
            failed.append(question)
    print(f"\nAll, briefly, in {(time.time() - began) / 60:.0f} min:")
    for file in sorted(RESULTS.glob("*-short*.md"), key=lambda file: file.stat().st_mtime):
        if file.stat().st_mtime >= began:
            figures = file.read_text().rpartition("\n| What | Figure |")[
                0
            ]  # without the facts below
            print(
                "",
                *(line for line in figures.splitlines() if line.startswith(("# ", "|"))),
                sep="\n",
            )
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
