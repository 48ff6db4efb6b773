"""The command ``python -m suite.sweep FILE.yaml``, and the same for notebooks:
``suite.sweep.run``.
"""

from suite.sweep.api import SweepResult, run

__all__ = ["SweepResult", "run"]
