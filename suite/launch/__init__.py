"""One launch of a sweep: what is left of its plan is run, and put on record."""

from __future__ import annotations

from suite.launch.launcher import Ended, Launch, Options, best_trial, check_only, launch

__all__ = ["Ended", "Launch", "Options", "best_trial", "check_only", "launch"]
