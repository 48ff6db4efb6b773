"""Images per second of the nine augmentations and of a composed chain: ours beside torchvision,
Albumentations, Kornia.

uint8 RGB images of 32 x 32, one thread. Every path ends in float32 CHW in [0, 1]. Ours and Kornia
take batches of 128, ours as ``suite.training.trainer`` calls it: a generator from the trial's
stream, parameters drawn, a chain of operations. The others take one image at a time, from the form
they like best, and are not charged for gathering images into a batch. In each turn every contender
runs once, and ratios are taken within a turn.

    python -m benchmarks.augmentation [--images 50000] [--repeat 5] [--short]
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import click
import torch
from PIL import Image
from torch import Tensor

from benchmarks.augmentation_peers import BATCH, FILL, LAWS, PEERS, SIDE, Names, Transform, settings
from benchmarks.record import gate, keep_table
from suite.augment import build
from suite.core.records import stream

NINE = (
    "rotation",
    "flip",
    "color_jitter",
    "random_resized_crop",
    "resize",
    "center_crop",
    "cutout",
    "gaussian_blur",
    "salt_and_pepper",
)
COMPOSED = "flip+crop+color_jitter+cutout"
SUITE, TORCHVISION = "suite", ("torchvision, tensors", "torchvision, PIL")
TITLE = "Augmentation of 32 px images by one thread, in thousands of images a second"
COMPOSED_GOAL, MEAN_GOAL = 20, 10
ONE_BY_ONE = 2_000
"""Images that a contender of one image at a time is measured on."""
MOVED = 3 * SIDE * SIDE * (1 + 4)
"""Bytes that an image costs at least: read as uint8, written as float32."""
TESTS = ("tests/test_augment.py", "tests/test_augment_laws.py")

Inputs = tuple[Sequence[object], int]
"""What a contender is given, and how many images that is."""
Rates = dict[str, list[float]]
"""Contender -> images/s, turn by turn."""


@click.command()
@click.option(
    "--images",
    default=50_000,
    show_default=True,
    help=f"For ours and Kornia; the others {ONE_BY_ONE:,}.",
)
@click.option(
    "--repeat", default=5, show_default=True, help="Turns, after one that is not counted."
)
@click.option("--short", is_flag=True, help="2,560 images, 3 turns.")
def main(images: int, repeat: int, short: bool) -> None:
    """Measure, print the table and keep it."""
    if short:
        images, repeat = 20 * BATCH, 3
    torch.set_num_threads(1)
    forms = prepare(images, few=400 if short else ONE_BY_ONE)
    limit = copy_rate() / MOVED
    results, warm = {}, 0.0
    for chain in (*NINE, COMPOSED):
        results[chain], seconds = measure(chain.split("+"), forms, repeat)
        warm += seconds
        measured = [f"{name} {per_s(rates)}" for name, rates in results[chain].items()]
        print(f"{chain}: {', '.join(measured)}", flush=True)
    header, rows = table(results, limit, gate(*TESTS).partition(":")[0])
    text = explain(results, limit, warm)
    question = "augmentation-short" if short else "augmentation"
    keep_table(
        question,
        "Augmentation of 32 px images, one thread, in thousands of images/s",
        header,
        rows,
        text,
    )


# ---- measuring -----------------------------------------------------------------------------------


def prepare(images: int, few: int) -> Mapping[str, Inputs]:
    """The same pictures in the form of each contender: smooth ones with a little noise, as
    photographs are.
    """
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(images, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear").mul_(235)
    pixels = smooth.add_(torch.rand(smooth.shape, generator=generator), alpha=20).to(torch.uint8)
    arrays = list(pixels[:few].permute(0, 2, 3, 1).contiguous().numpy())
    return {
        SUITE: (pixels.split(BATCH), images),
        "torchvision, tensors": (list(pixels[:few]), len(arrays)),
        "torchvision, PIL": ([Image.fromarray(array) for array in arrays], len(arrays)),
        "Albumentations": (arrays, len(arrays)),
        "Kornia": (pixels.split(BATCH), images),
    }


def measure(chain: Names, forms: Mapping[str, Inputs], repeat: int) -> tuple[Rates, float]:
    """Images/s of every contender in ``repeat`` turns, and the seconds of the turn before, which
    is not counted.
    """
    contenders = dict(built(chain, forms))
    started = time.perf_counter()
    for name, run in contenders.items():
        once(run, *forms[name])
    warm = time.perf_counter() - started
    rates: Rates = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, run in contenders.items():
            rates[name].append(once(run, *forms[name]))
    return rates, warm


def built(
    chain: Names, forms: Mapping[str, Inputs]
) -> Iterator[tuple[str, Callable[[Sequence[object]], None]]]:
    """Contenders that can do ``chain``, ours first, each as what runs over all its images."""
    yield SUITE, ours(chain)
    for name, make in PEERS.items():
        if transform := make(chain):
            check(transform, forms[name][0][0])
            yield name, theirs(transform)


def ours(chain: Names) -> Callable[[Sequence[Tensor]], None]:
    """What ``suite.training.trainer`` does to the batches of an epoch before it normalises them."""
    pipeline = build([settings(name) for name in chain], SIDE, 10, FILL)
    labels = torch.zeros(BATCH, dtype=torch.int64)

    def run(batches: Sequence[Tensor]) -> None:
        for step, images in enumerate(batches):
            generator = torch.Generator().manual_seed(stream(0, "augment", 0, step))
            pipeline(images, labels[: len(images)], generator)

    return run


def theirs(transform: Transform) -> Callable[[Sequence[object]], None]:
    """A peer's transform of one input after the other; each result is let go before the next, as
    ours is.
    """

    def run(inputs: Sequence[object]) -> None:
        for each in inputs:
            transform(each)

    return run


def check(transform: Transform, image: object) -> None:
    """Refuse a contender whose result is not float32 CHW (BCHW) in [0, 1]."""
    result = transform(image)
    assert result.dtype == torch.float32 and result.shape[-3:] == (3, SIDE, SIDE), (
        result.dtype,
        result.shape,
    )
    assert result.min() >= 0 and result.max() <= 1 + 1e-5, (result.min(), result.max())


def once(run: Callable[[Sequence[object]], None], inputs: Sequence[object], count: int) -> float:
    """Images/s of one run."""
    started = time.perf_counter()
    run(inputs)
    return count / (time.perf_counter() - started)


def copy_rate() -> float:
    """Bytes/s, read and written, of a copy by one thread: the best of a batch's size, in cache,
    and of 64 MiB.
    """
    best = 0.0
    for size in (MOVED * BATCH // 2, 2**26):
        source = torch.ones(size, dtype=torch.uint8)
        target = torch.empty_like(source)
        times = max(2**28 // size, 1)
        for _ in range(5):
            started = time.perf_counter()
            for _ in range(times):
                target.copy_(source)
            best = max(best, 2 * size * times / (time.perf_counter() - started))
    return best


# ---- showing -------------------------------------------------------------------------------------


def table(
    results: Mapping[str, Rates], limit: float, gate: str
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: peers, ours, ratios, limit, gate."""
    header = [
        "Augmentation",
        *PEERS,
        SUITE,
        "ours / torchvision",
        "ours / fastest peer",
        f"of the limit, {limit / 1e3:,.0f}",
        "tests",
    ]
    rows = []
    for chain, rates in results.items():
        own = statistics.median(rates[SUITE])
        cells = [per_s(rates[name]) if name in rates else "–" for name in (*PEERS, SUITE)]
        ratios = [spread(over(rates, TORCHVISION)), spread(over(rates, tuple(PEERS)))]
        rows.append([chain, *cells, *ratios, f"{own / limit:.1%}", gate])
    mean = [
        "geometric mean of the nine",
        *[""] * (len(PEERS) + 1),
        spread(mean_over_torchvision(results)),
        "",
        "",
        "",
    ]
    rows.insert(len(NINE), mean)
    return header, rows


