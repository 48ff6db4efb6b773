"""The report's files: written beside their place, then swapped in whole."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from suite import tracking
from suite.core.errors import EnvironmentProblem, SuiteError, UsageError
from suite.report import activation_section, error_analysis
from suite.report.compare_sweeps import comparison_content
from suite.report.content import Content, content
from suite.report.elements import Picture, non_empty
from suite.report.figures import address, darkened
from suite.report.image_error import image_errors
from suite.report.runs import rules
from suite.report.tables import csv, latex, markdown
from suite.tracking import SweepRuns

log = logging.getLogger(__name__)
_ABANDONED = 3600  # seconds after which a draft is nobody's: none takes a tenth of that
OURS = {"index.html", "report.md", "results.csv", "arms.csv", "table.tex", "figures"}


def make(sweep: str, uri: str, out: Path, tell: Callable[[str], None] = log.warning) -> Path:
    """Write a sweep's report, replacing an earlier one whole, and upload it to the sweep's run.

    Args:
        sweep: its name.
        uri: MLflow's store.
        out: folder of the reports; this one goes to a folder of the sweep's name in it.
        tell: takes a sentence if the store does not accept the report.

    Returns:
        The page, ``index.html``.

    Raises:
        UsageError: there is no such sweep, or the folder holds something else than a report.
        EnvironmentProblem: the store cannot be read or the folder cannot be written.
    """
    runs = tracking.read(uri, sweep)
    judged = rules(runs, uri)
    images = image_errors(runs, uri, judged)
    report = content(runs, judged, _environment(runs, uri), images)
    page = publish(_illustrated(report, runs, uri), out)
    try:
        tracking.publish_report(uri, runs.parent.run_id, page.parent)
    except EnvironmentProblem as error:
        tell(str(error))
    return page


def _illustrated(report: Content, runs: SweepRuns, uri: str) -> Content:
    """With what artifacts of the runs show: errors, augmentations, activations."""
    order = [str(arm) for arm in report.arms["arm"]] if len(report.arms) else []
    pictures = non_empty(
        [
            activation_section.augmentations(runs, uri),
            activation_section.activations(runs, uri, order, report.baseline),
        ]
    )
    both = [arm for arm in (report.baseline, report.winner) if arm]
    shown = error_analysis.section(runs, uri, both[0], _best(report, both[-1])) if both else None
    return replace(report, errors=shown, pictured=pictures)


def _best(report: Content, winner: str) -> str:
    """The arm whose errors are compared with the baseline's: the best that is not the baseline."""
    if winner != report.baseline:
        return winner
    others = [str(arm) for arm in report.arms["arm"] if str(arm) != winner]
    finished = set(report.trials.loc[report.trials["status"] == "finished", "arm"])
    return next((arm for arm in others if arm in finished), winner)


def make_comparison(sweep: str, other: str, uri: str, out: Path) -> Path:
    """Compare two sweeps, arm by arm where they share one; goes to ``OUT/SWEEP-and-OTHER``.

    Returns:
        The page, ``index.html``.

    Raises:
        UsageError: there is no such sweep, or the two share no arm; and as ``make``.
        EnvironmentProblem: as ``make``.
    """
    ours, theirs = tracking.read(uri, sweep), tracking.read(uri, other)
    return publish(comparison_content(ours, theirs, rules(ours, uri), rules(theirs, uri)), out)


def publish(report: Content, out: Path) -> Path:
    """Write a report's files and put them in their place in one move."""
    target = out.absolute() / folder_name(report.folder or report.sweep)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        _recover(target)
        _check(target)
        write(report, draft)
        _swap(draft, target)
    except OSError as error:
        raise EnvironmentProblem(
            f"the report cannot be written to {target}: {error.strerror or error}",
            remedy="Name another folder: --out.",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target / "index.html"


def folder_name(sweep: str) -> str:
    """A sweep's folder: its name, without characters that lead elsewhere (in foreign names)."""
    return (
        "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in sweep).lstrip(
            "."
        )
        or "sweep"
    )


