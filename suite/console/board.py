"""What the person at the terminal sees: one live table, or plain lines when the output is not a
terminal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from suite.console.output import duration
from suite.core.records import Objective, Status
from suite.core.redaction import redacted
from suite.storage.journal import History, TrialHistory

LINE_EVERY_S = 30.0  # between progress lines where there is no terminal
ROWS = 12  # running trials shown


class Board:
    """Progress of a sweep: fed by the journal's state, drawn four times a second.

    Args:
        history: the sweep's state, kept up to date by others.
        objectives: the first is shown.
        epochs_of: planned epochs of a trial.
        console: where to draw.
    """

    def __init__(
        self, name: str, history: History, objectives: tuple[Objective, ...], console: Console
    ) -> None:
        self.name, self.history, self.objectives, self.console = name, history, objectives, console
        self.targets: list[str] = []
        self.total_trials: int | None = None
        self.note = ""
        self._started = time.monotonic()
        self._done_at_start = 0
        self._said: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._last_line = time.monotonic()

    def begin(self, trial_ids: list[str], total: int | None = None) -> None:
        """What this phase is to finish; the clock for the ETA starts."""
        self.targets, self.total_trials = list(trial_ids), total
        self._started, self._done_at_start = time.monotonic(), self._epochs_done()
        self._said |= {
            (item.trial.id, str(item.status)) for item in self.history.in_plan() if item.ended
        }

    @contextmanager
    def shown(self) -> Iterator[Board]:
        """Draw while the block runs."""
        if self.console.is_terminal:
            with Live(
                console=self.console,
                refresh_per_second=4,
                get_renderable=self._render,
                transient=True,
            ):
                yield self
        else:
            stop = threading.Event()
            thread = threading.Thread(target=self._lines, args=(stop,), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                stop.set()
                thread.join()
                self._say_ends()

    def warn(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(f"! {redacted(text)}", style="yellow"), soft_wrap=True)

    def tell(self, text: str) -> None:
        """How tracking stands: below the table as long as it is so, or a line where there is no
        terminal.
        """
        self.note = redacted(text)
        if not self.console.is_terminal:
            self.warn(text)

    # ---- figures ---------------------------------------------------------------------------------

    def _items(self) -> list[TrialHistory]:
        return [self.history.trials[i] for i in self.targets if i in self.history.trials]

    def _epochs_done(self) -> int:
        return sum(len(item.records) for item in self._items())

    def _epochs_total(self) -> int:
        """Epochs that are still expected: a trial that has ended expects no more than it has."""
        total = sum(_expected(item) for item in self._items())
        known = len(self._items())
        if self.total_trials and known and self.total_trials > known:
            total += round((self.total_trials - known) * total / known)
        return total

    def eta_s(self) -> float | None:
        """Seconds left, from the pace since this launch began; None until an epoch is done."""
        done, total = self._epochs_done(), self._epochs_total()
        gained = done - self._done_at_start
        if gained <= 0 or total <= done:
            return None
        return (time.monotonic() - self._started) / gained * (total - done)

    def best(self) -> tuple[TrialHistory, float] | None:
        """The best trial so far and its value."""
        objective, found = self.objectives[0], None
        for item in self.history.in_plan():
            value = item.value(objective)
            if value is None or item.status is Status.FAILED:
                continue
            if found is None or objective.better(value, found[1]):
                found = (item, value)
        return found

    def headline(self) -> str:
        """Progress in one line."""
        items = self._items()
        ended = sum(item.ended for item in items)
        failed = sum(item.status is Status.FAILED for item in items)
        parts = [
            f"{ended}/{self.total_trials or len(self.targets)} trials",
            f"{self._epochs_done()}/{self._epochs_total()} epochs",
        ]
        eta, best = self.eta_s(), self.best()
        if eta is not None:
            parts.append(f"about {duration(eta)} left")
        if best is not None:
            parts.append(f"best {self.objectives[0].name} {best[1]:.4f} ({best[0].trial.name})")
        if failed:
            parts.append(f"{failed} failed")
        return "  ".join(parts)

    # ---- drawing ---------------------------------------------------------------------------------

    def _render(self) -> Group:
        objective = self.objectives[0]
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column, justify in (
            ("trial", "left"),
            ("epoch", "right"),
            (objective.name, "right"),
            ("train/loss", "right"),
        ):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        running = [item for item in self._items() if item.status is Status.RUNNING]
        for item in running[:ROWS]:
            curve = item.curve
            latest = curve[-1].metrics if curve else {}
            planned = item.trial.config["train"]["epochs"]
            table.add_row(
                item.trial.name, f"{len(curve)}/{planned}",
                _number(latest.get(objective.name)), _number(latest.get("train/loss")),
            )  # fmt: skip
        done, total = self._epochs_done(), max(1, self._epochs_total())
        width = 30
        bar = "━" * round(width * done / total)
        head = Text.assemble(
            (self.name, "bold"),
            "  ",
            (bar, "green"),
            ("━" * (width - len(bar)), "dim"),
            f" {done * 100 // total:3d}%",
        )
        lines: list[Text | Table] = [head, Text(self.headline()), table]
        if self.note:
            lines.append(Text(self.note, style="yellow"))
        return Group(*lines)

    def _lines(self, stop: threading.Event) -> None:
        while not stop.wait(0.5):
            self._say_ends()
            if time.monotonic() - self._last_line >= LINE_EVERY_S:
                self._last_line = time.monotonic()
                self.console.print(
                    f"{self.name}: {self.headline()}", soft_wrap=True, highlight=False, markup=False
                )

    def _say_ends(self) -> None:
        with self._lock:
            for item in self._items():
                key = (item.trial.id, str(item.status))
                if item.ended and key not in self._said:
                    self._said.add(key)
                    text = (
                        f"{item.trial.name}: {item.status} {_outcome(item, self.objectives[0])}"
                    ).rstrip()
                    self.console.print(text, soft_wrap=True, highlight=False, markup=False)


def _expected(item: TrialHistory) -> int:
    return len(item.records) if item.ended else int(item.trial.config["train"]["epochs"])


def _outcome(item: TrialHistory, objective: Objective) -> str:
    if item.reason:
        return f"({item.reason})"
    chosen = objective.chosen(item.curve)
    return (
        f"{objective.name} {chosen.metrics[objective.name]:.4f} at epoch {chosen.epoch}"
        if chosen
        else ""
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