def over(rates: Rates, peers: Sequence[str]) -> list[float]:
    """Ours over the fastest of ``peers``, turn by turn.

    The fastest is that of the highest median.
    """
    there = [name for name in peers if name in rates]
    fastest = max(there, key=lambda name: statistics.median(rates[name]))
    return [own / theirs for own, theirs in zip(rates[SUITE], rates[fastest], strict=True)]


def mean_over_torchvision(results: Mapping[str, Rates]) -> list[float]:
    """Geometric mean of the nine ratios, turn by turn."""
    ratios = [over(results[name], TORCHVISION) for name in NINE]
    return [math.exp(statistics.fmean(map(math.log, turn))) for turn in zip(*ratios, strict=True)]


def explain(results: Mapping[str, Rates], limit: float, warm: float) -> str:
    """Targets and whether they are met, what the limit is, where laws differ, how long the
    warm-up took.
    """
    composed = statistics.median(over(results[COMPOSED], TORCHVISION))
    mean = statistics.median(mean_over_torchvision(results))
    slower = [
        name for name, rates in results.items() if statistics.median(over(rates, tuple(PEERS))) < 1
    ]
    missing = [name for name in PEERS if name not in results["flip"]]
    lines = [
        f"Composed at least {COMPOSED_GOAL} times torchvision: "
        f"{verdict(composed >= COMPOSED_GOAL)} ({composed:.3g}).",
        f"Geometric mean of the nine at least {MEAN_GOAL} times torchvision: "
        f"{verdict(mean >= MEAN_GOAL)} ({mean:.3g}).",
        "None slower than any peer: "
        f"{verdict(not slower)}{' (' + ', '.join(slower) + ')' if slower else ''}.",
        f"Limit: {limit / 1e3:,.0f} thousand images/s, at which {MOVED:,} bytes an image (uint8 "
        "read, float32 written) "
        "pass at the rate of a plain copy by one thread.",
        f"Ratios: median (lowest to highest) of those of each turn. The first turn, {warm:.1f} s "
        "for all, is not "
        "counted; nothing is compiled.",
        f"Tests: {', '.join(f'`{file}`' for file in TESTS)}; they compare pixels and laws with "
        "torchvision, "
        "and neighbours in a batch with each other.",
        *(f"{name}: {law}" for name, law in LAWS.items()),
        *([f"Not installed (requirements-bench.txt): {', '.join(missing)}."] if missing else []),
    ]
    return "\n".join(f"- {line}" for line in lines)


def verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def per_s(rates: Sequence[float]) -> str:
    """Thousands of images a second."""
    return f"{statistics.median(rates) / 1e3:.3g}"


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})"


if __name__ == "__main__":
    main()
