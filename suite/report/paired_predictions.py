"""The stored predictions of two arms or two trials, in pairs on the same test images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from suite import tracking
from suite.analysis import predictions
from suite.analysis.predictions import Predictions
from suite.core.errors import SuiteError
from suite.core.records import Numerics, Status
from suite.report.formatting import some
from suite.report.runs import in_plan, parsed
from suite.tracking import SweepRuns, TrialRun

PREDICTIONS = "predictions.npz"

Pair = tuple[int, str]  # seed, numerics


@dataclass(frozen=True)
class Duel:
    """Two arms' networks on the images that all of them were tested on, pair by pair.

    Attributes:
        seeds: of each pair.
        ours, theirs: one for each seed.
        left_out: what could not be compared; sentences.
    """

    seeds: tuple[int, ...]
    ours: tuple[Predictions, ...]
    theirs: tuple[Predictions, ...]
    left_out: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """N."""
        return len(self.ours[0].labels)


def pair_trials(ours: TrialRun, theirs: TrialRun, uri: str) -> Duel | str:
    """Two trials as a pair, whatever their seeds."""
    if _of_other_data(ours, theirs):
        return "they were tested on different data"
    told = (
        []
        if _pair(ours)[1] == _pair(theirs)[1]
        else ["The two trials ran with different numerics."]
    )
    try:
        return _align([(ours.seed, _load(uri, ours), _load(uri, theirs))], told, 0)
    except (SuiteError, ValueError, OSError) as error:
        return _brief(error)


def duel(runs: SweepRuns, uri: str, ours: str, theirs: str) -> Duel | str:
    """The predictions of two arms in pairs of one seed and the same numerics, or why there are none."""
    a, b = (
        {_pair(run): run for run in finished_runs(runs) if run.arm == arm} for arm in (ours, theirs)
    )
    for arm, has in ((ours, a), (theirs, b)):
        if not has:
            return f"no trial of {arm} has finished"
    pairs = sorted(set(a) & set(b))
    if not pairs:
        return f"{ours} and {theirs} have no finished seed of the same numerics in common"
    told: list[str] = []
    loaded: list[tuple[int, Predictions, Predictions]] = []
    for pair in pairs:
        try:
            loaded.append((pair[0], _load(uri, a[pair]), _load(uri, b[pair])))
        except (SuiteError, ValueError, OSError) as error:
            told.append(f"Seed {pair[0]} is left out: {_brief(error)}.")
    if not loaded:
        return f"there are no predictions of a seed that both have ({_brief(told[0])})"
    if _of_other_data(a[pairs[0]], b[pairs[0]]):
        return f"{ours} and {theirs} were tested on different data"
    return _align(loaded, told, len(a) + len(b) - 2 * len(pairs))


def count_test_images(runs: SweepRuns, uri: str, arms: Iterable[str]) -> int | None:
    """How many test images the networks of these arms were tested on, by the first file that can be read."""
    wanted = set(arms)
    for run in finished_runs(runs):
        if run.arm in wanted:
            try:
                return len(_load(uri, run).labels)
            except (SuiteError, ValueError, OSError):
                continue
    return None


def _align(
    loaded: Sequence[tuple[int, Predictions, Predictions]], told: list[str], alone: int
) -> Duel | str:
    """The pairs on the images that all of their networks were tested on."""
    many = [one for _, *pair in loaded for one in pair]
    try:
        common = predictions.shared(many)
    except ValueError as error:
        return str(error)
    most = max(len(one.index) for one in many)
    if len(common[0].index) < most:
        told.append(
            f"The trials were tested on different images; what follows is about the {len(common[0].index):,} of up to "
            f"{most:,} that all of them share."
        )
    if alone:
        told.append(
            f"{some(alone, 'trial')} without a partner of the same seed and numerics: left out here."
        )
    return Duel(
        tuple(seed for seed, *_ in loaded), tuple(common[::2]), tuple(common[1::2]), tuple(told)
    )


def finished_runs(runs: SweepRuns) -> list[TrialRun]:
    return [run for run in runs.trials if in_plan(run) and run.status == Status.FINISHED]


def _pair(run: TrialRun) -> Pair:
    return run.seed, Numerics.key(parsed(run.tags.get("suite.numerics")))


def _of_other_data(a: TrialRun, b: TrialRun) -> bool:
    """Whether two trials' test images are of two data sets; the same images in another size are the same images."""
    if a.tags.get("suite.data_digest") == b.tags.get("suite.data_digest"):
        return False
    return any(a.params.get(name) != b.params.get(name) for name in ("data.name", "data.root"))


def _load(uri: str, run: TrialRun) -> Predictions:
    with tempfile.TemporaryDirectory(prefix="suite-report-") as folder:
        return Predictions.read(tracking.download(uri, run.run_id, PREDICTIONS, Path(folder)))


def _brief(error: object) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
