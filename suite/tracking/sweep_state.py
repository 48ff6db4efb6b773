"""What the projection keeps of earlier entries because later ones need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from suite.storage.journal import Entry
from suite.tracking.looks import looks_tag
from suite.tracking.tags import BASELINE, IN_PLAN, launch_tags, trial_tags
from suite.tracking.text import as_text


@dataclass
class SweepState:
    """What the projection keeps of earlier entries.

    Attributes:
        launch_tags: the tags of the last launch that the parent and each trial carry.
        environment: the environment of the last launch.
        planned_trials: trial id -> its ``trial`` entry, until its run begins.
        forgotten: trial id -> the number of its last ``forget`` entry.
    """

    launch_tags: dict[str, str] = field(default_factory=dict)
    environment: Any = field(default_factory=dict)
    planned_trials: dict[str, Entry] = field(default_factory=dict)
    forgotten: dict[str, int] = field(default_factory=dict)
    _plan: Entry = field(default_factory=dict)
    _planned_looks: list[list[int]] = field(default_factory=list)
    _looks: dict[int, list[int]] = field(default_factory=dict)  # number of the entry -> seeds
    _look_plans: dict[int, list[list[int]]] = field(default_factory=dict)  # -> planned looks then

    def learn(self, entry: Entry) -> None:
        """Note a ``launch``, ``plan`` or ``look`` entry; other kinds are ignored.

        A ``trial`` entry is not noted here: if the run of a trial that has begun is gone, it must
        be created again from all of the trial's entries, not from this one.
        """
        match entry["kind"]:
            case "launch":
                self.launch_tags = launch_tags(entry)
                self.environment = entry.get("environment") or {}
                self._planned_looks = entry.get("looks") or []
            case "plan":
                self._plan = entry
            case "look":
                self._looks[entry["seq"]] = entry["seeds"]
                self._look_plans.setdefault(entry["seq"], self._planned_looks)

    def looks_tag(self) -> str:
        """The planned looks and the looks taken, as the tag ``suite.looks``."""
        other_plan = any(plan != self._planned_looks for plan in self._look_plans.values())
        return looks_tag(self._planned_looks, self._looks.values(), other_plan)

    def plan_tags(self, trial: str, arm: str) -> dict[str, str]:
        """Whether a trial is in the current plan, and its arm a baseline."""
        if not self._plan:
            return {}
        tags = {IN_PLAN: as_text(trial in self._plan["ids"])}
        baseline = self._plan.get("baseline")
        if isinstance(baseline, Mapping):
            tags[BASELINE] = as_text(bool(baseline.get(arm)))
        elif isinstance(baseline, (list, tuple)):
            tags[BASELINE] = as_text(arm in baseline)
        return tags

    def trial_tags(self, entry: Entry) -> dict[str, str]:
        """The tags of the run of a ``trial`` entry."""
        own = trial_tags(entry, self.launch_tags)
        return own | self.plan_tags(entry["id"], entry["arm"])
