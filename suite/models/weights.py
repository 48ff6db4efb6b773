"""Weights from a file or from torchvision, and whether they fit a network."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suite.config.trial import ModelConfig
from suite.core.errors import EnvironmentProblem, Problem, UsageError
from suite.models import zoo
from suite.models.head import head_name

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)

# Keys of the state dict in files that hold more: Lightning and many others, ours, kuangliu's.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net")
# Prefixes of names by DataParallel and torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
# Auxiliary classifiers of googlenet and inception_v3, which the suite's networks leave out.
_AUXILIARY = re.compile(r"(aux[12]|AuxLogits)\.")
# torchvision's published DenseNets predate a rename, which its builder applies on loading.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..+)$")
_TIMEOUT_S = 30.0
_SHOWN = 3


@dataclass(frozen=True)
class Weights:
    """Initial weights.

    Attributes:
        state: parameter or buffer name -> tensor on the CPU; floating point as float32.
        digest: SHA-256 of the file, hexadecimal; part of a trial's identity.
        mean, std: per channel, of the images in [0, 1] that the weights were trained on; None =
            unknown, so those of the training images apply.
        source: for messages and tables.
    """

    state: dict[str, Tensor]
    digest: str
    mean: Channels | None
    std: Channels | None
    source: str


def load_weights(config: ModelConfig) -> Weights | None:
    """The weights that ``config.weights`` names; None for ``none``.

    ``imagenet`` is downloaded into torch's hub cache (``$TORCH_HOME``), once. The caller resolves
    ``runs:/`` and ``models:/`` to a file first: this module does not use MLflow.

    Raises:
        UsageError: the architecture has no such weights.
        EnvironmentProblem: the file is missing, unreadable or cannot be downloaded.
    """
    if config.weights == "none":
        return None
    if config.weights.startswith(("runs:/", "models:/")):
        raise UsageError(
            f"model.weights: {config.weights!r} must be fetched from MLflow first",
            remedy="Give the path of the fetched file.",
        )
    published = _published(config.arch) if config.weights == "imagenet" else None
    path = _downloaded(published) if published is not None else Path(config.weights).expanduser()
    state, statistics = _read(path)
    mean, std = statistics or _statistics(config.arch, published)
    return Weights(state, _sha256(path), mean, std, config.weights)


def missing_file(config: ModelConfig) -> list[Problem]:
    """A problem if ``config.weights`` names a file that is not there. Loads nothing."""
    if config.weights in ("none", "imagenet") or config.weights.startswith(("runs:/", "models:/")):
        return []
    path = Path(config.weights).expanduser()
    return [] if path.is_file() else [_missing(path)]


def _missing(path: Path) -> Problem:
    kind = "is a folder, not a file" if path.is_dir() else "does not exist"
    return Problem(
        f"model.weights: {path} {kind}",
        remedy="Give the file of a state dict saved with torch.save; "
        "relative paths start at the sweep file.",
        environment=True,
    )


# ---- torchvision's ----


def _published(arch: str) -> Any:
    """torchvision's IMAGENET1K_V1 for ``arch``."""
    if not zoo.from_torchvision(arch):
        raise UsageError(
            f"model.weights: there are no ImageNet weights for {arch!r}",
            remedy="Choose a torchvision architecture such as resnet18, or weights: none, "
            "or a file.",
        )
    published = zoo.published_weights(arch)
    if not hasattr(published, "IMAGENET1K_V1"):
        raise UsageError(
            f"model.weights: torchvision has no IMAGENET1K_V1 weights for {arch!r}",
            remedy=f"It has {', '.join(entry.name for entry in published)}: give one as a file.",
        )
    return published.IMAGENET1K_V1


def _downloaded(published: Any) -> Path:
    """The file in torch's hub cache, downloaded if it is missing."""
    url = str(published.url)
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _timeout():
            torch.hub.download_url_to_file(url, str(path), _start_of_digest(name), progress=False)
    except (OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"model.weights: {url} could not be downloaded: {error}",
            remedy=f"Put the file at {path}, or name one you have: "
            f"model.imagenet_file=/path/to/{name.partition('-')[0]}.pth",
        ) from error
    return path


