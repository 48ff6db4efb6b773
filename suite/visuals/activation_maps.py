"""Activation maps: each layer's channels for one image, as a sheet of grey tiles; dead channels.

Legend: N images, B images of a batch, C channels, H x W pixels.

A *stage* is the output of a layer in one forward pass. A module's stage has the module's name
(``layer1.0.conv1``); that of a ReLU called as a function has the name of its module and ``relu``
(``layer1.0.relu``). If a name occurs again in the same pass, a number follows it
(``layer1.0.relu:2``). Stages are in the order of the pass, so any network can be shown. If a module
returns a stage unchanged, the stage has both names (``layer1.0`` is ``layer1.0.relu:2``).
"""

from __future__ import annotations

import difflib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from suite.core.errors import UsageError
from suite.models import init

KEY = "activations"  # the series of images in MLflow
FACTS_FILE = "activations.json"  # describes the maps beside it
INPUT = "input"
CARS = ("automobile", "car")
# Pixels across the tiles: of maps to look at, and of those of each trial.
SHOWN_WIDTH, TRACKED_WIDTH = 1152, 288
TRACKED_GREYS = 10  # of a trial's maps, for about half a byte per pixel

_FUNCTIONS = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu",
    Tensor.relu: "relu", Tensor.relu_: "relu", F.relu6: "relu6",
    F.hardtanh: "hardtanh", F.leaky_relu: "leaky_relu", F.elu: "elu", F.selu: "selu",
    F.prelu: "prelu", F.gelu: "gelu", F.silu: "silu", F.mish: "mish", F.hardswish: "hardswish",
}  # fmt: skip
_SHORTCUTS = {
    "downsample",
    "shortcut",
    "skip",
    "proj",
}  # parts of names: torchvision's, ours, and other usual ones
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
MARK = (213, 94, 0)  # vermillion of Okabe and Ito; mid-grey in print
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True)
class Stage:
    """A layer's output in a forward pass.

    Attributes:
        key: its name.
        kind: ``input``, ``padding``, ``convolution``, ``batch norm``, or the name of an activation
            or of a module's class.
        output: (B, C, H, W), or (B, C) after the pooling; valid until the pass continues.
        activation: whether it is an activation function's.
        relu: whether it is never negative, and 0 if a unit does not fire.
    """

    key: str
    kind: str
    output: Tensor
    activation: bool = False
    relu: bool = False


