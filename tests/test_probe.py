"""What a sweep leaves open is measured: precision, memory format, threads a trial."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from conftest import Folder

from suite.config import ResourcesConfig, TrialConfig
from suite.config.trial import Crop
from suite.core.records import Numerics
from suite.planning import measure
from suite.planning.measure import Cost, Room
from suite.system import environment

FP32 = TrialConfig.model_validate({"train": {"precision": "fp32"}})
AUTO = ResourcesConfig(cpu="auto", memory_format="auto")
TRIAL = {
    "data": {"name": "digits", "image_size": 8, "train_size": 100}, "model": {"arch": "resnet20"},
    "train": {"epochs": 1, "batch_size": 50, "lr": 0.05, "precision": "fp32"},
}  # fmt: skip
PLAIN = Numerics("fp32", channels_last=True, threads=1, device="cpu", sliced=True, tiled=True)


def choose(
    monkeypatch: pytest.MonkeyPatch,
    speed: Callable[[Numerics], float],
    room: Room,
    resources: ResourcesConfig = AUTO,
    config: TrialConfig = FP32,
) -> tuple[Numerics, list[str]]:
    """The choice where a network trains so many images a second with numerics."""

    def cost(
        config: TrialConfig,
        classes: int,
        side: int,
        numerics: Numerics,
        whole_batch: bool | None = None,
        anew: bool = False,
    ) -> Cost:
        seconds = 1 / speed(numerics)
        asked.setdefault(config.model.arch, []).append(whole_batch)
        return Cost(seconds, 0.0, 0.0, 0.0, whole_batch=config.model.arch == "resnet20")

    asked: dict[str, list[bool | None]] = {}
    monkeypatch.setattr(measure, "cost", cost)
    monkeypatch.setattr(
        measure, "_keep_cost", lambda *given, **more: None
    )  # for tests that measure
    said: list[str] = []
    other = config.model_copy(
        update={"model": config.model.model_copy(update={"arch": "resnet20"})}
    )
    chosen = measure.choose_numerics(
        [(config, 10, 32), (other, 10, 32)], resources, room, said.append
    )
    for arch, whole in (("resnet18_cifar", False), ("resnet20", True)):
        others = [each for each in asked.get(arch, []) if each is not None]
        assert set(others) <= {whole} and len(others) >= asked.get(arch, []).count(None), (
            "the first candidate says with which batches of a network, and all others have the same"
        )
    return chosen, said


def test_nothing_is_timed_where_the_processor_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "has_bf16", lambda: False)
    chosen, said = choose(
        monkeypatch,
        lambda numerics: pytest.fail("measured"),
        Room(1, None, (2,)),
        ResourcesConfig(cpu=2),
        TrialConfig(),
    )
    assert chosen == replace(PLAIN, threads=2)
    assert said == ["precision: fp32 (this processor has no bf16)"]


@pytest.mark.parametrize(("faster", "expected"), [(1.1, "fp32"), (1.2, "bf16")])
def test_bf16_must_be_worth_it(
    monkeypatch: pytest.MonkeyPatch, faster: float, expected: str
) -> None:
    monkeypatch.setattr(measure, "has_bf16", lambda: True)
    chosen, said = choose(
        monkeypatch,
        lambda numerics: faster if numerics.precision == "bf16" else 1.0,
        Room(1, None, (2,)),
        ResourcesConfig(),
        TrialConfig(),
    )
    assert chosen == replace(PLAIN, precision=expected)
    assert said == [
        f"precision: {expected} (measured: bf16 runs {faster:.2f} times as fast as fp32 here)"
    ]


@pytest.mark.parametrize(
    ("seconds", "expected", "said"),
    [
        ({"fp32": [2.0], "bf16": [1.0]}, "bf16", "2.00"),  # clear at once
        ({"fp32": [2.0, 2.2], "bf16": [1.9, 1.0]}, "bf16", "2.00"),  # something slowed bf16 down
        ({"fp32": [2.0, 2.2], "bf16": [1.9, 1.95]}, "fp32", "1.05"),
    ],
)
def test_what_is_too_close_to_call_is_measured_once_more_and_kept(
    seconds: dict[str, list[float]],
    expected: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def take(
        config: TrialConfig, classes: int, side: int, numerics: Numerics, *others: Any
    ) -> Cost:
        return Cost(seconds[numerics.precision].pop(0), 0.5, 0.0, 0.0)

    monkeypatch.setenv("SUITE_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "has_bf16", lambda: True)
    monkeypatch.setattr(measure, "_others", lambda: lambda: 0.0)
    monkeypatch.setattr(measure, "_measure", take)
    for _ in range(2):  # the second launch measures nothing: the lists are empty
        lines: list[str] = []
        chosen = measure.choose_numerics(
            [(TrialConfig(), 10, 32)], ResourcesConfig(), Room(1, None, (2,)), lines.append
        )
        assert chosen.precision == expected
        assert lines == [
            f"precision: {expected} (measured: bf16 runs {said} times as fast as fp32 here)"
        ]
        assert seconds == {"fp32": [], "bf16": []}


@pytest.mark.parametrize(
    ("trials", "most", "nodes", "here", "faster", "threads"),
    [
        (8, None, (2,), 2, 1.8, 1),  # twice the rounds cannot pay: not measured
        (1, None, (2,), 2, 1.8, 2),
        (1, None, (2,), 2, 1.1, 1),  # not worth it
        (3, None, (2,), 2, 1.8, 2),  # 2 rounds of 1 against 3 of 0.56
        (3, None, (2,), 2, 1.5, 1),
        (8, 1, (2,), 2, 1.8, 2),  # one at once, by the user's wish
        (4, None, (16,), 16, 1.8, 4),
        (16, None, (16,), 16, 2.0, 1),
        (2, None, (32, 32), 8, 1.8, 8),  # never more than the machine that measures has
        (2, None, (8, 4), 8, 1.8, 4),  # nor more than the smallest has
        (4, None, (3, 3), 8, 1.9, 1),  # one slot of two on each: 2 rounds of 0.53 against 1 of 1
        (1, None, (1,), 8, 1.8, 1),
    ],
)
def test_threads_bring_the_last_trial_to_its_end_soonest(
    monkeypatch: pytest.MonkeyPatch,
    trials: int,
    most: int | None,
    nodes: tuple[int, ...],
    here: int,
    faster: float,
    threads: int,
) -> None:
    """Each doubling of threads makes a trial so many times as fast."""
    monkeypatch.setattr(environment, "cores", lambda: here)
    chosen, said = choose(
        monkeypatch,
        lambda numerics: faster ** (numerics.threads.bit_length() - 1),
        Room(trials, most, nodes),
        ResourcesConfig(cpu="auto"),
    )
    assert chosen == replace(PLAIN, threads=threads)
    assert len(said) == 1 and said[0].startswith(f"threads: {threads} a trial (")


@pytest.mark.parametrize(("faster", "expected"), [(1.1, True), (1.2, False)])
def test_the_memory_format_is_measured_before_the_threads(
    monkeypatch: pytest.MonkeyPatch, faster: float, expected: bool
) -> None:
    monkeypatch.setattr(environment, "cores", lambda: 2)
    chosen, said = choose(
        monkeypatch,
        lambda numerics: numerics.threads * (1.0 if numerics.channels_last else faster),
        Room(1, None, (2,)),
    )
    assert chosen == replace(PLAIN, channels_last=expected, threads=2)
    assert [line.split(":")[0] for line in said] == ["memory format", "threads"]


@pytest.mark.parametrize(
    ("asked", "images", "faster", "expected", "said"),
    [
        ("auto", 29_000, 2.0, False, "compile: no (not tried: a trial trains for about 290 s)"),
        (
            "auto",
            31_000,
            2.0,
            True,
            "compile: yes (measured: compiled it runs 2.00 times as fast here, after 40 s)",
        ),
        (
            "auto",
            31_000,
            1.3,
            False,
            "compile: no (measured: compiled it runs 1.30 times as fast here, after 40 s)",
        ),
        (
            "auto",
            300_000,
            1.3,
            True,
            "compile: yes (measured: compiled it runs 1.30 times as fast here, after 40 s)",
        ),
        (
            True,
            1,
            0.9,
            True,
            "compile: yes (as asked: compiled it runs 0.90 times as fast here, after 40 s)",
        ),
        (True, 1, None, False, "compile: no (not possible: resnet20: no compiler here)"),
    ],
)
def test_compilation_is_chosen_by_when_a_trial_ends(
    asked: bool | str,
    images: int,
    faster: float | None,
    expected: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trial trains 100 images a second without; with it the first step takes 40 s."""

    def cost(
        config: TrialConfig, classes: int, side: int, numerics: Numerics, **others: Any
    ) -> Cost:
        if numerics.compiled and faster is None and config.model.arch == "resnet20":
            raise RuntimeError("no compiler here")
        # the first measurement is not alone, and the second finds the code that the first one
        # compiled
        again = bool(others.get("anew"))
        seconds, ready = (
            (0.01 / (faster or 1), 1.0 if again else 40.0) if numerics.compiled else (0.01, 0.0)
        )
        return Cost(seconds, 0.0, 0.0, 0.0, ready, others=0.0 if again else 0.3)

    monkeypatch.setattr(measure, "cost", cost)
    config = FP32.model_copy(update={"model": FP32.model.model_copy(update={"arch": "resnet20"})})
    lines: list[str] = []
    chosen = measure.choose_numerics(
        [(FP32, 10, 32), (config, 10, 32)],
        ResourcesConfig(compile=asked),
        Room(1, None, (2,), images=images),
        lines.append,
    )
    when = "; each worker compiles in the first epoch of its first trial" if expected else ""
    assert chosen == replace(PLAIN, compiled=expected) and lines == [said + when]


