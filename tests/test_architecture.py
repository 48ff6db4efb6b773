"""docs/explanation/architecture.md is true: its packages are those of the import contract, in
order.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REPO = Path(__file__).parent.parent
PAGE = (REPO / "docs" / "explanation" / "architecture.md").read_text()


def layers() -> list[set[str]]:
    """The layers of the import contract, from top to bottom."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract["type"] == "layers"]
    assert contract["exhaustive"]
    return [set(layer.split(" : ")) for layer in contract["layers"]]


def test_the_page_lists_the_packages_of_the_contract_in_its_order() -> None:
    table = PAGE.split("| package | holds |")[1].split("\n\n")[0]
    listed = [
        {name.removesuffix(".py") for name in re.findall(r"`suite/([\w.]+)`", row.split("|")[1])}
        for row in table.splitlines()[2:]
    ]
    assert listed == [layer for layer in layers() if layer != {"__main__"}]


def test_every_file_that_the_page_names_exists() -> None:
    named = re.findall(r"`(suite/[\w/]+(?:\.py)?)`", PAGE)
    assert len(named) > 20
    assert [name for name in named if not (REPO / name).exists()] == []


def test_no_package_has_modules_outside_the_contract() -> None:
    found = {path.stem for path in (REPO / "suite").iterdir() if path.suffix == ".py"}
    found |= {path.parent.name for path in (REPO / "suite").glob("*/__init__.py")}
    assert found - {"__init__"} == set().union(*layers())
