"""Choose a sweep's numerics: measured in this process or in a worker, or taken from an earlier
launch.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from dataclasses import replace

import ray

from suite.config import ResourcesConfig, TrialConfig, plugin
from suite.core.errors import brief
from suite.core.records import Numerics
from suite.execution.stop import Stop, StoppedError
from suite.system import environment
from suite.system.signals import deaf

Networks = Sequence[tuple[TrialConfig, int, int]]  # (config, classes, side) of each distinct one


Measured = tuple[Numerics, float, int, list[str]]


def choose_numerics(
    configs: Networks,
    resources: ResourcesConfig,
    trials: tuple[int, int | None],
    pinned: Numerics | None,
    search_path: Sequence[str],
    stop: Stop,
    data_gib: float = 0.0,
    images: int = 0,
) -> Measured:
    """Choose the numerics of a sweep, the GPUs of a pack and the trials of a pack.

    Measures in this process if ``measures_here``, else in a worker like those that will train. If
    that worker dies, hangs or fails, returns defaults that need no measurement.

    Args:
        resources: as in the file; ``gpu`` is 0 where there is none.
        trials: how many are to be run, and the most that may run at once; None = as many as there
            is room for.
        pinned: the numerics of an earlier launch, which stay.
        data_gib: of the images that a process has on its GPU.
        images: that the shortest trial trains on, once for each of its epochs.

    Returns:
        numerics, GPUs per pack, trials per pack (1 = not measured to be better), lines for the
        user.

    Raises:
        StoppedError: while a worker measured.
    """
    gpu = resources.gpu
    if pinned is not None and gpu != "auto":
        compiling = ", compiled" if pinned.compiled else ""
        return (
            pinned,
            float(gpu),
            1,
            [f"precision: {pinned.precision}{compiling} (as at this sweep's last launch)"],
        )
    given = list(configs), resources, trials, _cores(), pinned, list(search_path), data_gib, images
    if measures_here(configs, resources):
        with deaf():  # torch's threads
            return _measure(*given)  # saves a worker's start
    task = ray.remote(max_calls=1, max_retries=0)(_measure)
    measuring = task.options(
        num_cpus=resources.least_cpu, num_gpus=1 if gpu == "auto" else gpu
    ).remote(*given)
    end = time.monotonic() + (resources.hang_after_s or math.inf)
    while not ray.wait([measuring], timeout=0.2)[0]:
        if stop.requested or time.monotonic() > end:
            ray.cancel(measuring, force=True)
            if stop.requested:
                raise StoppedError
            return _unmeasured(
                configs, resources, pinned, f"no answer after {resources.hang_after_s:g} s"
            )
    try:
        found: Measured = ray.get(measuring)
    except ray.exceptions.RayError as error:
        return _unmeasured(
            configs, resources, pinned, brief(getattr(error, "cause", None) or error)
        )
    return found


def measures_here(configs: Networks, resources: ResourcesConfig) -> bool:
    """Whether this process chooses the numerics: there is nothing to measure, or no Ray yet and no
    code of the user's own to run, which may hang or end the process.
    """
    if resources.gpu:
        return False
    timed = "auto" in (resources.cpu, resources.memory_format) or bool(resources.compile)
    if not timed and all(config.train.precision != "auto" for config, _, _ in configs):
        return True
    from suite.planning import measure

    own = any(plugin.is_reference(config.model.arch) for config, _, _ in configs)
    if timed:
        return not own and not ray.is_initialized()
    if ray.is_initialized():  # other machines may have what this one lacks
        machines = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        return not measure.has_bf16() and machines == {socket.gethostname()}
    return not measure.has_bf16() or not own


def _cores() -> tuple[int, ...]:
    """The cores of each machine that trials may run on."""
    if not ray.is_initialized():
        return (environment.cores(),)
    found = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return tuple(cores for cores in found if cores) or (1,)


def _unmeasured(
    configs: Networks, resources: ResourcesConfig, pinned: Numerics | None, why: str
) -> Measured:
    gpu, last = resources.gpu, resources.memory_format != "contiguous"
    device = "cuda" if gpu else "cpu"
    given = {config.train.precision for config, _, _ in configs} - {"auto"}
    numerics = pinned or Numerics(
        "bf16" if given == {"bf16"} else "fp32",
        channels_last=last,
        threads=resources.least_cpu,
        device=device,
        sliced=not gpu,
        tiled=not gpu,
    )
    lines = [f"precision: {numerics.precision} (not measured: {why})"]
    if resources.compile and not numerics.compiled:
        lines.append(f"compile: no (not measured: {why})")
    return numerics, 1.0 if gpu == "auto" else float(gpu), 1, lines


def _measure(
    configs: list[tuple[TrialConfig, int, int]],
    resources: ResourcesConfig,
    trials: tuple[int, int | None],
    nodes: tuple[int, ...],
    pinned: Numerics | None,
    search_path: list[str],
    data_gib: float,
    images: int,
) -> Measured:
    import torch

    from suite.planning import measure

    for folder in search_path:
        plugin.add_search_path(folder)
    lines: list[str] = []
    gpu = resources.gpu
    device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
    if gpu and device == "cpu":
        lines.append("no GPU here that torch can use: the sweep runs on the CPU")
    numerics = pinned or measure.choose_numerics(
        configs, resources, measure.Room(*trials, nodes, device, images), say=lines.append
    )
    if gpu != "auto":
        return numerics, float(gpu), 1, lines
    if device == "cpu":
        return numerics, 0.0, 1, lines
    peak = max(measure.cost(*item, numerics).memory_gib for item in configs)
    total = torch.cuda.get_device_properties(0).total_memory / 2**30
    pack, times = 1, 1.0
    if pinned is None or pinned.fused:
        room = int(
            (total - measure.GPU_CONTEXT_GIB - data_gib) / max(peak * measure.GPU_HEADROOM, 1e-3)
        )
        pack, times = measure.choose_pack(configs, numerics, most=room)
    fraction = measure.gpu_fraction(peak * pack + data_gib, total)
    lines.append(
        f"gpu: {fraction:.3g} per trial (measured: {peak + data_gib:.1f} GiB of {total:.0f})"
    )
    if pack > 1:
        fraction = (
            1.0  # a pack fills what one trial leaves idle; a second one beside it would only wait
        )
        lines[-1] = (
            f"gpu: {pack} trials trained as one network (measured: {times:.1f} times as fast as "
            "one by one)"
        )
    return (
        replace(numerics, fused=pack > 1, compiled=numerics.compiled and pack == 1),
        fraction,
        pack,
        lines,
    )
