"""suite.system.torchvision_import: torchvision can be imported if its operators are missing, and is
left alone if not.

Each case runs in a process of its own, because a process imports torchvision only once.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


def fake(folder: Path, **files: str) -> Path:
    """A folder with a package called torchvision."""
    package = folder / "torchvision"
    package.mkdir()
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    return folder


# As torchvision 0.28 does when its compiled operators did not load: `part` is imported before the
# failure.
MISSING = """
import torch
from torchvision import part
part.parent = __name__
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou_threshold: None)
"""


def test_the_real_torchvision_imports_without_a_warning_and_makes_a_network():
    done = run(
        "from suite.system.torchvision_import import torchvision as t; "
        "print(t.models.resnet18().fc.out_features)"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1000"), done.stderr


def test_missing_operators_are_declared_and_the_import_tried_again(tmp_path):
    folder = fake(tmp_path, __init__=MISSING, part="")
    failed = run("import torchvision", folder)
    assert "operator torchvision::nms does not exist" in failed.stderr
    done = run(
        "import gc; from suite.system.torchvision_import import torchvision as t; gc.collect()\n"
        "import torch; print(t.part.parent); print(torch.ops.torchvision.nms.default._schema)\n"
        "print(torch.ops.torchvision.qnms.default._schema)",
        folder,
    )
    assert done.stdout.splitlines() == [
        "torchvision",
        "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "torchvision::qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ], done.stderr


def test_nothing_is_declared_where_torchvision_imports_by_itself(tmp_path):
    folder = fake(tmp_path, __init__="own = True")
    done = run(
        "from suite.system.torchvision_import import torchvision as t; import torch; "
        "print(t.own, hasattr(torch.ops.torchvision, 'nms'))",
        folder,
    )
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.parametrize(
    "error", ["RuntimeError('CUDA versions differ')", "ImportError('no such thing')"]
)
def test_other_failures_are_not_hidden(tmp_path, error):
    done = run("import suite.system.torchvision_import", fake(tmp_path, __init__=f"raise {error}"))
    assert done.returncode == 1
    assert error.replace("('", ": ").removesuffix("')") in done.stderr