def _start_of_digest(name: str) -> str | None:
    """The first digits of the SHA-256, from the name: torch checks them after the download."""
    match = re.search(r"-([a-f0-9]{8,})\.", name)
    return match[1] if match else None


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    """A timeout for torch's downloader, which would wait for minutes behind some firewalls."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _statistics(arch: str, published: Any) -> tuple[Channels, Channels] | tuple[None, None]:
    """Mean and std of images for the weights: torchvision's for its architectures, else unknown.

    A file for such an architecture is assumed to be like the published weights. These have
    ImageNet's statistics except for efficientnet_v2_l.
    """
    if published is None:
        if not zoo.from_torchvision(arch):
            return None, None
        published = getattr(zoo.published_weights(arch), "IMAGENET1K_V1", None)
    if published is None:
        return IMAGENET_MEAN, IMAGENET_STD
    transforms = published.transforms()
    return _three(transforms.mean), _three(transforms.std)


def _three(values: Any) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


# ---- files ----


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[Channels, Channels] | None]:
    """The state dict in a file, and its mean and std if it has them."""
    if not path.is_file():
        raise EnvironmentProblem(_missing(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise anything; torch has no base class for it
        first_line = str(error).strip().partition("\n")[0]
        raise _unreadable(path, f"{type(error).__name__}: {first_line}") from error
    if not isinstance(content, Mapping):
        raise _unreadable(path, f"it holds a {type(content).__name__}, not a state dict")
    wrapped = next(
        (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None
    )
    state = _clean(content if wrapped is None else wrapped)
    if not state:
        raise _unreadable(
            path, f"it has no named tensors, only {', '.join(map(str, content)) or 'nothing'}"
        )
    if wrapped is None or "mean" not in content or "std" not in content:
        return state, None
    try:
        return state, (_three(content["mean"]), _three(content["std"]))
    except (TypeError, ValueError) as error:
        raise _unreadable(path, f"its mean and std must be three numbers each: {error}") from error


def _unreadable(path: Path, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"model.weights: {path} cannot be read as weights: {why}",
        remedy="Save it again with torch.save(model.state_dict(), path). "
        "Pickled objects are refused: they run code.",
    )


def _clean(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Plain names, floating point as float32; keeps the layer versions that torch stores."""
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    versions: dict[str, Any] = dict(getattr(state, "_metadata", {}))
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
            versions = {
                name.removeprefix(prefix): value
                for name, value in versions.items()
                if f"{name}." != prefix
            }
    clean = OrderedDict((name, _full(value)) for name, value in tensors.items())
    setattr(clean, "_metadata", versions)  # noqa: B010  # load_state_dict reads it
    return clean


def _full(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


# ---- into a network ----


def put_into(net: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy ``state`` into ``net``; the head only if its shape is the same.

    Args:
        net: changed in place; on torch's meta device only the fit is checked.
        state: parameter or buffer name -> tensor.

    Returns:
        One text per misfit; empty if all tensors fit. After a misfit ``net`` is unusable.
    """
    head = head_name(net)
    own = net.state_dict()
    device = next((tensor.device for tensor in own.values()), torch.device("cpu"))
    given = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    given = {
        name: value for name, value in given.items() if name in own or not _AUXILIARY.match(name)
    }
    if _shapes(given, head) != _shapes(own, head):
        given = {name: value for name, value in given.items() if not name.startswith(f"{head}.")}
    odd = [
        f"{name} is {_shape(value)}, the network's is {_shape(own[name])}"
        for name, value in given.items()
        if name in own and value.shape != own[name].shape
    ]
    fitting = OrderedDict(
        (name, value.to(device))
        for name, value in given.items()
        if name not in own or value.shape == own[name].shape
    )
    setattr(fitting, "_metadata", _versions(net, state))  # noqa: B010
    with warnings.catch_warnings():
        # BatchNorm adds counters that old files lack; torch warns that the meta device copies none.
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter", UserWarning)
        missing, unexpected = net.load_state_dict(fitting, strict=False)
    missing = [name for name in missing if not name.startswith(f"{head}.") and name not in given]
    return [
        *odd,
        *(f"{name} is missing in the file" for name in missing),
        *(f"{name} is not in the network" for name in unexpected),
    ]


def _shapes(state: Mapping[str, Tensor], head: str) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items() if name.startswith(f"{head}.")}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _versions(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Layer versions for ``load_state_dict``, by which torchvision renames entries of old files.

    Without them layers count as old, but the network as a whole as current: MNASNet refuses files
    of an unknown version.
    """
    versions = dict(getattr(state, "_metadata", {}))
    if "" not in versions and hasattr(net, "_version"):
        versions[""] = {"version": net._version}
    return versions


def mismatch(
    config: ModelConfig, weights: str, misfits: list[str], looks_like: list[str]
) -> Problem:
    """The problem of weights of another architecture."""
    shown = "; ".join(misfits[:_SHOWN]) + (
        f"; and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
    )
    guess = f"They look like those of {' or '.join(looks_like)}. " if looks_like else ""
    return Problem(
        f"model.weights: {weights} does not fit {config.arch}: {shown}",
        remedy=f"{guess}Set model.arch to the network that they were trained with.",
    )
