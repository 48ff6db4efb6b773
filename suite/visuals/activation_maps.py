"""What a network's layers make of one image: each layer as a sheet of grey tiles, one for each channel; dead channels.

Legend: N images, B images of a batch, C channels, H x W pixels.

A *stage* is the output of a layer in one forward pass: of a module by its name (``layer1.0.conv1``), of a ReLU called
as a function by its module's name and ``relu`` (``layer1.0.relu``). A name that comes up again in the same pass has its
number behind it (``layer1.0.relu:2``). Stages stand in the order of the pass, so any network can be shown; what a
module hands on unchanged goes by both names (``layer1.0`` is ``layer1.0.relu:2``).
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

KEY = "activations"  # the name of the series in MLflow
FACTS_FILE = "activations.json"  # beside the sheets: what is on them
INPUT = "input"
CARS = ("automobile", "car")
SHOWN_WIDTH, TRACKED_WIDTH = (
    1152,
    288,
)  # pixels across the tiles: of sheets to look at, and of those of each trial
TRACKED_GREYS = 10  # of a trial's sheets, so that they take about half a byte for each pixel

_FUNCTIONS = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", Tensor.relu: "relu", Tensor.relu_: "relu",
    F.relu6: "relu6", F.hardtanh: "hardtanh", F.leaky_relu: "leaky_relu", F.elu: "elu", F.selu: "selu",
    F.prelu: "prelu", F.gelu: "gelu", F.silu: "silu", F.mish: "mish", F.hardswish: "hardswish",
}  # fmt: skip
_SHORTCUTS = {
    "downsample",
    "shortcut",
    "skip",
    "proj",
}  # parts of names: torchvision's, ours, and other usual ones
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
MARK = (213, 94, 0)  # vermillion of Okabe and Ito, mid-grey in print
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True)
class Stage:
    """A layer's output in a forward pass.

    Attributes:
        key: its name.
        kind: ``input``, ``padding``, ``convolution``, ``batch norm``, an activation's name, or a module's class.
        output: (B, C, H, W), or (B, C) behind the pooling; only good until the pass goes on.
        activation: whether it is one.
        relu: whether it is never negative and 0 means that it does not fire.
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
        images: N, how many were looked at.
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
class Sheet:
    """One layer's channels.

    Attributes:
        key: the layer's name.
        title: its name, kind and shape.
        note: what is marked on it, or "".
        shape: (C, H, W).
        marked: numbers of the channels that are crossed out.
        image: the tiles in rows, channel 0 first, under the title.
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


def sheets(
    network: nn.Module,
    image: Tensor,
    layers: Sequence[str] | None = None,
    *,
    dead: Dead | None = None,
    width: int = SHOWN_WIDTH,
    greys: int = 256,
) -> list[Sheet]:
    """What the layers make of ``image``, in forward order.

    Each channel is scaled to black ... white on its own; maps of one pixel are scaled over the whole layer. The
    network runs in evaluation mode, without gradients, and is left as it was, as are the global random states.

    Args:
        network: any module that takes (B, C, H, W).
        image: float (C, H, W) as the network takes it, i.e. normalised.
        layers: names, patterns (``layer2.*``) or ``all``. Default: those of ``usual_layers``.
        dead: marks these channels. Without it, those that do not fire on this image.
        width: pixels that a row of tiles may take.
        greys: levels of grey, 2 to 256.

    Raises:
        UsageError: a layer that the network does not have, or that has no channels of pixels; names those that do.
    """
    stages, names = trace(network, image)
    chosen = (
        usual_layers(network, stages, names) if layers is None else _named(layers, stages, names)
    )
    numbers = {key: number for number, key in enumerate(_convolutions(stages), start=1)}
    drawn = []
    for name in chosen:
        stage = stages[names[name]]
        kind = f"{stage.kind} {numbers[stage.key]}" if stage.key in numbers else stage.kind
        drawn.append(_draw(name, kind, stage, dead, width, greys))
    return drawn


def trace(network: nn.Module, image: Tensor) -> tuple[list[Stage], dict[str, int]]:
    """All stages that have channels of pixels, each output float32 (1, C, H, W) on the CPU; and name -> index.

    Args:
        network: any module that takes (B, C, H, W).
        image: float (C, H, W) as the network takes it.
    """
    stages: list[Stage] = []
    names: dict[str, int] = {}

    def keep(stage: Stage) -> None:
        if stage.output.ndim == 4:
            copied = stage.output.detach().to(
                "cpu", torch.float32, copy=True
            )  # a ReLU in place may come next
            names[stage.key] = len(stages)
            stages.append(Stage(stage.key, stage.kind, copied, stage.activation, stage.relu))

    def also(name: str, key: str) -> None:
        if key in names:
            names.setdefault(name, names[key])

    batch = image.unsqueeze(0).to(_device(network))
    keep(Stage(INPUT, "its channels", batch))
    with _undisturbed(network), _Listener(network, keep, also).listening():
        network(batch)
    return stages, names


def find_dead(network: nn.Module, batches: Iterable[Tensor]) -> Dead:
    """Channels, and units of a head, whose ReLU (or ReLU6) is 0 for all images.

    Args:
        network: any module; left as it was.
        batches: float (B, C, H, W) each, as the network takes them, on its device.
    """
    fired: dict[str, Tensor] = {}
    count = 0

    def look(stage: Stage) -> None:
        if stage.relu and stage.output.ndim in (2, 4):
            now = stage.output.amax([axis for axis in range(stage.output.ndim) if axis != 1]) > 0
            fired[stage.key] = fired[stage.key] | now if stage.key in fired else now

    with _undisturbed(network), _Listener(network, look).listening():
        for batch in batches:
            network(batch)
            count += len(batch)
    return Dead(count, {key: ~mask.cpu().numpy() for key, mask in fired.items()})


def dead_channels(
    network: nn.Module, images: Tensor, batch: int = 256
) -> dict[str, tuple[int, int]]:
    """Layer -> (dead channels, channels) over float images (N, C, H, W), as the network takes them."""
    return find_dead(
        network, (part.to(_device(network)) for part in torch.split(images, batch))
    ).counts


def example(labels: npt.NDArray[np.int64], classes: Sequence[str]) -> int:
    """Position of the image to show: the first one of a car, else the first one."""
    cars = [number for number, name in enumerate(classes) if name.lower() in CARS]
    found = np.flatnonzero(np.isin(labels, cars))
    return int(found[0]) if len(found) else 0


def save(folder: Path, drawn: Sequence[Sheet], dead: Dead | None, **facts: Any) -> list[str]:
    """Write the sheets into ``folder``, in place of earlier ones, with ``activations.json`` beside them.

    Returns:
        The names of the PNG files, which sort in forward order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_earlier(folder)
    files = [
        f"{step:03d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', sheet.key)}.png"
        for step, sheet in enumerate(drawn)
    ]
    for name, sheet in zip(files, drawn, strict=True):
        (folder / name).write_bytes(sheet.png)
    content = facts | {
        "sheets": [
            {"step": step, "file": name, "layer": sheet.key, "title": sheet.title, "note": sheet.note,
             "shape": sheet.shape, "marked": sheet.marked}
            for step, (name, sheet) in enumerate(zip(files, drawn, strict=True))
        ],
        "dead": dead.counts if dead else None,
        "dead_over_images": dead.images if dead else None,
    }  # fmt: skip
    (folder / FACTS_FILE).write_text(json.dumps(content, indent=1))
    return files