@dataclass(frozen=True)
class Dead:
    """Channels whose ReLU is 0 at every pixel of every image.

    Attributes:
        images: N.
        layers: stage -> bool (C,), in forward order; True = dead.
    """

    images: int
    layers: Mapping[str, npt.NDArray[np.bool_]]

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Stage -> (dead channels, channels)."""
        return {key: (int(mask.sum()), len(mask)) for key, mask in self.layers.items()}

    @property
    def shares(self) -> dict[str, float]:
        """Metric ``dead/<stage>`` -> share of its channels that are dead, in [0, 1]."""
        return {f"dead/{key}": float(mask.mean()) for key, mask in self.layers.items()}


@dataclass(frozen=True)
class ActivationMap:
    """One layer's channels for one image, drawn as tiles.

    Attributes:
        key: the layer's name.
        title: its name, kind and shape.
        note: what the marks mean, or "".
        shape: (C, H, W).
        marked: numbers of the crossed-out channels.
        image: the title, and the tiles in rows, channel 0 first.
    """

    key: str
    title: str
    note: str
    shape: tuple[int, int, int]
    marked: tuple[int, ...]
    image: Image.Image

    @property
    def png(self) -> bytes:
        """The image as a PNG file."""
        file = io.BytesIO()
        self.image.save(file, "PNG", optimize=True)
        return file.getvalue()


def draw(
    network: nn.Module,
    image: Tensor,
    layers: Sequence[str] | None = None,
    *,
    dead: Dead | None = None,
    width: int = SHOWN_WIDTH,
    greys: int = 256,
) -> list[ActivationMap]:
    """The activation maps of ``image``, in forward order.

    Each channel has its own scale from black to white; maps of one pixel share the scale of their
    layer. The network runs in evaluation mode, without gradients. It is left as it was, as are the
    global random states.

    Args:
        network: any module that takes (B, C, H, W).
        image: float (C, H, W), normalised.
        layers: names, patterns (``layer2.*``) or ``all``. Default: those of ``usual_layers``.
        dead: channels to mark. Default: those that do not fire on this image.
        width: pixels for a row of tiles.
        greys: levels of grey, 2 to 256.

    Raises:
        UsageError: the network has no such layer, or it has no channels of pixels; names the layers
            that have.
    """
    stages, names = trace(network, image)
    chosen = (
        usual_layers(network, stages, names) if layers is None else _named(layers, stages, names)
    )
    numbers = {key: number for number, key in enumerate(_convolutions(stages), start=1)}
    maps = []
    for name in chosen:
        stage = stages[names[name]]
        kind = f"{stage.kind} {numbers[stage.key]}" if stage.key in numbers else stage.kind
        maps.append(_draw_map(name, kind, stage, dead, width, greys))
    return maps


def trace(network: nn.Module, image: Tensor) -> tuple[list[Stage], dict[str, int]]:
    """All stages with channels of pixels, float32 (1, C, H, W) on the CPU; and name -> index.

    Args:
        network: any module that takes (B, C, H, W).
        image: float (C, H, W), normalised.
    """
    stages: list[Stage] = []
    names: dict[str, int] = {}

    def keep(stage: Stage) -> None:
        if stage.output.ndim == 4:
            # A copy: a ReLU in place may come next.
            copied = stage.output.detach().to("cpu", torch.float32, copy=True)
            names[stage.key] = len(stages)
            stages.append(Stage(stage.key, stage.kind, copied, stage.activation, stage.relu))

    def add_name(name: str, key: str) -> None:
        if key in names:
            names.setdefault(name, names[key])

    batch = image.unsqueeze(0).to(_device(network))
    keep(Stage(INPUT, "its channels", batch))
    with _undisturbed(network), _Listener(network, keep, add_name).listening():
        network(batch)
    return stages, names


def find_dead(network: nn.Module, batches: Iterable[Tensor]) -> Dead:
    """Channels, and units of a head, whose ReLU (or ReLU6) is 0 for all images.

    Args:
        network: any module; left as it was.
        batches: float (B, C, H, W) each, normalised, on the network's device.
    """
    fired: dict[str, Tensor] = {}
    count = 0

    def observe(stage: Stage) -> None:
        if stage.relu and stage.output.ndim in (2, 4):
            fires = stage.output.amax([axis for axis in range(stage.output.ndim) if axis != 1]) > 0
            fired[stage.key] = fired[stage.key] | fires if stage.key in fired else fires

    with _undisturbed(network), _Listener(network, observe).listening():
        for batch in batches:
            network(batch)
            count += len(batch)
    return Dead(count, {key: ~mask.cpu().numpy() for key, mask in fired.items()})


def dead_channels(
    network: nn.Module, images: Tensor, batch: int = 256
) -> dict[str, tuple[int, int]]:
    """Layer -> (dead channels, channels) over normalised float images (N, C, H, W)."""
    return find_dead(
        network, (part.to(_device(network)) for part in torch.split(images, batch))
    ).counts


def example(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> int:
    """Position of the image to show: the first car, else the first image."""
    cars = [number for number, name in enumerate(classes) if name.lower() in CARS]
    positions = np.flatnonzero(np.isin(labels, cars))
    return int(positions[0]) if len(positions) else 0


def save(
    folder: Path, maps: Sequence[ActivationMap], dead: Dead | None, **facts: str | int | None
) -> list[str]:
    """Replace the maps in ``folder`` and their ``activations.json``.

    Returns:
        The names of the PNG files, which sort in forward order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)
    files = [
        f"{step:03d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', sheet.key)}.png"
        for step, sheet in enumerate(maps)
    ]
    for name, sheet in zip(files, maps, strict=True):
        (folder / name).write_bytes(sheet.png)
    content = facts | {
        "sheets": [
            {"step": step, "file": name, "layer": sheet.key, "title": sheet.title,
             "note": sheet.note, "shape": sheet.shape, "marked": sheet.marked}
            for step, (name, sheet) in enumerate(zip(files, maps, strict=True))
        ],
        "dead": dead.counts if dead else None,
        "dead_over_images": dead.images if dead else None,
    }  # fmt: skip
    (folder / FACTS_FILE).write_text(json.dumps(content, indent=1))
    return files


