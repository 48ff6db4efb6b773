"""The winner of a sweep, its registered model, and the images of the report."""

from __future__ import annotations

import shlex

from suite.core.records import Status
from suite.launch.ledger import Ledger
from suite.launch.ranking import arms_with_lost_seeds, best_trial, rank
from suite.tracking import Tracker


def select_champion(ledger: Ledger, ran: int) -> bool:
    """Record the winner: the best trial of the arm with the best mean over its seeds.

    Args:
        ran: trials that ended in this launch.

    Returns:
        Whether the sweep may have a champion: not if every arm lost seeds that another one
        finished.
    """
    candidates = [item for item in ledger.history.in_plan() if ledger.counts_for_verdicts(item)]
    finished = [item for item in candidates if item.status is Status.FINISHED]
    ranked = rank(ledger, finished)
    if not ranked:
        return True
    if ranked[0] in arms_with_lost_seeds(ledger):
        ledger.board.warn("no champion: every arm lost seeds that another one finished")
        return False
    winner = best_trial(
        [item for item in finished if item.trial.arm == ranked[0]], ledger.spec.objective
    )
    if winner is not None and (winner.trial.id != ledger.history.champion or ran):
        ledger.record("champion", id=winner.trial.id, value=winner.end.get("best_value"))
    return True


def register_champion(ledger: Ledger, tracker: Tracker) -> bool:
    """Register the champion as a model that loads and predicts without this package; whether it
    is registered.
    """
    champion = ledger.history.champion
    run = tracker.run_id(champion) if champion else None
    if not tracker.has_model_registry or champion is None or run is None:
        return False
    item, best = ledger.history.trials[champion], ledger.folder / "trials" / champion / "best.pt"
    try:
        ledger.storage.fetch(f"trials/{champion}/best.pt")
        if not best.exists():  # another plan's champion took its place meanwhile
            registered = tracker.restore_champion(run) is not None
            if not registered and ledger.spec.checkpoints.keep:
                again = f"--force --only {shlex.quote(item.trial.arm)}"
                ledger.board.warn(
                    f"the champion's checkpoint is gone, so it is not registered; for one: {again}"
                )
            return registered
        from suite.models.trained import rebuild

        dataset = ledger.plan.images_of(item)
        example = dataset.test_images[:8].astype("float32") / 255
        return tracker.register_champion(run, rebuild(item.trial, best), example) is not None
    except Exception as error:  # tracking never stops a sweep; its results are all there
        ledger.board.warn(f"the champion could not be registered: {type(error).__name__}: {error}")
        return False


def write_report_images(ledger: Ledger, ran: int) -> None:
    """Put the images that a report cannot make without the data beside the journal and on
    record.
    """
    kept = ledger.folder / "test_images.npz"
    if ledger.options.limit_batches or (ran == 0 and kept.exists()):
        return
    from suite.visuals import gallery

    items = list(ledger.history.in_plan())
    try:
        ledger.storage.fetch(*(f"trials/{item.trial.id}/predictions.npz" for item in items))
        for name, content in gallery.illustrations(
            items, ledger.plan.images_of, ledger.folder
        ).items():
            (ledger.folder / name).write_bytes(content)
            ledger.record("file", id=None, path=name)
    except Exception as error:  # images never stop a sweep: its results are all there
        ledger.board.warn(
            f"pictures for the report could not be made: {type(error).__name__}: {error}"
        )