def _remove_earlier(folder: Path) -> None:
    """Remove the sheets that ``activations.json`` lists, and nothing else: the folder may be the user's own."""
    try:
        names = [
            Path(sheet["file"]).name
            for sheet in json.loads((folder / FACTS_FILE).read_text())["sheets"]
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return
    for name in names:
        (folder / name).unlink(missing_ok=True)


# ---- which layers --------------------------------------------------------------------------------------------------


def usual_layers(
    network: nn.Module, stages: Sequence[Stage], names: Mapping[str, int]
) -> list[str]:
    """The layers of the study "ResNet-18 on CIFAR-10", part (c), for any network; in forward order.

    The input; the first convolution's padded input, itself, its batch norm and activation; the first block's first
    two convolutions and first activation; the second block; the activation that ends the third one; the 15th
    convolution in forward order, shortcuts not counted, or the last one where there are fewer. In a network without
    blocks the second and third convolutions and activations stand for those.
    """
    convolutions = _convolutions(stages)
    activations = [stage.key for stage in stages if stage.activation]
    chosen = [INPUT]
    if convolutions:
        start = names[convolutions[0]]
        end = names[convolutions[1]] if len(convolutions) > 1 else len(stages)
        stem = stages[start - 1 : end] if stages[start - 1].kind == "padding" else stages[start:end]
        for wanted in ("padding", "convolution", "batch norm"):
            chosen += [stage.key for stage in stem if stage.kind == wanted][:1]
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
    """Keys of the convolutions in forward order, shortcuts left out."""
    convolutions = [stage.key for stage in stages if stage.kind == "convolution"]
    return [key for key in convolutions if not _SHORTCUTS & set(key.partition(":")[0].split("."))]


def _blocks(network: nn.Module) -> list[str]:
    """The innermost modules that hold at least two convolutions, one of them wider than a pixel."""

    def holds(module: nn.Module) -> bool:
        convolutions = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
        return len(convolutions) > 1 and any(max(part.kernel_size) > 1 for part in convolutions)

    parts = [
        (name, part)
        for name, part in network.named_modules()
        if name and not isinstance(part, _CONTAINERS)
    ]
    found = [name for name, part in parts if holds(part)]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def _within(block: str, keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key.startswith(f"{block}.")]


def _named(layers: Sequence[str], stages: Sequence[Stage], names: Mapping[str, int]) -> list[str]:
    """The layers that names and patterns stand for."""
    chosen: list[str] = []
    for asked in layers:
        if asked == "all":
            chosen += [stage.key for stage in stages]
        elif asked in names:
            chosen.append(asked)
        elif matching := [name for name in names if fnmatchcase(name, asked)]:
            chosen += matching
        else:
            raise _no_such(asked, names)
    return _in_order(chosen, names)


def _in_order(chosen: Iterable[str], names: Mapping[str, int]) -> list[str]:
    """In forward order; of two names for one stage the first one."""
    by_stage: dict[int, str] = {}
    for name in chosen:
        by_stage.setdefault(names[name], name)
    return [by_stage[index] for index in sorted(by_stage)]


def _no_such(asked: str, names: Mapping[str, int]) -> UsageError:
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.5)
    meant = f"Did you mean {near[0]!r}? " if near else ""
    known = [*names] if len(names) <= 80 else [name for name in names if name.count(".") < 2]
    return UsageError(
        f"--layers: the network has no layer {asked!r} with channels of pixels",
        remedy=f"{meant}Known: {', '.join(known)}; all; or a pattern such as 'layer1.*'.",
    )


