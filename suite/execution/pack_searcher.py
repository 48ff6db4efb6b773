"""Tune's view of what runs next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from suite.execution.shared import TrialRequest
from suite.execution.stop import Stop

Next = Callable[[], list[TrialRequest] | None]


class PackSearcher(Searcher):
    """Tune's view of what comes next: packs from ``following`` until it has no more."""

    def __init__(
        self,
        following: Next,
        stop: Stop,
        on_complete: Callable[[str, bool], None] = lambda trial_id, failed: None,
    ) -> None:
        super().__init__()
        self._following, self._stop, self._on_complete = following, stop, on_complete
        self._packs: dict[str, list[str]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._stop.requested:
            return str(Searcher.FINISHED)
        pack = self._following()
        if pack is None:
            return str(Searcher.FINISHED)
        self._packs[trial_id] = [request.trial.id for request in pack]
        return {"pack": pack}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        for requested in self._packs.pop(trial_id, ()):
            self._on_complete(requested, error)

    def set_search_properties(self, *args: Any, **kwargs: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # Tune's state is never read back

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("the journal is the record")

    def __getstate__(self) -> dict[str, Any]:
        return {}
