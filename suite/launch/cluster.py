"""The cluster that a launch runs on, checked before anything is written."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console

from suite.config import SweepSpec
from suite.core.errors import EnvironmentProblem
from suite.launch.options import Options
from suite.storage.base import SweepStorage
from suite.system import environment


def uses_cluster(options: Options) -> bool:
    """Whether trials run on a Ray that others started, here or elsewhere."""
    ray = sys.modules.get("ray")
    return bool(
        options.address
        or os.environ.get("RAY_ADDRESS")
        or (ray is not None and ray.is_initialized())
    )


@contextmanager
def on_cluster(
    spec: SweepSpec, options: Options, storage: SweepStorage, console: Console
) -> Iterator[None]:
    """Connect to the cluster and check that its nodes see the sweep's folder, before any write.

    Without a cluster, only check that this machine has enough cores.
    """
    if uses_cluster(options):
        from suite.execution import nodes, ray_session

        with ray_session.running(options.address, options.verbose):
            wanted = spec.resources
            nodes.wait_for_workers(
                wanted.least_cpu, wanted.gpu, partial(console.print, highlight=False)
            )
            nodes.check_storage(storage)
            yield
        return
    cores = environment.cores()
    if spec.resources.least_cpu > cores and "ray" not in sys.modules:
        raise EnvironmentProblem(
            f"resources.cpu must be at most the CPUs that there are, got {spec.resources.cpu}, "
            f"there are {cores}",
            place=spec.where("resources.cpu"),
            remedy=f"Lower it: resources.cpu={cores} on the command line; or name a cluster with "
            "--address.",
        )
    yield
