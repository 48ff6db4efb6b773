"""Runs ``python -m MODULE ARGUMENTS`` with a clock around what Tune's event loop calls: where a
loop is held up, all trials wait.

    python -m benchmarks.watched RESULT.json MODULE [ARGUMENTS]

RESULT.json: ``report_s`` and ``report_end_s``, seconds of each call for a report (of an epoch; of
an epoch and the trial's end); ``start_s``, ``complete_s``, of each trial's start and end;
``drained``, the wall clock (seconds since
1970) when the suite's tracking had caught up.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

Times = dict[str, list[float]]


def main() -> None:
    """Watch both callbacks, run the module, write the times whatever comes."""
    result, module, *arguments = sys.argv[1:]
    times: Times = {
        name: [] for name in ("report_s", "report_end_s", "start_s", "complete_s", "drained")
    }
    watch_suite(times) if module.startswith("suite") else watch_peer(times)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        Path(result).write_text(json.dumps(times))


def watch_suite(times: Times) -> None:
    """The suite's callback, and the moment when its sender has caught up."""
    from suite.execution.callback import JournalCallback
    from suite.execution.shared import EndEvent
    from suite.tracking import Sender

    def kind(**info: Any) -> str:
        ends = any(isinstance(event, EndEvent) for event in info["result"].get("events", ()))
        return "report_end_s" if ends else "report_s"

    _time(JournalCallback, "on_trial_result", times, kind)
    _time(JournalCallback, "on_trial_start", times, lambda **info: "start_s")
    _time(JournalCallback, "on_trial_complete", times, lambda **info: "complete_s")
    drain = Sender.drain

    def drained(self: Sender, timeout_s: float) -> bool:
        done = drain(self, timeout_s)
        times["drained"].append(time.time())
        return done

    Sender.drain = drained  # type: ignore[method-assign]


def watch_peer(times: Times) -> None:
    """Ray's callback for MLflow."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    _time(MLflowLoggerCallback, "on_trial_result", times, lambda **info: "report_s")
    _time(MLflowLoggerCallback, "on_trial_start", times, lambda **info: "start_s")
    _time(MLflowLoggerCallback, "on_trial_complete", times, lambda **info: "complete_s")


def _time(owner: type, name: str, times: Times, kind: Callable[..., str]) -> None:
    inner = getattr(owner, name)

    @wraps(inner)
    def timed(self: Any, **info: Any) -> None:
        started = time.perf_counter()
        inner(self, **info)
        times[kind(**info)].append(time.perf_counter() - started)

    setattr(owner, name, timed)


if __name__ == "__main__":
    main()
