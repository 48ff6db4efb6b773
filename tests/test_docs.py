"""The README, the documentation and the example notebook: what they show works."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from conftest import REPO, Folder
from PIL import Image

from suite import config
from suite.__main__ import COMMANDS

DOCS = REPO / "docs"
TUTORIAL = DOCS / "tutorial" / "first-comparison.md"
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
README_LINES = 130
# A page shows only a part of this file; the part is checked as a change of it.
WHOLE = REPO / "search_spaces" / "quickstart.yaml"


def name_of(path: Path) -> str:
    return str(path.relative_to(REPO))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page, without the indentation of a list that they stand in."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```", page.read_text(), re.MULTILINE | re.DOTALL
    )
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def suite_commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Sub-command and arguments of each `suite ...` and `python -m suite...` in the page's shell
    blocks.
    """
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if "suite" in line and "'" not in line else []
            yield from _commands_in(words)


def _commands_in(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    for at, word in enumerate(words):
        module = re.fullmatch(r"suite\.([a-z]+)", word)
        if words[at - 1 : at] == ["-m"] and (module or word == "suite"):
            start = at + 1
        elif word == "suite" and at == 0:
            module, start = None, 1
        else:
            continue
        rest = words[start:]
        rest = rest[
            : min((rest.index(end) for end in ("&&", ">", "|") if end in rest), default=len(rest))
        ]
        yield (module[1], rest) if module else (rest[0], rest[1:])


COMMAND_CASES = [
    pytest.param(
        page, command, arguments, id=f"{name_of(page)}: {command} {' '.join(arguments)}"[:100]
    )
    for page in PAGES
    if page.exists()
    for command, arguments in suite_commands(page)
]


def test_most_pages_show_commands() -> None:
    """So that the next test cannot pass by finding nothing."""
    assert len(COMMAND_CASES) >= 30
    assert {command for _, command, _ in (case.values for case in COMMAND_CASES)} == set(COMMANDS)


@pytest.mark.parametrize(("page", "command", "arguments"), COMMAND_CASES)
def test_a_command_on_a_page_parses_and_its_sweep_loads(
    page: Path, command: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPO)
    parser: click.Command = importlib.import_module(COMMANDS[command][0]).main
    parsed = parser.make_context(command, list(arguments)).params
    if command != "sweep":
        return
    file = Path(parsed["file"])
    if not file.exists():  # the page shows the file
        file = write_shown(page, file.name, tmp_path)
    overrides = [text for text in parsed["overrides"] if text != "..."]
    config.load(file, overrides)
    arms = {arm.name for arm in config.load(file, overrides).arms_list}
    assert set(parsed["only"]) <= arms


def write_shown(page: Path, name: str, folder: Path) -> Path:
    """The sweep file of that name that a page shows, and the modules beside it."""
    for block in blocks(page, "python"):
        module = re.match(r"# (\w+\.py)\n", block)
        if module:
            (folder / module[1]).write_text(block)
    sweep = next(
        block
        for block in blocks(page, "yaml")
        if yaml.safe_load(block).get("name") == Path(name).stem
    )
    (folder / name).write_text(sweep)
    return folder / name


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.exists() and blocks(page, "yaml")], ids=name_of
)
def test_yaml_on_a_page_is_a_right_sweep_file(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        content = yaml.safe_load(block)
        if "name" in content:
            file = write_shown(page, f"{content['name']}.yaml", tmp_path)
        else:
            file = tmp_path / "part.yaml"
            file.write_text(yaml.safe_dump(yaml.safe_load(WHOLE.read_text()) | content))
        assert config.load(file).arms_list or config.load(file).search


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=name_of)
def test_code_on_a_page_has_no_syntax_error(page: Path) -> None:
    for block in blocks(page, "sh"):
        checked = subprocess.run(
            ["bash", "-n"], input=block, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, f"{checked.stderr}\n{block}"
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=name_of)
def test_make_targets_on_a_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert shown <= targets


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=name_of)
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not re.match(r"https?://", link):
            assert (page.parent / link).exists(), link


def test_the_readme_fits_on_a_page() -> None:
    assert len((REPO / "README.md").read_text().splitlines()) <= README_LINES


def test_every_command_is_in_the_help_without_importing_any() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom suite.__main__ import cli\n"
        "print(CliRunner().invoke(cli, ['--help']).output)\n"
        "print([name for name in sys.modules if name.startswith(('torch', 'ray', 'mlflow', "
        "'suite.'))])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    *helped, imported = ran.stdout.splitlines()
    assert imported == "['suite.__main__']"
    for name in COMMANDS:
        assert any(line.split()[:1] == [name] for line in helped), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_works_from_images_to_probabilities(tmp_path: Path) -> None:
    """The tutorial's file and commands, with few small images, two seeds and one epoch."""
    folder = Folder(tmp_path)
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for kind, base in (("daisy", 40), ("rose", 160)):
            images = tmp_path / "flowers" / split / kind
            images.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(base, base + 60, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(images / f"{index}.jpg")
    shutil.copytree(tmp_path / "flowers" / "test" / "rose", tmp_path / "new-photos")
    write_shown(TUTORIAL, "flowers.yaml", tmp_path)
    shown = [(command, arguments) for command, arguments in suite_commands(TUTORIAL) if arguments]
    commands = dict.fromkeys(command for command, _ in shown)
    assert list(commands) == ["sweep", "predict"]
    for command, arguments in shown:
        if command == "sweep" and arguments[-1] not in ("flowers.yaml", "--dry-run"):
            continue  # more seeds: test_resume.py
        small = ["train.epochs=1", "seeds=[0,1]"] if command == "sweep" else []
        arguments = [text for text in arguments if not text.startswith("train.epochs")]
        done = folder.run(*arguments, *small, module=f"suite.{command}", timeout=400)
        assert done.returncode == 0, f"{command} {arguments}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "reports" / "flowers" / "index.html").is_file()
    header, *rows = (tmp_path / "probabilities.csv").read_text().splitlines()
    assert "daisy" in header and "rose" in header and len(rows) == 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_notebook_runs(tmp_path: Path) -> None:
    """All cells, with two seeds and one epoch."""
    notebook = json.loads((REPO / "examples" / "compare.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] for cell in cells), "commit the notebook without outputs"
    parameters = next(cell for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    parameters["source"] += '\noverrides = ["train.epochs=1", "seeds=[0,1]"]'
    (tmp_path / "search_spaces").symlink_to(REPO / "search_spaces")
    (tmp_path / "examples").mkdir()
    file = tmp_path / "examples" / "compare.ipynb"
    file.write_text(json.dumps(notebook))
    folder = Folder(tmp_path / "examples")
    ran = subprocess.run(
        [
            str(Path(sys.executable).parent / "jupyter-execute"),
            "--inplace",
            "--kernel_name=python3",
            str(file),
        ],
        cwd=file.parent,
        env=folder.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=850,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    executed = [
        cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    assert "augment=crop" in json.dumps(executed[2]["outputs"])
    assert "oo few seeds" in json.dumps(executed[4]["outputs"]), (
        "two seeds: the report gives no verdict"
    )


def test_requirement_files_are_those_of_pyproject() -> None:
    checked = subprocess.run(
        [sys.executable, "scripts/requirements.py", "--check"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