def test_what_the_file_gives_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, said = choose(
        monkeypatch, lambda numerics: pytest.fail("measured"), Room(1, None, (2,)),
        ResourcesConfig(cpu=2, memory_format="contiguous"),
    )  # fmt: skip
    assert chosen == replace(PLAIN, channels_last=False, threads=2) and said == []


def test_a_network_that_fails_is_left_out_and_one_alone_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(numerics: Numerics) -> float:
        raise ValueError("no such layer")

    chosen, said = choose(monkeypatch, fails, Room(1, None, (2,)))
    assert chosen == PLAIN
    assert said == [
        "memory format: channels_last (not measured: resnet20: no such layer)",
        "threads: 1 a trial (not measured: resnet20: no such layer)",
    ]


def test_a_network_that_fails_beside_one_that_does_not_has_no_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cost(config: TrialConfig, *given: Any, whole_batch: bool | None = None) -> Cost:
        if config.model.arch == "resnet20":
            raise ValueError("no such layer")
        return Cost(1.0 if given[-1].channels_last else 0.5, 0.0, 0.0, 0.0)

    monkeypatch.setattr(measure, "cost", cost)
    broken = TrialConfig.model_validate(
        {"model": {"arch": "resnet20"}, "train": {"precision": "fp32"}}
    )
    for configs in ([(FP32, 10, 32), (broken, 10, 32)], [(broken, 10, 32), (FP32, 10, 32)]):
        resources = ResourcesConfig(memory_format="auto")
        assert not measure.choose_numerics(
            configs, resources, Room(1, None, (2,)), lambda line: None
        ).channels_last