def _remove_earlier(folder: Path) -> None:
    """Remove only the maps that ``activations.json`` lists: the folder may hold a user's files."""
    try:
        names = [
            Path(sheet["file"]).name
            for sheet in json.loads((folder / FACTS_FILE).read_text())["sheets"]
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)


# ---- which layers ----


def usual_layers(
    network: nn.Module, stages: Sequence[Stage], names: Mapping[str, int]
) -> list[str]:
    """The layers of the study "ResNet-18 on CIFAR-10", part (c), for any network; in forward order.

    The input; the first convolution's padded input, the convolution, its batch norm and activation;
    the first block's first two convolutions and first activation; the second block; the last
    activation of the third block; the 15th convolution in forward order without shortcuts, or the
    last one if there are fewer. In a network without blocks the second and third convolutions and
    activations take their place.
    """
    convolutions = _convolutions(stages)
    activations = [stage.key for stage in stages if stage.activation]
    chosen = [INPUT]
    if convolutions:
        start = names[convolutions[0]]
        end = names[convolutions[1]] if len(convolutions) > 1 else len(stages)
        stem = stages[start - 1 : end] if stages[start - 1].kind == "padding" else stages[start:end]
        for kind in ("padding", "convolution", "batch norm"):
            chosen += [stage.key for stage in stem if stage.kind == kind][:1]
        chosen += [stage.key for stage in stem if stage.activation][:1]
        chosen.append(convolutions[14] if len(convolutions) > 14 else convolutions[-1])
    blocks = sorted(
        (name for name in _blocks(network) if name in names), key=lambda name: names[name]
    )
    if blocks:
        chosen += _within(blocks[0], convolutions)[:2] + _within(blocks[0], activations)[:1]
        chosen += blocks[1:2]
        chosen += _within(blocks[2], activations)[-1:] if len(blocks) > 2 else []
    else:
        chosen += convolutions[1:3] + activations[1:3]
    return _in_order(chosen, names)


def _convolutions(stages: Sequence[Stage]) -> list[str]:
    """Keys of the convolutions in forward order, without shortcuts."""
    convolutions = [stage.key for stage in stages if stage.kind == "convolution"]
    return [key for key in convolutions if not _SHORTCUTS & set(key.partition(":")[0].split("."))]


def _blocks(network: nn.Module) -> list[str]:
    """The innermost modules with at least two convolutions, one of them wider than a pixel."""

    def holds(module: nn.Module) -> bool:
        convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
        return len(convolutions) > 1 and any(max(part.kernel_size) > 1 for part in convolutions)

    parts = [
        (name, part)
        for name, part in network.named_modules()
        if name and not isinstance(part, _CONTAINERS)
    ]
    blocks = [name for name, part in parts if holds(part)]
    return [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]


def _within(block: str, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key.startswith(f"{block}.")]


def _named(layers: Sequence[str], stages: Sequence[Stage], names: Mapping[str, int]) -> list[str]:
    """The layers of names and patterns."""
    chosen: list[str] = []
    for pattern in layers:
        if pattern == "all":
            chosen += [stage.key for stage in stages]
        elif pattern in names:
            chosen.append(pattern)
        elif matching := [name for name in names if fnmatchcase(name, pattern)]:
            chosen += matching
        else:
            raise _unknown_layer(pattern, names)
    return _in_order(chosen, names)


def _in_order(chosen: Iterable[str], names: Mapping[str, int]) -> list[str]:
    """In forward order; each stage once, by its first name."""
    by_stage: dict[int, str] = {}
    for name in chosen:
        by_stage.setdefault(names[name], name)
    return [by_stage[index] for index in sorted(by_stage)]


def _unknown_layer(name: str, names: Mapping[str, int]) -> UsageError:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    known = [*names] if len(names) <= 80 else [key for key in names if key.count(".") < 2]
    return UsageError(
        f"--layers: the network has no layer {name!r} with channels of pixels",
        remedy=f"{meant}Known: {', '.join(known)}; all; or a pattern such as 'layer1.*'.",
    )


