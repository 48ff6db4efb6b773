"""Consoles, exit codes and durations: what every command prints the same way."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from suite.core.errors import ProblemsError, SuiteError
from suite.core.redaction import redacted
from suite.system.signals import Terminated, terminate

PLAIN_WIDTH = 200


def standard() -> Console:
    """The terminal; wide where the output is none, so that a file or a pipe gets whole names."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn expected errors into a message and an exit code, never a traceback; a bug of ours
    into one, and 1.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except ProblemsError as error:
        for problem in error.problems:
            click.echo(f"error: {problem}", err=True)
        sys.exit(error.exit_code)
    except SuiteError as error:
        click.echo(redacted(f"error: {error}"), err=True)
        sys.exit(error.exit_code)
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except (KeyboardInterrupt, Terminated) as error:
        click.echo("interrupted: give the same command again", err=True)
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
    except Exception:
        click.echo(redacted(traceback.format_exc()), err=True)
        sys.exit(1)


def duration(seconds: float) -> str:
    """``93`` -> ``1 min 33 s``; ``7300`` -> ``2 h 2 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
