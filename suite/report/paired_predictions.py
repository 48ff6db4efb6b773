"""The stored predictions of two arms or two trials, in pairs and on the same test images."""

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
class PairedPredictions:
    """The networks of two arms, pair by pair, on the images that all of them were tested on.

    Attributes:
        seeds: the seed of each pair.
        ours, theirs: one for each seed.
        notes: sentences about what could not be compared.
    """

    seeds: tuple[int, ...]
    ours: tuple[Predictions, ...]
    theirs: tuple[Predictions, ...]
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """The number of test images."""
        return len(self.ours[0].labels)


def pair_trials(ours: TrialRun, theirs: TrialRun, uri: str) -> PairedPredictions | str:
    """Two trials as one pair, whatever their seeds; a string says why they cannot be compared."""
    if _differ_in_data(ours, theirs):
        return "they were tested on different data"
    same_numerics = _pair(ours)[1] == _pair(theirs)[1]
    notes = [] if same_numerics else ["The two trials ran with different numerics."]
    try:
        return _align([(ours.seed, _load(uri, ours), _load(uri, theirs))], notes, 0)
    except (SuiteError, ValueError, OSError) as error:
        return _first_line(error)


def pair_arms(runs: SweepRuns, uri: str, ours: str, theirs: str) -> PairedPredictions | str:
    """The predictions of two arms, paired by seed and numerics.

    Returns:
        The pairs; a string says why there are none.
    """
    our_runs, their_runs = (
        {_pair(run): run for run in finished_runs(runs) if run.arm == arm} for arm in (ours, theirs)
    )
    for arm, arm_runs in ((ours, our_runs), (theirs, their_runs)):
        if not arm_runs:
            return f"no trial of {arm} has finished"
    pairs = sorted(set(our_runs) & set(their_runs))
    if not pairs:
        return f"{ours} and {theirs} have no finished seed of the same numerics in common"
    notes: list[str] = []
    loaded: list[tuple[int, Predictions, Predictions]] = []
    for pair in pairs:
        try:
            loaded.append((pair[0], _load(uri, our_runs[pair]), _load(uri, their_runs[pair])))
        except (SuiteError, ValueError, OSError) as error:
            notes.append(f"Seed {pair[0]} is left out: {_first_line(error)}.")
    if not loaded:
        return f"there are no predictions of a seed that both have ({_first_line(notes[0])})"
    if _differ_in_data(our_runs[pairs[0]], their_runs[pairs[0]]):
        return f"{ours} and {theirs} were tested on different data"
    return _align(loaded, notes, len(our_runs) + len(their_runs) - 2 * len(pairs))


def count_test_images(runs: SweepRuns, uri: str, arms: Iterable[str]) -> int | None:
    """The number of test images of these arms, by the first predictions that can be read."""
    wanted = set(arms)
    for run in finished_runs(runs):
        if run.arm in wanted:
            try:
                return len(_load(uri, run).labels)
            except (SuiteError, ValueError, OSError):
                continue
    return None


def finished_runs(runs: SweepRuns) -> list[TrialRun]:
    """The finished trials of the present plan."""
    return [run for run in runs.trials if in_plan(run) and run.status == Status.FINISHED]


def _align(
    loaded: Sequence[tuple[int, Predictions, Predictions]], notes: list[str], unpaired: int
) -> PairedPredictions | str:
    """The pairs, on the images that all of their networks were tested on."""
    sides = [side for _, *pair in loaded for side in pair]
    try:
        common = predictions.shared(sides)
    except ValueError as error:
        return str(error)
    largest = max(len(side.index) for side in sides)
    if len(common[0].index) < largest:
        notes.append(
            "The trials were tested on different images; what follows is about the "
            f"{len(common[0].index):,} of up to {largest:,} that all of them share."
        )
    if unpaired:
        notes.append(
            f"{some(unpaired, 'trial')} without a partner of the same seed and numerics: "
            "left out here."
        )
    seeds = tuple(seed for seed, *_ in loaded)
    return PairedPredictions(seeds, tuple(common[::2]), tuple(common[1::2]), tuple(notes))


def _pair(run: TrialRun) -> Pair:
    return run.seed, Numerics.key(parsed(run.tags.get("suite.numerics")))


def _differ_in_data(a: TrialRun, b: TrialRun) -> bool:
    """Whether two trials were tested on two data sets; one data set in two sizes is the same."""
    if a.tags.get("suite.data_digest") == b.tags.get("suite.data_digest"):
        return False
    return any(a.params.get(name) != b.params.get(name) for name in ("data.name", "data.root"))


def _load(uri: str, run: TrialRun) -> Predictions:
    with tempfile.TemporaryDirectory(prefix="suite-report-") as folder:
        return Predictions.read(tracking.download(uri, run.run_id, PREDICTIONS, Path(folder)))


def _first_line(error: object) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
