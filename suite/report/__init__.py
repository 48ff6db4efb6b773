"""A sweep's report: what may be concluded from its runs, rebuilt from MLflow alone.

::

    tracking.read -> content (numbers and sentences, by suite.analysis) -> figures, tables -> files, swapped in whole

Needs neither torch nor Ray. ``python -m suite.report SWEEP`` is the command; a finished sweep makes one by itself.
"""

from suite.report.files import make, make_comparison

__all__ = ["make", "make_comparison"]