# ---- listening to a forward pass ----


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, separate random states; restores all of them."""
    modes = [(module, module.training) for module in network.modules()]
    with torch.no_grad(), init.own_randomness(seed=0):
        network.eval()
        try:
            yield
        finally:
            network.train(modes[0][1])
            for module, mode in modes:
                module.training = mode


@dataclass(eq=False)
class _Listener(TorchFunctionMode):
    """Reports each stage of a forward pass: hooks see modules, the mode sees functions.

    Args:
        network: the network that runs.
        on_stage: gets each stage.
        on_name: gets (another name, key) of the last stage.
    """

    network: nn.Module
    on_stage: Callable[[Stage], None]
    on_name: Callable[[str, str], None] = lambda name, key: None
    inside: list[tuple[str, nn.Module]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    last: tuple[str, Tensor, int] | None = None
    first_convolution: bool = True
    # (B, H, W, C), between two Permutes of ConvNeXt and Swin
    is_channels_last: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to all passes in the context."""
        with ExitStack() as stack:
            for name, module in self.network.named_modules():
                stack.callback(module.register_forward_pre_hook(partial(self._enter, name)).remove)
                stack.callback(module.register_forward_hook(partial(self._leave, name)).remove)
            stack.enter_context(self)
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        function = _FUNCTIONS.get(func)
        if function is not None and isinstance(output, Tensor) and self.inside:
            name, module = self.inside[-1]
            is_module = type(module).__module__ == "torch.nn.modules.activation"
            names = {"relu": "ReLU", "relu6": "ReLU6"}
            kind = type(module).__name__ if is_module else names.get(function, function)
            key = name if is_module else f"{name}.{function}".lstrip(".")
            self._stage(key, kind, output, activation=True, relu=kind in ("ReLU", "ReLU6"))
        return output

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        if not self.inside:
            self.seen.clear()
            self.last, self.first_convolution, self.is_channels_last = None, True, False
        self.inside.append((name, module))

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.inside.pop()
        if not name or not isinstance(output, Tensor):
            return
        self._watch_layout(module, output)
        if self.last is not None and output is self.last[1] and output._version == self.last[2]:
            self.on_name(name, self.last[0])
        elif not any(output is given for given in args):
            if isinstance(module, nn.Conv2d):
                self._padding(name, module, args[0])
            self._stage(name, _kind(module), output)

    def _padding(self, name: str, module: nn.Conv2d, given: Tensor) -> None:
        """Report the zeros around the image, as the first convolution takes them."""
        border = [int(side) for side in module._reversed_padding_repeated_twice]
        if self.first_convolution and any(border) and module.padding_mode == "zeros":
            self._stage(f"{name}.padding", "padding", F.pad(given, border))
        self.first_convolution = False

    def _stage(
        self, name: str, kind: str, output: Tensor, activation: bool = False, relu: bool = False
    ) -> None:
        self.seen[name] += 1
        key = name if self.seen[name] == 1 else f"{name}:{self.seen[name]}"
        self.last = (key, output, output._version)
        shown = output.movedim(-1, 1) if self.is_channels_last and output.ndim == 4 else output
        self.on_stage(Stage(key, kind, shown, activation, relu))

    def _watch_layout(self, module: nn.Module, output: Tensor) -> None:
        if output.ndim == 4 and isinstance(module, nn.Linear):
            self.is_channels_last = True
        elif isinstance(module, nn.Conv2d | _BatchNorm):
            self.is_channels_last = False
        elif type(module).__name__ == "Permute" and hasattr(module, "dims"):  # torchvision's
            self.is_channels_last = str(module.dims) == "[0, 2, 3, 1]"


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        return "convolution"
    return "batch norm" if isinstance(module, _BatchNorm) else type(module).__name__


# ---- drawing ----


