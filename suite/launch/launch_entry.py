"""The journal entry of a launch."""

from __future__ import annotations

import os
from dataclasses import asdict

from suite.launch.ledger import Ledger
from suite.system import environment


def record_launch(ledger: Ledger) -> None:
    """Put this launch on record: command, file, environment, numerics, data."""
    spec = ledger.spec
    dataset = next(iter(ledger.plan.datasets.values()))
    assert ledger.numerics is not None
    ledger.record(
        "launch",
        token=ledger.token,
        pid=os.getpid(),
        host=os.uname().nodename,
        command=environment.command(),
        file=spec.source.path.name,
        text=spec.source.text,
        overrides=list(spec.source.overrides),
        description=spec.description,
        environment=environment.describe(spec.folder),
        numerics=asdict(ledger.numerics),
        data={
            "name": dataset.name,
            "digest": dataset.digest,
            "classes": list(dataset.classes),
            "train": len(dataset.train_labels),
            "test": len(dataset.test_labels),
        },
        params={
            "method": spec.method,
            "seeds": list(spec.seeds),
            "metric": spec.objective.name,
        },
        metric=[asdict(objective) for objective in spec.objectives],
        margin=spec.metrics[0].margin,
        reference={arm: dict(figures) for arm, figures in spec.reference.items()},
        looks=[list(look) for look in spec.looks],
        search_seed=spec.search_seed,
    )
