"""A prepared sweep through ``ray.tune.Tuner``: resume, extension, early stopping, signals.

Tune schedules; the journal is the record. Whatever is asked for (a first run, going on after a crash, one more seed, a
retry) is one mechanism: the plan, less what the journal holds as finished. Tune's own state is never read back; on
resume the journal is fed to the searcher and to the scheduler, so they know what they knew.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from suite.config import ResourcesConfig, TrialConfig, plugin
from suite.core.errors import brief
from suite.core.records import Numerics, Objective
from suite.execution.callback import JournalCallback
from suite.execution.worker import PackTrainable, Shared
from suite.planning.plan import Plan
from suite.storage.base import SweepStorage
from suite.storage.journal import Entry, TrialHistory
from suite.system import environment
from suite.system.signals import deaf

LOST_WORKERS = 3  # times a pack starts again after its worker died
SWITCH_S = 0.0005  # Python's is 0.005: so long Tune's loop would wait for tracking's thread, several times a report
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOP_WITHIN_S = 8.0  # from a stop's request until workers are ended by force
ONE_SIGNAL_S = 0.1  # `timeout` signals its child and then its child's group: that is no second request
Next = Callable[[], list[dict[str, Any]] | None]


class Stop:
    """A request to stop cleanly: by signal, by budget, or by the caller.

    Args:
        tell_workers: called once, at the request.
    """

    def __init__(self, tell_workers: Callable[[], None]) -> None:
        self._tell_workers = tell_workers
        self.signal: int | None = None
        self.reason = ""
        self.problem = ""
        self.since: float | None = None
        self._signalled = 0.0  # when the signal came
        self._say: Callable[[str], None] = lambda text: None

    @property
    def requested(self) -> bool:
        """Whether it was asked for."""
        return self.since is not None

    @property
    def overdue(self) -> bool:
        """Whether workers had their time to save."""
        return self.since is not None and time.monotonic() - self.since > STOP_WITHIN_S

    def request(self, reason: str) -> None:
        """Ask workers to save and return, and the driver to start nothing more."""
        if self.since is None:
            self.since, self.reason = time.monotonic(), reason
            self._tell_workers()

    def give_up(self, problem: str) -> None:
        """Stop because the environment does not allow to go on."""
        self.problem = self.problem or problem
        self.request(problem)

    @contextmanager
    def on_signals(self, say: Callable[[str], None]) -> Iterator[None]:
        """SIGINT and SIGTERM request a stop; another one, later, ends the process at once."""
        self._say = say
        kept = {number: signal.getsignal(number) for number in SIGNALS}
        self.listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in kept.items():
                    signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals, again after ``ray.init``, which takes SIGTERM for itself. Only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number and time.monotonic() - self._signalled < ONE_SIGNAL_S:
            return
        if self.signal is not None:
            os._exit(128 + number)
        self.signal, self._signalled = number, time.monotonic()
        self.request(signal.Signals(number).name)
        self._say("stopping: each trial saves where it is; again = at once")


class Queue(Searcher):
    """Tune's view of what comes next: packs from ``following`` until it has no more."""

    def __init__(
        self, following: Next, stop: Stop, on_complete: Callable[[str, bool], None] = lambda trial_id, failed: None
    ) -> None:
        super().__init__()
        self._following, self._stop, self._on_complete = following, stop, on_complete
        self._packs: dict[str, list[str]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._stop.requested:
            return str(Searcher.FINISHED)
        pack = self._following()
        if pack is None:
            return str(Searcher.FINISHED)
        self._packs[trial_id] = [payload["trial"]["id"] for payload in pack]
        return {"pack": pack}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        for member in self._packs.pop(trial_id, ()):
            self._on_complete(member, error)

    def set_search_properties(self, *args: Any, **kwargs: Any) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # Tune's state is never read back

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("the journal is the record")

    def __getstate__(self) -> dict[str, Any]:
        return {}


class EarlyStop(FIFOScheduler):
    """Ray's ASHA or median rule, fed with trials by our ids, so a resumed trial is the one it was.

    Args:
        rule: the ``early_terminate`` of the sweep.
        objective: what the rule compares: the best so far under ASHA (where that is the strategy), else the latest.
    """

    def __init__(self, rule: Any, objective: Objective, epochs: int) -> None:
        super().__init__()
        self.objective = objective
        mode = "max" if objective.goal == "maximize" else "min"
        self._best_so_far = rule.type == "asha" and objective.strategy == "best"
        if rule.type == "asha":
            self.inner: Any = AsyncHyperBandScheduler(
                time_attr="epoch", metric="value", mode=mode, max_t=max(epochs, rule.grace_epochs),
                grace_period=rule.grace_epochs, reduction_factor=rule.reduction_factor, stop_last_trials=False,
            )  # fmt: skip
        else:
            self.inner = MedianStoppingRule(
                time_attr="epoch", metric="value", mode=mode,
                grace_period=rule.grace_epochs, min_samples_required=rule.min_trials, hard_stop=True,
            )  # fmt: skip
        self._stubs: dict[str, Any] = {}
        self._best: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        # what the rules ask of Tune's controller: whether others wait, which only matters for pausing
        self._controller = SimpleNamespace(get_live_trials=list)

    def feed(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> bool:
        """One epoch of one trial; True = the rule stops it. An epoch fed before changes nothing."""
        if epoch <= self._seen.get(trial_id, 0) or self.objective.name not in metrics:
            return False
        stub = self._stub(trial_id)
        self._seen[trial_id] = epoch
        value = metrics[self.objective.name]
        if self._best_so_far:
            if not self.objective.better(value, self._best.get(trial_id)):
                value = self._best[trial_id]
            self._best[trial_id] = value
        decision = self.inner.on_trial_result(self._controller, stub, {"epoch": epoch, "value": value})
        return bool(decision == TrialScheduler.STOP)

    def replay(self, entries: Iterable[Entry], trial_ids: Container[str]) -> set[str]:
        """Feed what the journal holds of these trials, in its order, so that each decision comes out as it did.

        Epochs after the rule stopped a trial are left out: they are those of its confirmation.

        Returns:
            Ids of the trials that the rule's last word was to stop.
        """
        entries = [entry for entry in entries if entry.get("id") in trial_ids]
        anew = {entry["id"]: entry["seq"] for entry in entries if entry["kind"] == "forget"}
        stopped: set[str] = set()
        for entry in entries:
            trial_id = entry["id"]
            if entry["seq"] <= anew.get(trial_id, 0) or trial_id in stopped:
                continue
            if entry["kind"] == "end" and entry["status"] == "stopped":
                stopped.add(trial_id)
            if entry["kind"] == "epoch" and self.feed(trial_id, entry["epoch"], entry["metrics"]):
                stopped.add(trial_id)
        return stopped

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decisions = [
            self.feed(outcome["id"], outcome["epoch"], outcome["metrics"])
            for outcome in result.get("outcomes", ())
            if outcome["kind"] == "epoch"
        ]
        return str(TrialScheduler.STOP if any(decisions) else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.on_trial_result(tune_controller, trial, result)  # Tune does not show a trial's last result otherwise

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _stub(self, trial_id: str) -> Any:
        if trial_id not in self._stubs:
            stub = _Stub(trial_id)
            self._stubs[trial_id] = stub
            self.inner.on_trial_add(self._controller, stub)
        return self._stubs[trial_id]


class _Stub:
    """What a scheduler needs of a trial: an id."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
        self.status = "RUNNING"


def run_packs(
    following: Next,
    *,
    shared: Shared,
    cpu: float,
    gpu: float,
    callback: JournalCallback,
    stop: Stop,
    scheduler: EarlyStop | None = None,
    on_complete: Callable[[str, bool], None] = lambda trial_id, failed: None,
    max_concurrent: int | None = None,
    storage: Path,
    slots: int = 1,
    ahead: int = 1,
) -> None:
    """Run packs until ``following`` has no more or a stop is requested.

    Args:
        following: the payloads of the next pack, or None.
        shared: what all packs have in common.
        cpu, gpu: of one pack.
        callback: takes down what happens.
        scheduler: stops trials early; None = never.
        on_complete: called with the id of each trial whose pack Tune is through with, and whether its worker was lost
            for good.
        storage: where Tune may keep its own state, which nobody reads.
        slots: packs that can run at once: so many workers are started together at the beginning.
        ahead: packs that may wait for room at once: fewer than there are slots where later ones are chosen better, and
            more on several nodes, as an autoscaler starts nodes for what waits.
    """
    several = sum(bool(node["Alive"]) for node in ray.nodes()) > 1
    trainable = tune.with_resources(tune.with_parameters(PackTrainable, shared=shared), {"cpu": cpu, "gpu": gpu})
    tuner = tune.Tuner(
        trainable,
        param_space={},
        tune_config=tune.TuneConfig(
            search_alg=Queue(following, stop, on_complete),
            scheduler=scheduler or FIFOScheduler(),
            num_samples=-1,
            max_concurrent_trials=max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"launch-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=LOST_WORKERS),
            stop=_StopAll(stop),
            verbose=0,
        ),
    )
    kept = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        waiting = ahead if several else min(ahead, slots)
        with _environment(TUNE_MAX_PENDING_TRIALS_PG=str(waiting)), _controller():
            tuner.fit()
    finally:
        sys.setswitchinterval(kept)
        shutil.rmtree(storage, ignore_errors=True)


class _Controller(TuneController):
    """Tune's, but a worker that is starting is not ended because another one has become free.

    Tune hands that to the waiting trial for which the other one was started. Where trials take less time than a
    worker's start, a slot then starts workers without end and trains nothing: twelve trials of 2 s on two cores ran
    one after the other.
    """

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        if trial in self._resetting_trials or not self._starting(trial):
            return bool(super()._maybe_reuse_cached_actor(trial))
        resources = trial.placement_group_factory
        for other in list(self._resources_to_pending_trials[resources]):
            if other not in self._resetting_trials and not self._starting(other):
                if super()._maybe_reuse_cached_actor(other) and other not in self._staged_trials:
                    self._staged_trials.add(other)  # as Tune does for a trial that had asked for no worker yet
                    self._actor_cache.increase_max(resources)
                break
        return False

    def _starting(self, trial: Any) -> bool:
        """Whether a worker of its own has its resources, and a process."""
        return self._trial_to_actor.get(trial) in self._actor_manager._live_actors_to_ray_actors_resources


@contextmanager
def _controller() -> Iterator[None]:
    """Tune takes our controller for a while; it offers no other way to give it one."""
    module: Any = sys.modules[tune.run.__module__]
    kept = module.TuneController
    module.TuneController = _Controller
    try:
        yield
    finally:
        module.TuneController = kept


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for a while; those that the user has set stay."""
    mine = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            del os.environ[name]


class _StopAll(tune.Stopper):
    """Ends Tune when workers had their time to save."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop.overdue

    def __getstate__(self) -> dict[str, Any]:
        return {}


Networks = Sequence[tuple[TrialConfig, int, int]]  # (config, classes, side) of each distinct one
Measured = tuple[Numerics, float, int, list[str]]


class StoppedError(Exception):
    """A stop was asked for before there was anything to stop."""


def measure(
    configs: Networks, resources: ResourcesConfig, trials: tuple[int, int | None], pinned: Numerics | None,
    search_path: Sequence[str], stop: Stop, data_gib: float = 0.0, images: int = 0,
) -> Measured:  # fmt: skip
    """The numerics of a sweep, the GPUs of a pack and its trials: in this process if ``measures_here``, else in a
    worker like those that will train. Where that ends, hangs or fails, they are what needs no measurement.

    Args:
        resources: as in the file; ``gpu`` is 0 where there is none.
        trials: how many are to be run, and the most that may run at once; None = as many as there is room for.
        pinned: the numerics of an earlier launch, which stay.
        data_gib: of the images that a process has on its GPU.
        images: that the shortest trial trains on, once for each of its epochs.

    Returns:
        numerics, GPUs per pack, trials per pack (1 = not measured to be better), lines for the user.

    Raises:
        StoppedError: while a worker measured.
    """
    gpu = resources.gpu
    if pinned is not None and gpu != "auto":
        compiling = ", compiled" if pinned.compiled else ""
        return pinned, float(gpu), 1, [f"precision: {pinned.precision}{compiling} (as at this sweep's last launch)"]
    given = list(configs), resources, trials, _cores(), pinned, list(search_path), data_gib, images
    if measures_here(configs, resources):
        with deaf():  # torch's threads
            return _measure(*given)  # saves a worker's start
    task = ray.remote(max_calls=1, max_retries=0)(_measure)
    measuring = task.options(num_cpus=resources.least_cpu, num_gpus=1 if gpu == "auto" else gpu).remote(*given)
    end = time.monotonic() + (resources.hang_after_s or math.inf)
    while not ray.wait([measuring], timeout=0.2)[0]:
        if stop.requested or time.monotonic() > end:
            ray.cancel(measuring, force=True)
            if stop.requested:
                raise StoppedError
            return _unmeasured(configs, resources, pinned, f"no answer after {resources.hang_after_s:g} s")
    try:
        found: Measured = ray.get(measuring)
    except ray.exceptions.RayError as error:
        return _unmeasured(configs, resources, pinned, brief(getattr(error, "cause", None) or error))
    return found


def measures_here(configs: Networks, resources: ResourcesConfig) -> bool:
    """Whether this process chooses the numerics: there is nothing to measure, or no Ray yet and no code of the user's
    own to run, which may hang or end the process."""
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


def _unmeasured(configs: Networks, resources: ResourcesConfig, pinned: Numerics | None, why: str) -> Measured:
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
        room = int((total - measure.GPU_CONTEXT_GIB - data_gib) / max(peak * measure.GPU_HEADROOM, 1e-3))
        pack, times = measure.choose_pack(configs, numerics, most=room)
    fraction = measure.gpu_fraction(peak * pack + data_gib, total)
    lines.append(f"gpu: {fraction:.3g} per trial (measured: {peak + data_gib:.1f} GiB of {total:.0f})")
    if pack > 1:
        fraction = 1.0  # a pack fills what one trial leaves idle; a second one beside it would only wait
        lines[-1] = f"gpu: {pack} trials trained as one network (measured: {times:.1f} times as fast as one by one)"
    return replace(numerics, fused=pack > 1, compiled=numerics.compiled and pack == 1), fraction, pack, lines


def share(plan: Plan, storage: SweepStorage, token: str, numerics: Numerics, limit_batches: int | None) -> Shared:
    """What all packs have in common: images and weights go into Ray's object store, once."""
    return Shared(
        storage=storage,
        token=token,
        datasets={key: ray.put(dataset) for key, dataset in plan.datasets.items()},
        weights={key: ray.put(weights) for key, weights in plan.weights.items()},
        objective=plan.spec.objective,
        numerics=numerics,
        limit_batches=limit_batches,
        activations=plan.spec.activations,
        search_path=(str(plan.spec.folder),),
        hang_after_s=plan.spec.resources.hang_after_s,
    )


def payload(history: TrialHistory, data: str, weights: str | None) -> dict[str, Any]:
    """What a worker is told of a trial: itself, where its data and weights are, how far the journal has it."""
    return {"trial": asdict(history.trial), "data": data, "weights": weights, "known": len(history.records)}


__all__ = ["EarlyStop", "Queue", "Stop", "measure", "payload", "run_packs", "share"]