def test_a_real_measurement_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "_others", lambda: lambda: 0.0)  # though other tests run
    config = TrialConfig.model_validate({"model": {"arch": "resnet20"}, "train": {"batch_size": 8}})
    first: list[str] = []
    chosen = measure.choose_numerics(
        [(config, 10, 16)], AUTO, Room(1, None, (os.cpu_count() or 1,)), first.append
    )
    assert len(first) == 3
    monkeypatch.setattr(measure, "_measure", lambda *given: pytest.fail("measured again"))
    again: list[str] = []
    assert (
        measure.choose_numerics(
            [(config, 10, 16)], AUTO, Room(1, None, (os.cpu_count() or 1,)), again.append
        )
        == chosen
    )
    assert again == first


def test_a_cache_that_cannot_be_used_costs_a_measurement_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "_measure", lambda *given: Cost(0.5, 0.0, 0.0, 0.0))
    for text in ("[1]", "no json", '{"other": 3}'):
        (tmp_path / "probes.json").write_text(text)
        assert measure.cost(FP32, 10, 32, PLAIN).train_s == 0.5
    monkeypatch.setattr(measure, "_file", lambda: Path("/proc/nowhere/probes.json"))
    assert measure.cost(FP32, 10, 32, PLAIN).train_s == 0.5


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_is_measured_beside_others_is_kept_as_long_as_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path))
    monkeypatch.setattr(measure, "_others", lambda: lambda: share)
    monkeypatch.setattr(measure, "_measure", lambda *given: Cost(0.5, 0.0, 0.0, 0.0))
    assert measure.cost(FP32, 10, 32, PLAIN).others == share
    assert (tmp_path / "probes.json").exists() == (share < measure.BUSY)
    said = measure._compare([(FP32, 10, 32)], [PLAIN]).meanwhile
    monkeypatch.setattr(measure, "_measure", lambda *given: pytest.fail("measured again"))
    assert measure.cost(FP32, 10, 32, PLAIN).train_s == 0.5
    assert said == ("" if share < measure.BUSY else ", while others used 50% of the processors")


