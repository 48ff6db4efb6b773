"""What a launch is asked for, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from suite.config import SweepSpec
from suite.core.errors import UsageError
from suite.storage.journal import History


@dataclass(frozen=True)
class Options:
    """What the command line adds to the sweep file."""

    resume: bool = False
    force: bool = False
    retry_errored: bool = False
    only: tuple[str, ...] = ()
    budget_s: float | None = None
    address: str | None = None
    max_concurrent: int | None = None
    limit_batches: int | None = None
    verbose: bool = False


@dataclass
class LaunchResult:
    """How a launch ended.

    Attributes:
        ran: trials that ended in this launch.
        confirmed: arms that a search confirmed on further seeds.
        champion: id of the best arm's best trial.
        registered: whether ``models:/<sweep>@champion`` is that trial's network.
        run_ids: trial id -> MLflow run id.
        page: of the sweep in MLflow's UI.
        message: why the launch stopped early, else "".
    """

    history: History
    exit_code: int
    seconds: float
    ran: int
    confirmed: tuple[str, ...] = ()
    champion: str | None = None
    registered: bool = False
    run_ids: dict[str, str] = field(default_factory=dict)
    parent_run: str | None = None
    page: str = ""
    message: str = ""


def check_only(spec: SweepSpec, only: Sequence[str]) -> None:
    """Refuse names that no arm has; a search does not know its arms beforehand.

    Raises:
        UsageError: lists the arms of the sweep.
    """
    names = {arm.name for arm in spec.arms_list}
    unknown = [name for name in only if spec.method != "optuna" and name not in names]
    if unknown:
        raise UsageError(
            f"--only must name arms of the sweep, got {', '.join(map(repr, unknown))}",
            remedy=f"It has: {', '.join(sorted(names))}.",
        )
