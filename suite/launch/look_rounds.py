"""Seeds in rounds, with a look after each: an arm whose verdict is decided gets no more seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from suite.launch.ledger import Ledger
from suite.launch.runner import Runner
from suite.planning.rounds import Round, rounds

if TYPE_CHECKING:  # imports ray
    from suite.execution.stop import Stop


def run_rounds(ledger: Ledger, runner: Runner, stop: Stop) -> None:
    """Run the seeds of one planned look after the other; decided arms get no more seeds."""
    first, announced = True, set[int]()
    while not stop.requested:
        known = rounds(ledger.plan, ledger.history)
        _record_planned_looks(ledger, known, announced, quiet=first)
        present = known[-1]
        if first or [trial.id for _, trial in present.pairs] != ledger.history.plan:
            ledger.plan_trials(present.pairs)
        # Only the first pass runs failed trials again: otherwise each round would.
        trials = [
            trial
            for _, trial in present.pairs
            if first or not ledger.history.trials[trial.id].ended
        ]
        if not ledger.pending(trials):
            if not present.ended:
                look = f"look {present.number} of {len(ledger.spec.looks)}"
                ledger.board.warn(f"{look} waits for trials of the arms that --only left out")
            return
        runner.run(trials, early=None)
        first = False


def _record_planned_looks(
    ledger: Ledger, known: Sequence[Round], announced: set[int], quiet: bool
) -> None:
    """Put looks on record, and say what they decided; ``quiet``: only those that are new."""
    for taken in known:
        if not taken.ended:
            continue
        new = taken.seeds not in ledger.history.looks
        if new:
            ledger.record("look", seeds=list(taken.seeds))
        if taken.number not in announced and (new or not quiet):
            text = _describe_look(taken, len(ledger.spec.looks))
            ledger.board.console.print(text, markup=False, highlight=False, soft_wrap=True)
        announced.add(taken.number)


def _describe_look(taken: Round, looks: int) -> str:
    """E.g. ``look 2 of 3: 12 seeds; decided: a, b; 3 arms go on``."""
    going = len(taken.undecided)
    parts = [f"look {taken.number} of {looks}: {len(taken.seeds)} seeds"]
    parts.append(f"decided: {', '.join(taken.decided) or 'none'}")
    if going:
        rest = "goes on" if going == 1 else "go on"
        ending = "undecided at the last look" if taken.number == looks else rest
        parts.append(f"{going} {'arm' if going == 1 else 'arms'} {ending}")
    return "; ".join(parts)