@pytest.mark.parametrize("ours", [False, True])
def test_others_are_seen(ours: bool) -> None:
    """A process that keeps one core busy, of somebody else's; a compiler that this process calls
    is none of them.
    """
    others = measure._others()
    code = "import time; end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
    if ours:
        before = psutil.Process().cpu_times().children_user
        subprocess.run([sys.executable, "-c", code], check=True)
        assert psutil.Process().cpu_times().children_user - before > 0.5
    else:  # the shell ends at once, and the process has another parent
        subprocess.run(
            f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} &", shell=True, check=True
        )
        time.sleep(1.7)
        assert others() * (os.cpu_count() or 1) > 0.5


def test_what_this_process_uses_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2 s on 4 cores: 5 s of processors, of which 2 were this process's, 1 that of a compiler it
    called, 1 another process's and 1 another guest's.
    """
    idle = SimpleNamespace(user=0.0)
    first, second = (
        SimpleNamespace(user=10.0, system=1.0, idle=7.0),
        SimpleNamespace(user=13.5, system=1.5, steal=1.0),
    )
    cpu = iter(
        [[first, *[idle] * 5], [second, *[idle] * 3, *[SimpleNamespace(user=9.0)] * 2]]
    )  # two are not ours
    times = ("user", "system", "children_user", "children_system")
    own = iter(
        SimpleNamespace(**dict(zip(times, values, strict=True)))
        for values in ((4.0, 0.5, 1.0, 0.0), (6.0, 0.5, 1.75, 0.25))
    )
    process = SimpleNamespace(cpu_times=lambda: next(own), cpu_affinity=lambda: [0, 1, 2, 3])
    monkeypatch.setattr(measure.psutil, "cpu_times", lambda percpu: next(cpu))
    monkeypatch.setattr(measure.psutil, "Process", lambda: process)
    monkeypatch.setattr(measure, "time", SimpleNamespace(monotonic=iter([100.0, 102.0]).__next__))
    assert measure._others()() == pytest.approx(2 / 8)


def test_what_is_kept_of_a_quiet_time_is_not_compared_with_a_busy_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path))
    share, seconds = [0.0], [1.0]
    monkeypatch.setattr(measure, "_others", lambda: lambda: share[0])
    monkeypatch.setattr(measure, "_measure", lambda *given: Cost(seconds[0], 0.0, 0.0, 0.0))
    measure.cost(FP32, 10, 32, PLAIN)
    share[0], seconds[0] = 0.5, 3.0
    found = measure._compare([(FP32, 10, 32)], [PLAIN, replace(PLAIN, threads=2)])
    assert found.seconds == [3.0, 3.0] and found.others == 0.5
    monkeypatch.setattr(measure, "_passing", {})  # another process
    assert measure.cost(FP32, 10, 32, PLAIN).train_s == 1.0, "what was kept is still kept"


def test_what_a_measurement_depends_on_has_a_measurement_of_its_own() -> None:
    other = TrialConfig.model_validate({"train": {"precision": "fp32", "cache_prefix": "off"}})
    named = FP32.model_copy(update={"augmentations": {"crop": Crop(padding=2)}})
    keys = {measure._key(config, 10, 32, PLAIN) for config in (FP32, other, named)}
    assert len(keys) == 3


def test_batches_of_one_size_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its size has a place of its own, and where none is asked for, one that is there
    will do.
    """
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path))
    asked: list[bool | None] = []

    def take(*given: Any) -> Cost:
        asked.append(given[-1])
        return Cost(1.0, 0.0, 0.0, 0.0, whole_batch=given[-1] is True)

    monkeypatch.setattr(measure, "_measure", take)
    for whole in (False, None, False, True, None, True):
        found = measure.cost(FP32, 10, 32, PLAIN, whole)
        assert found.whole_batch == whole or whole is None
    assert asked == [False, True]


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_a_sweep_gives_each_trial_what_was_measured(folder: Folder) -> None:
    folder.write(
        parameters=None, seeds=[0], resources={"cpu": "auto", "memory_format": "auto"},
        trial=TRIAL,
    )  # fmt: skip
    done = folder.sweep()
    numerics = next(entry["numerics"] for entry in folder.journal if entry["kind"] == "trial")
    assert f"threads: {numerics['threads']} a trial (measured: " in done.stdout
    assert "memory format: " in done.stdout
    assert folder.runs() == {"tiny seed=0": "FINISHED"}
    folder.write(
        parameters=None, seeds=[0, 1], resources={"cpu": "auto", "memory_format": "auto"},
        trial=TRIAL,
    )  # fmt: skip
    again = folder.sweep()
    assert "threads: " not in again.stdout, "numerics of a first launch stay"
    assert [entry["numerics"] for entry in folder.journal if entry["kind"] == "trial"] == [
        numerics
    ] * 2
