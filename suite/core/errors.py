"""Everything that can go wrong and is not a bug of ours.

::

    SuiteError                     exit code
    ├── ProblemsError              2 or 6   one or many Problems, all of a stage listed at once
    │   ├── UsageError             2        the sweep file or the command line is wrong
    │   └── EnvironmentProblem     6        data, weights, folder, disk or server missing
    ├── LockedError                5        another process runs this sweep
    └── TrialError                 -        one trial failed; never leaves the worker
        ├── DivergedError                   the loss or a metric became NaN or infinite
        └── OutOfMemoryError                no memory left for this trial

A message is the rule, the value, the place and the remedy, in this order of importance; never a
traceback, never a credential.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from suite.core.redaction import redacted


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the user's input.

    Attributes:
        rule: the rule with the offending value, e.g. ``min < max must hold, got min=0.1,
            max=0.01``.
        place: ``file:line: key`` where there is one, else ``""``.
        remedy: what to do about it, one sentence, or ``""``.
        environment: True when the file is right but the machine lacks something (exit code 6
            instead of 2).
    """

    rule: str
    place: str = ""
    remedy: str = ""
    environment: bool = False

    def __str__(self) -> str:
        text = f"{self.place}: {self.rule}" if self.place else self.rule
        return redacted(f"{text}\n    {self.remedy}" if self.remedy else text)

    def at(self, place: str) -> Problem:
        """The same problem with its place filled in, where it has none yet."""
        return self if self.place else replace(self, place=place)


class SuiteError(Exception):
    """Base of all expected errors. ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class ProblemsError(SuiteError):
    """One or many problems found by one stage of validation; ``str()`` lists them all."""

    exit_code = 2

    def __init__(
        self, problems: Problem | str | Iterable[Problem], remedy: str = "", place: str = ""
    ) -> None:
        if isinstance(problems, str):
            problems = Problem(problems, place=place, remedy=remedy)
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(ProblemsError):
    """The sweep file or the command line is wrong."""

    exit_code = 2


class EnvironmentProblem(ProblemsError):
    """Data, weights, folder, disk or tracking server is missing or unusable.

    The input itself may be right.
    """

    exit_code = 6

    def __init__(
        self, problems: Problem | str | Iterable[Problem], remedy: str = "", place: str = ""
    ) -> None:
        super().__init__(problems, remedy, place)
        self.problems = tuple(replace(problem, environment=True) for problem in self.problems)


class LockedError(SuiteError):
    """Another living process runs this sweep."""

    exit_code = 5


class TrialError(SuiteError):
    """One trial failed. ``str()`` is the reason that the table, the journal and the tags show."""


class DivergedError(TrialError):
    """The loss or a metric became NaN or infinite. Never retried: it would diverge again."""


class OutOfMemoryError(TrialError):
    """No memory left for this trial. Never retried: the same trial needs the same memory."""


def brief(error: BaseException) -> str:
    """The first line of an error's text, without credentials."""
    text = redacted(str(error)).strip()
    return text.splitlines()[0][:400] if text else type(error).__name__


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise all ``problems`` as one error, if there are any.

    Raises:
        UsageError: if at least one is the input's fault.
        EnvironmentProblem: if all are the environment's.
    """
    found = tuple(problems)
    if not found:
        return
    if all(problem.environment for problem in found):
        raise EnvironmentProblem(found)
    raise UsageError(found)
