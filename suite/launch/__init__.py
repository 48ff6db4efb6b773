"""One launch of a sweep: what is left of its plan is run, and put on record."""

from __future__ import annotations

from suite.launch.launcher import Launch, launch
from suite.launch.options import LaunchResult, Options, check_only
from suite.launch.ranking import best_trial

__all__ = ["Launch", "LaunchResult", "Options", "best_trial", "check_only", "launch"]
