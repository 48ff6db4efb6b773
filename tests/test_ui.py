"""A plain ``mlflow ui`` in the working folder shows a sweep: looked at in headless Chromium."""

from __future__ import annotations

from typing import Any

import pytest
from browser import chromium, mlflow_ui, needed
from conftest import Folder

pytestmark = [pytest.mark.browser, pytest.mark.slow, needed]


def test_a_small_sweep_can_be_looked_at_in_mlflows_own_pages(folder: Folder) -> None:
    """One sweep, one server and one browser for all questions: they take most of the time."""
    folder.report = True
    folder.write(seeds=[0], checkpoints={"keep": 1}, description="Is a small step enough?")
    folder.sweep()
    with mlflow_ui(folder) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        the_link_that_the_sweep_prints_shows_the_parent_with_its_children_below(url, folder, page)
        a_childs_page_shows_figures_settings_and_curves(url, folder, page)
        artifacts_of_child_and_parent_can_be_opened(url, folder, page)
        the_parent_shows_the_report(url, folder, page)
        a_trials_layers_can_be_stepped_through(url, folder, page)


def run_id(folder: Folder, name: str) -> str:
    return str(folder.query("select run_uuid from runs where name = ?", name)[0][0])


def the_link_that_the_sweep_prints_shows_the_parent_with_its_children_below(
    url: str, folder: Folder, page: Any
) -> None:
    done = folder.sweep()  # again: already complete, and says where to look
    link = next(line for line in done.stdout.splitlines() if line.startswith("browse:")).split(
        "http://127.0.0.1:5000"
    )[1]
    page.goto(url + link)
    page.get_by_role("link", name="tiny", exact=True).last.wait_for()
    page.get_by_text("3 matching runs").wait_for()
    assert page.get_by_text("lr=0.05 seed=0").count() == 0, "children are folded below their parent"
    page.locator(".ag-row").first.locator("button").first.click()
    page.get_by_text("lr=0.05 seed=0").first.wait_for()
    page.get_by_text("lr=0.2 seed=0").first.wait_for()


def a_childs_page_shows_figures_settings_and_curves(url: str, folder: Folder, page: Any) -> None:
    base = f"{url}/#/experiments/1/runs/{run_id(folder, 'lr=0.2 seed=0')}"
    page.goto(base)
    page.get_by_text("val/acc", exact=True).first.wait_for()
    for text in ("test/loss", "train.lr", "model.arch", "tiny_net:build"):
        assert page.get_by_text(text, exact=True).count() > 0, text
    page.goto(f"{base}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill(
        "/acc"
    )  # charts below the fold are not drawn
    # a curve of several epochs: a path of more than one point
    page.wait_for_function(
        "[...document.querySelectorAll('path.js-line')].some(p => "
        "p.getAttribute('d').includes('L'))"
    )


def artifacts_of_child_and_parent_can_be_opened(url: str, folder: Folder, page: Any) -> None:
    base = f"{url}/#/experiments/1/runs"
    page.goto(f"{base}/{run_id(folder, 'lr=0.2 seed=0')}/artifacts")
    page.get_by_text("environment.json").first.wait_for()
    assert page.get_by_text("predictions.npz").count() > 0
    page.get_by_text("config.yaml").first.click()
    page.get_by_text("arch: tiny_net:build").first.wait_for()
    page.goto(f"{base}/{run_id(folder, 'tiny')}/artifacts")
    page.reload()  # MLflow's page keeps the tree of the run before
    page.get_by_text("sweep.yaml").first.wait_for()
    assert page.get_by_text("plan.json").count() > 0


def the_parent_shows_the_report(url: str, folder: Folder, page: Any) -> None:
    page.goto(f"{url}/#/experiments/1/runs/{run_id(folder, 'tiny')}/artifacts/report/index.html")
    page.reload()
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="tiny", exact=True).wait_for()
    report.get_by_role("heading", name="What the layers see").wait_for()
    assert report.locator("img").count() > 5


def a_trials_layers_can_be_stepped_through(url: str, folder: Folder, page: Any) -> None:
    page.goto(f"{url}/#/experiments/1/runs/{run_id(folder, 'lr=0.2 seed=0')}/model-metrics")
    page.reload()
    page.get_by_placeholder("Search metric charts").fill("activations")
    picture = page.locator("img[src*='activations']").first
    picture.wait_for()
    assert "step%2B0%2B" in picture.get_attribute("src")
    page.get_by_role("slider").first.press("ArrowRight")
    page.locator("img[src*='step%2B1%2B']").first.wait_for()
    assert (
        page.locator("img[src*='step%2B1%2B']").first.evaluate("image => image.naturalWidth") > 50
    )
