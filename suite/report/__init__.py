"""A sweep's report, made from its runs in MLflow alone.

::

    tracking.read -> content (by suite.analysis) -> figures, tables -> files, replaced as a whole

Needs neither torch nor Ray. ``python -m suite.report SWEEP`` is the command; a finished sweep
writes its report by itself.
"""

from suite.report.files import make, make_comparison

__all__ = ["make", "make_comparison"]