# ---- listening to a forward pass -----------------------------------------------------------------------------------


def _device(network: nn.Module) -> torch.device:
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, random states of our own; all as before afterwards."""
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
    """Tells of each stage of a forward pass: hooks see the modules, the mode sees the activations that are functions.

    Args:
        network: what runs.
        tell: takes each stage, when it is there.
        also: takes (another name, key) of the stage just told of.
    """

    network: nn.Module
    tell: Callable[[Stage], None]
    also: Callable[[str, str], None] = lambda name, key: None
    inside: list[tuple[str, nn.Module]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    last: tuple[str, Tensor, int] | None = None
    first_convolution: bool = True
    channels_behind: bool = (
        False  # (B, H, W, C), between a Permute and the next one of ConvNeXt and Swin
    )

    def __post_init__(self) -> None:
        super().__init__()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to all passes inside."""
        with ExitStack() as stack:
            for name, module in self.network.named_modules():
                stack.callback(module.register_forward_pre_hook(partial(self._enter, name)).remove)
                stack.callback(module.register_forward_hook(partial(self._leave, name)).remove)
            stack.enter_context(self)
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        word = _FUNCTIONS.get(func)
        if word is not None and isinstance(output, Tensor) and self.inside:
            name, module = self.inside[-1]
            own = type(module).__module__ == "torch.nn.modules.activation"
            kind = (
                type(module).__name__ if own else {"relu": "ReLU", "relu6": "ReLU6"}.get(word, word)
            )
            key = name if own else f"{name}.{word}".lstrip(".")
            self._stage(key, kind, output, activation=True, relu=kind in ("ReLU", "ReLU6"))
        return output

    def _enter(self, name: str, module: nn.Module, args: Any) -> None:
        if not self.inside:
            self.seen.clear()
            self.last, self.first_convolution, self.channels_behind = None, True, False
        self.inside.append((name, module))

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.inside.pop()
        if not name or not isinstance(output, Tensor):
            return
        self._watch_layout(module, output)
        if self.last is not None and output is self.last[1] and output._version == self.last[2]:
            self.also(name, self.last[0])
        elif not any(output is given for given in args):
            if isinstance(module, nn.Conv2d):
                self._padding(name, module, args[0])
            self._stage(name, _kind(module), output)

    def _padding(self, name: str, module: nn.Conv2d, given: Tensor) -> None:
        """The zeros around the image, as the first convolution sees them."""
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
        shown = output.movedim(-1, 1) if self.channels_behind and output.ndim == 4 else output
        self.tell(Stage(key, kind, shown, activation, relu))

    def _watch_layout(self, module: nn.Module, output: Tensor) -> None:
        if output.ndim == 4 and isinstance(module, nn.Linear):
            self.channels_behind = True
        elif isinstance(module, nn.Conv2d | _BatchNorm):
            self.channels_behind = False
        elif type(module).__name__ == "Permute" and hasattr(module, "dims"):  # torchvision's
            self.channels_behind = str(module.dims) == "[0, 2, 3, 1]"


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        return "convolution"
    return "batch norm" if isinstance(module, _BatchNorm) else type(module).__name__