def tiles(channels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Float (C, H, W) -> grey (C, H, W): 0 at each channel's lowest value, 255 at its highest.

    A channel of one value is black if that is 0, else mid-grey. Maps of one pixel are compared over
    the layer.
    """
    values = np.nan_to_num(channels.astype(np.float64))
    axes = (0, 1, 2) if values[0].size == 1 else (1, 2)
    low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    span = high - low
    scaled = (values - low) / np.where(span > 0, span, 1)
    flat = np.where(high == 0, 0.0, 0.5)
    grey: npt.NDArray[np.uint8] = np.rint(np.where(span > 0, scaled, flat) * 255).astype(np.uint8)
    return grey


def _rounded(grey: npt.NDArray[np.uint8], greys: int) -> npt.NDArray[np.uint8]:
    """Rounded to ``greys`` levels, for smaller files."""
    step = 255 / (greys - 1)
    rounded: npt.NDArray[np.uint8] = np.rint(np.rint(grey / step) * step).astype(np.uint8)
    return rounded


def _draw_map(
    name: str, kind: str, stage: Stage, dead: Dead | None, width: int, greys: int
) -> ActivationMap:
    values = stage.output[0].numpy()
    count, height, wide = values.shape
    title = f"{name} · {kind} · {count} x {height} x {wide}"
    marked, note = _marks(stage, dead)
    grid, corners, tile = _grid(tiles(values), width)
    large = width > TRACKED_WIDTH
    font = ImageFont.load_default(20 if large else 11)
    lines = [title, *([note] if note else [])]
    step = 26 if large else 14
    top = step * len(lines) + 6
    margin = 8 if large else 3
    across = max(grid.shape[1], *(math.ceil(font.getlength(line)) for line in lines)) + 2 * margin
    image = Image.new("RGB", (across, grid.shape[0] + top + margin), _PAPER)
    image.paste(Image.fromarray(_rounded(grid, greys)).convert("RGB"), (margin, top))
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        pen.text((margin, 3 + step * number), line, fill=_INK, font=font)
    for channel in marked:
        x, y = corners[channel][0] + margin, corners[channel][1] + top
        box = (x, y, x + tile[0] - 1, y + tile[1] - 1)
        stroke = 1 if min(tile) < 40 else 2
        pen.rectangle(box, outline=MARK, width=stroke)
        pen.line(box, fill=MARK, width=stroke)
        pen.line((box[0], box[3], box[2], box[1]), fill=MARK, width=stroke)
    image = image if marked else image.convert("L")
    return ActivationMap(name, title, note, (count, height, wide), marked, image)


def _marks(stage: Stage, dead: Dead | None) -> tuple[tuple[int, ...], str]:
    """The channels to mark, and the note about them."""
    if not stage.relu:
        is_pixel = stage.output[0, 0].numel() == 1
        return (), "one pixel each: compared over the layer" if is_pixel else ""
    if dead is None or stage.key not in dead.layers:
        mask = stage.output[0].amax((1, 2)).numpy() <= 0
        meaning = "do not fire on this image"
    else:
        mask = dead.layers[stage.key]
        meaning = f"never fire on {dead.images:,} test images"
    return tuple(np.flatnonzero(mask).tolist()), f"{int(mask.sum())} of {len(mask)} {meaning}"


def _grid(
    grey: npt.NDArray[np.uint8], width: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, int]], tuple[int, int]]:
    """The tiles in rows on white; their upper left corners (x, y); their size (w, h) in pixels."""
    count, height, wide = grey.shape
    columns = count if count <= 4 else math.ceil(math.sqrt(count))
    gap = 1 if width <= TRACKED_WIDTH else 3
    tile_side = max(4, (width + gap) // columns - gap)
    zoom = tile_side // max(height, wide)
    if zoom >= 1:
        grey = grey.repeat(zoom, 1).repeat(zoom, 2)
    else:  # too large: the mean of the values that fall on a pixel
        size = (
            max(1, wide * tile_side // max(height, wide)),
            max(1, height * tile_side // max(height, wide)),
        )
        grey = np.stack(
            [
                np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BOX))
                for channel in grey
            ]
        )
    h, w = grey.shape[1:]
    rows = math.ceil(count / columns)
    grid = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap), 255, np.uint8)
    corners = [
        (index % columns * (w + gap), index // columns * (h + gap)) for index in range(count)
    ]
    for tile, (x, y) in zip(grey, corners, strict=True):
        grid[y : y + h, x : x + w] = tile
    return grid, corners, (w, h)