def write(report: Content, folder: Path) -> None:
    """All files of a report, into a new folder."""
    (folder / "figures").mkdir(parents=True)
    drawn = {picture.name: _drawn(picture) for picture in report.pictures}
    texts = {
        "results.csv": csv(report.trials),
        "arms.csv": csv(report.arms),
        "report.md": markdown(report),
        "index.html": page(report, drawn),
    }
    if report.tables:
        texts["table.tex"] = latex(
            report.tables[0], report.question or report.title or report.sweep
        )
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for picture in report.pictures:
        (folder / "figures" / f"{picture.name}.svg").write_bytes(drawn[picture.name].wide)
        (folder / "figures" / f"{picture.name}.png").write_bytes(drawn[picture.name].bitmap)
    for photo in report.photos:
        (folder / "figures" / f"{photo.name}.png").write_bytes(photo.content)
    for drawing in report.errors.drawings if report.errors else ():
        for kind, file in drawing.files.items():
            (folder / "figures" / f"{drawing.name}.{kind}").write_bytes(file)


@dataclass(frozen=True)
class Drawn:
    """A figure in the colours of a light page: SVG in two shapes, and a PNG of the wide one."""

    wide: bytes
    narrow: bytes
    bitmap: bytes

    @property
    def addresses(self) -> dict[str, str]:
        """Shape and scheme -> the figure as an address that holds it."""
        looks = {"wide": self.wide, "narrow": self.narrow}
        dark = {f"{name}_dark": darkened(drawing) for name, drawing in looks.items()}
        return {name: address(drawing) for name, drawing in (looks | dark).items()}


def _drawn(picture: Picture) -> Drawn:
    wide, bitmap = picture.plot.draw("svg", "png")
    (narrow,) = picture.plot.draw("svg", narrow=True)
    return Drawn(wide, narrow, bitmap)


def page(report: Content, drawn: Mapping[str, Drawn]) -> str:
    """The page, with all that it shows inside.

    Args:
        drawn: its figures, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(report=report, drawn=drawn)


def _environment(runs: SweepRuns, uri: str) -> Mapping[str, Any]:
    """What the sweep's machine was, as the launch put it on record; empty where that is missing."""
    try:
        environment = json.loads(
            tracking.download(uri, runs.parent.run_id, "environment.json").read_text(
                encoding="utf-8"
            )
        )
    except (SuiteError, OSError, ValueError):
        return {}
    return environment if isinstance(environment, dict) else {}


def _check(target: Path) -> None:
    """Refuse to replace what is no report: a mistaken ``--out`` must cost nobody a folder."""
    if not target.exists():
        return
    others = (
        sorted(path.name for path in target.iterdir() if path.name not in OURS)
        if target.is_dir()
        else [target.name]
    )
    if others:
        raise UsageError(
            f"{target} would be replaced by the report, but holds other files: "
            f"{', '.join(others[:5])}",
            remedy="Move that away, or name another folder: --out.",
        )


_OLD = ".old"


def _recover(target: Path) -> None:
    """Finish what a killed run left undone in ``_swap``, and remove its drafts.

    Not every file system can exchange two folders in one step. So between two renames no folder has
    the report's name; the new and the old report are both complete, under other names.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.tmp")
    left = [path for path in _beside(target) if pattern.fullmatch(path.name.removesuffix(_OLD))]
    for old in [path for path in left if path.name.endswith(_OLD)]:
        draft = old.with_name(old.name.removesuffix(_OLD))
        if not target.exists():
            (draft if draft.exists() else old).replace(target)
        for path in (draft, old):
            shutil.rmtree(path, ignore_errors=True)
    for draft in left:  # another process may be writing a young one
        if draft.exists() and time.time() - draft.stat().st_mtime > _ABANDONED:
            shutil.rmtree(draft, ignore_errors=True)


def _beside(target: Path) -> list[Path]:
    return sorted(target.parent.iterdir()) if target.parent.is_dir() else []


def _swap(draft: Path, target: Path) -> None:
    """Move ``draft`` to ``target``; a failure leaves the old one (after a kill: ``_recover``)."""
    old = draft.with_name(f"{draft.name}{_OLD}")
    had = target.exists()
    if had:
        target.replace(old)
    try:
        draft.replace(target)
    except OSError:
        if had:
            old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
