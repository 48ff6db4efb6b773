"""The content of a report as values: tables, curves, sentences; nothing drawn or escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from suite import analysis
from suite.core.records import Status
from suite.report import effects
from suite.report.arms import (
    arms_frame,
    convergence_objective,
    cost_table,
    main_table,
    settings_table,
    varying,
)
from suite.report.elements import Failure, Photo, Picture, Section, Table, non_empty
from suite.report.error_analysis import Errors
from suite.report.figures import styles
from suite.report.image_error import ImageError
from suite.report.method import method
from suite.report.published import reference_table
from suite.report.runs import Rules, configs, histories, is_search, parameters, removed
from suite.report.sentences import facts, notices
from suite.report.study import claims
from suite.report.study.curves import Courses
from suite.report.study.study_arms import find_study_arms
from suite.report.verdicts import conclusions, leading_arm
from suite.storage.journal import TrialHistory
from suite.tracking import SweepRuns

_UNTOLD = 12  # failures and the like beyond so many are only counted


@dataclass(frozen=True)
class Content:
    """A report before it is written.

    Attributes:
        sweep, question: its name and its description.
        conclusions: sentences, the most important first.
        notices: what is missing or limits what may be concluded; sentences.
        sections: tables and figures, in order.
        pictured: sections of pictures that the runs kept; below the errors.
        trials, arms: the tables of results.csv and arms.csv.
        failures: failed trials; those beyond ``len`` are counted in ``more_failures``.
        method: how to read the figures; sentences.
        facts: where it comes from: name -> text.
        arguments: of the command that makes it again.
        title, folder: the page's, and where it goes; "" = the sweep's name.
        baseline, winner: the arms whose errors are looked at; "" where there is none.
        errors: what the stored predictions say of them.
    """

    sweep: str
    question: str
    conclusions: tuple[str, ...]
    notices: tuple[str, ...]
    sections: tuple[Section, ...]
    trials: pd.DataFrame
    arms: pd.DataFrame
    failures: tuple[Failure, ...]
    more_failures: int
    facts: tuple[tuple[str, str], ...]
    method: tuple[str, ...]
    arguments: str = ""
    title: str = ""
    folder: str = ""
    baseline: str = ""
    winner: str = ""
    errors: Errors | None = None
    pictured: tuple[Section, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, the main one first."""
        return tuple(table for section in self.sections for table in section.tables)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All figures."""
        return tuple(
            picture for section in (*self.sections, *self.pictured) for picture in section.pictures
        )

    @property
    def photos(self) -> tuple[Photo, ...]:
        """All pictures made of pixels."""
        return tuple(
            photo for section in self.pictured for strip in section.strips for photo in strip.photos
        )


def content(
    runs: SweepRuns,
    rules: Rules,
    environment: Mapping[str, Any] | None = None,
    images: Mapping[str, ImageError] | None = None,
) -> Content:
    """Everything that the report says of a sweep.

    Args:
        environment: ``environment.json`` of the parent run, where there is one.
        images: arm -> what the choice of test images does to its difference to the baseline.
    """
    items = histories(runs)
    run_ids = {run.trial or run.run_id: run.run_id for run in runs.trials}
    trials = analysis.trials_frame(items, rules.objective, run_ids)
    planned = int(runs.parent.tags.get("suite.planned", 0))
    judged = analysis.without_search_seed(items, rules.confirmed, rules.search_seed)
    rules = replace(rules, looks=analysis.present_looks(judged, rules.looks, rules.confirmed))
    gone = () if is_search(runs) else removed(runs)
    arms = arms_frame(items, trials, rules, parameters(runs), images, planned, gone)
    spread = analysis.spread(judged, rules.objective, rules.confirmed)
    gain = analysis.pairing_gain(judged, rules.objective)
    collapsed = analysis.collapsed_seeds(judged, rules.objective, rules.margin)
    failures = [_failure(history, run_ids) for history in items if history.status is Status.FAILED]
    marked = list(arms.loc[arms["verdict"] == analysis.BASELINE, "arm"])
    return Content(
        sweep=runs.sweep,
        question=runs.parent.tags.get("mlflow.note.content", ""),
        conclusions=tuple(
            conclusions(arms, rules, spread, sum(history.ended for history in items), collapsed)
        ),
        notices=tuple(notices(runs, items, arms, rules)),
        sections=non_empty(_sections(runs, items, trials, arms, rules, marked)),
        trials=trials,
        arms=arms,
        failures=tuple(failures[:_UNTOLD]),
        more_failures=max(0, len(failures) - _UNTOLD),
        facts=tuple(facts(runs, items, environment or {})),
        method=tuple(method(arms, rules, gain)),
        arguments=runs.sweep,
        baseline=str(marked[0]) if len(marked) == 1 else "",
        winner=leading_arm(arms, rules.objective.name),
    )


def _sections(
    runs: SweepRuns,
    items: Sequence[TrialHistory],
    trials: pd.DataFrame,
    arms: pd.DataFrame,
    rules: Rules,
    baselines: Sequence[str],
) -> list[Section]:
    order = list(arms["arm"])
    looks = styles(order, baselines)
    about = find_study_arms({} if is_search(runs) else configs(runs))
    curves = Courses(items, order, looks).pictures(convergence_objective(items, rules).name, about)
    settings = settings_table(arms, varying(items)) if len(arms) else None
    main = (main_table(arms, rules), settings, cost_table(arms)) if len(arms) else ()
    published = reference_table(arms, trials, rules)
    claimed = claims.table(claims.claims(items, about, rules), rules.level(1))
    return [
        Section("arms", "Arms", (), tuple(table for table in main if table)),
        Section("published", "Against published figures", (), (published,) if published else ()),
        Section("claims", "What the study claims", (), (claimed,) if claimed else ()),
        Section("curves", "Curves", (), (), curves),
        effects.section(items, arms, rules, looks, is_search(runs)),
    ]


def _failure(history: TrialHistory, run_ids: Mapping[str, str]) -> Failure:
    return Failure(
        history.trial.name,
        history.reason or "no reason was recorded",
        run_ids.get(history.trial.id, ""),
    )
