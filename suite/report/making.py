"""The report's files: written beside their place, then swapped in whole."""

from __future__ import annotations

import base64
import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from suite import tracking
from suite.errors import EnvironmentProblem, SuiteError, UsageError
from suite.report import figures
from suite.report.content import Content, content
from suite.report.stored import rules
from suite.report.tables import csv, markdown
from suite.tracking import SweepRuns

OURS = {"index.html", "report.md", "results.csv", "arms.csv", "figures"}


def make(sweep: str, uri: str, out: Path) -> Path:
    """Make a sweep's report, replacing an earlier one whole.

    Args:
        sweep: its name.
        uri: MLflow's store.
        out: folder of the reports; this one goes to a folder of the sweep's name in it.

    Returns:
        The page, ``index.html``.

    Raises:
        UsageError: there is no such sweep, or the folder holds something else than a report.
        EnvironmentProblem: the store cannot be read or the folder cannot be written.
    """
    runs = tracking.read(uri, sweep)
    found = content(runs, rules(runs, uri), _environment(runs, uri))
    return publish(found, out)


def publish(found: Content, out: Path) -> Path:
    """Write a report's files and put them in their place in one move."""
    target = out.absolute() / folder_name(found.sweep)
    _check(target)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(found, draft)
        _swap(draft, target)
    except OSError as error:
        raise EnvironmentProblem(
            f"the report cannot be written to {target}: {error.strerror or error}", remedy="Name another folder: --out."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target / "index.html"


def folder_name(sweep: str) -> str:
    """A sweep's folder: its name, less what would lead elsewhere (only sweeps that are not ours have such names)."""
    return "".join(letter if letter.isalnum() or letter in "_.-" else "_" for letter in sweep).lstrip(".") or "sweep"


def write(found: Content, folder: Path) -> None:
    """All files of a report, into a new folder."""
    (folder / "figures").mkdir(parents=True)
    texts = {
        "results.csv": csv(found.trials),
        "arms.csv": csv(found.arms),
        "report.md": markdown(found),
        "index.html": page(found),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for kind in ("png", "svg") if found.curves else ():
        drawing = figures.draw(found.curves, found.baselines, found.metric, kind)
        (folder / "figures" / f"curves.{kind}").write_bytes(drawing)


def page(found: Content) -> str:
    """The page, with all that it shows inside."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(report=found, pictures=_pictures(found))


def _pictures(found: Content) -> dict[str, str]:
    """Scheme and shape -> the figure as an address that holds it."""
    if not found.curves:
        return {}
    wanted = {
        "wide": (figures.LIGHT, figures.WIDE),
        "wide_dark": (figures.DARK, figures.WIDE),
        "narrow": (figures.LIGHT, figures.NARROW),
        "narrow_dark": (figures.DARK, figures.NARROW),
    }
    return {
        name: _address(figures.draw(found.curves, found.baselines, found.metric, "svg", *look))
        for name, look in wanted.items()
    }


def _address(drawing: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"


def _environment(runs: SweepRuns, uri: str) -> Mapping[str, Any]:
    """What the sweep's machine was, as the launch put it on record; empty where that is missing."""
    try:
        found = json.loads(tracking.download(uri, runs.parent.run_id, "environment.json").read_text(encoding="utf-8"))
    except (SuiteError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check(target: Path) -> None:
    """Refuse to replace what is no report: a mistaken ``--out`` must cost nobody a folder."""
    if not target.exists():
        return
    others = (
        sorted(path.name for path in target.iterdir() if path.name not in OURS) if target.is_dir() else [target.name]
    )
    if others:
        raise UsageError(
            f"{target} would be replaced by the report, but holds something else: {', '.join(others[:5])}",
            remedy="Move that away, or name another folder: --out.",
        )


def _swap(draft: Path, target: Path) -> None:
    """``draft`` becomes ``target``; a failure leaves the old one."""
    old = target.with_name(f"{draft.name}.old")
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
