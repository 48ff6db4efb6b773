"""The one place that imports torchvision: ``from suite.system.torchvision_import import
torchvision``.

Why not ``import torchvision``: on Linux x86-64 a CPU-only torch may be installed beside the
registry's torchvision, which is compiled against CUDA. Its compiled operators then cannot load, and
the import itself fails with ``operator torchvision::nms does not exist``, because torchvision
describes ``nms`` and ``qnms`` to torch without asking whether they are there (torchvision 0.28.0,
``_meta_registrations.py``). Declaring just the two names makes the import work. They have no
implementation: calling ``torchvision.ops.nms`` still fails, but classification, transforms and data
sets never do. Where torchvision imports by itself, nothing is declared.

And torchvision imports torch's compiler, for a function that says whether an operator of boxes
could be compiled. That took 1.7 s of each process, and boxes are nobody's here: the function is
looked up when it is called.

Importing this module takes about a second: modules that may not need torchvision import it inside a
function.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[
    torch.library.Library
] = []  # torch forgets the operators when their library object goes


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(name + _SCHEMA)  # type: ignore[no-untyped-call]
    _declared.append(library)


@contextlib.contextmanager
def _compiler_left_out() -> Iterator[None]:
    """A stand-in for the one module of torch's compiler that torchvision asks for."""
    name = "torch._dynamo.utils"
    if "torch._dynamo" in sys.modules:
        yield
        return
    stand_in: Any = ModuleType(name)
    stand_in.is_compile_supported = lambda kind: importlib.import_module(name).is_compile_supported(
        kind
    )
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


def _load() -> Any:
    """torchvision, imported as it is where that works, and with its two operators declared where
    it does not.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    # The failed import took `torchvision` back out of sys.modules, but not the parts that it had
    # got through.
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
    _declare_operators()
    return importlib.import_module("torchvision")


with _compiler_left_out():
    torchvision: Any = _load()
