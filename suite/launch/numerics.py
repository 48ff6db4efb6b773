"""The numerics of a launch: those of the sweep's last launch stay."""

from __future__ import annotations

from suite.core.records import Numerics
from suite.launch.ledger import Ledger


def pinned_numerics(ledger: Ledger) -> Numerics | None:
    """The numerics of an earlier launch: they stay, unless the file now asks for another
    precision.
    """
    known = ledger.history.launch.get("numerics")
    wanted = {config.train.precision for config, _, _ in ledger.plan.networks()} - {"auto"}
    if known is None or (wanted and wanted != {known["precision"]}):
        return None
    return Numerics(**known)


def warn_of_other_precision(ledger: Ledger) -> None:
    """Precision is no part of a trial's identity: say so if finished trials have another
    one.
    """
    assert ledger.numerics is not None
    now = ledger.numerics.precision
    ended = [
        item for trial in ledger.planned_before() if (item := ledger.history.trials[trial]).ended
    ]
    kept = {str((item.entry.get("numerics") or {}).get("precision", now)) for item in ended}
    if other := sorted(kept - {now}):
        ledger.board.warn(
            f"precision is now {now}; what was trained in {' and '.join(other)} is kept as it "
            "is "
            "(--force runs it again), and is not paired with the new"
        )