# ---- drawing -------------------------------------------------------------------------------------------------------


def tiles(channels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Float (C, H, W) -> grey (C, H, W): each channel from its lowest value, 0, to its highest, 255.

    A channel of one value is black where that is 0, else mid-grey. Maps of one pixel are compared over the layer.
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
    """The same in so many levels: files shrink."""
    step = 255 / (greys - 1)
    rounded: npt.NDArray[np.uint8] = np.rint(np.rint(grey / step) * step).astype(np.uint8)
    return rounded


def _draw(name: str, kind: str, stage: Stage, dead: Dead | None, width: int, greys: int) -> Sheet:
    values = stage.output[0].numpy()
    count, height, wide = values.shape
    title = f"{name} · {kind} · {count} x {height} x {wide}"
    marked, note = _silent(stage, dead)
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
    return Sheet(name, title, note, (count, height, wide), marked, image)


def _silent(stage: Stage, dead: Dead | None) -> tuple[tuple[int, ...], str]:
    """The channels to mark, and what to say of them."""
    if not stage.relu:
        return (), "one pixel each: compared over the layer" if stage.output[
            0, 0
        ].numel() == 1 else ""
    if dead is None or stage.key not in dead.layers:
        mask = stage.output[0].amax((1, 2)).numpy() <= 0
        words = "do not fire on this image"
    else:
        mask = dead.layers[stage.key]
        words = f"never fire on {dead.images:,} test images"
    return tuple(np.flatnonzero(mask).tolist()), f"{int(mask.sum())} of {len(mask)} {words}"


def _grid(
    grey: npt.NDArray[np.uint8], width: int
) -> tuple[npt.NDArray[np.uint8], list[tuple[int, int]], tuple[int, int]]:
    """The tiles in rows on white; their upper left corners (x, y); their size (w, h) in pixels."""
    count, height, wide = grey.shape
    columns = count if count <= 4 else math.ceil(math.sqrt(count))
    gap = 1 if width <= TRACKED_WIDTH else 3
    room = max(4, (width + gap) // columns - gap)
    zoom = room // max(height, wide)
    if zoom >= 1:
        grey = grey.repeat(zoom, 1).repeat(zoom, 2)
    else:  # larger than there is room for: the mean of what falls on a pixel
        size = (
            max(1, wide * room // max(height, wide)),
            max(1, height * room // max(height, wide)),
        )
        grey = np.stack(
            [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in grey]
        )
    h, w = grey.shape[1:]
    rows = math.ceil(count / columns)
    grid = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap), 255, np.uint8)
    corners = [
        (index % columns * (w + gap), index // columns * (h + gap)) for index in range(count)
    ]
    for one, (x, y) in zip(grey, corners, strict=True):
        grid[y : y + h, x : x + w] = one
    return grid, corners, (w, h)
