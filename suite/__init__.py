"""Tracked, comparable training experiments on Ray Tune and MLflow.

How data flows, one word per module; imports point the same way, downwards::

    search_spaces/x.yaml
        -> spec        YAML -> validated, frozen sweep; one TrialConfig per trial; its signature
        -> space       what a parameter may be; grids, zips, arms, seeds expanded
        -> tuner       the plan, less what has finished, through ray.tune.Tuner
        -> trainable   one pack of trials in a Ray worker
             -> data, augment, models, optim -> train -> checkpoint
        -> callback    Tune events -> journal (the durable record) -> tracking (MLflow)
        -> analysis    runs -> tables
        -> report      tables -> files

The package imports nothing by itself: a wrong sweep file is refused before torch or Ray is loaded.
"""
