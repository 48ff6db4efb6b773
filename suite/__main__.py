"""The command ``suite``: each sub-command is a module that is imported only when it is used."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

COMMANDS = {  # name -> module whose `main` is the command, what it does
    "sweep": ("suite.sweep.__main__", "Run a sweep file, or what is left of it."),
    "report": (
        "suite.report.__main__",
        "Write the report of a sweep, or compare two arms or sweeps.",
    ),
    "replay": ("suite.replay", "Train one trial again from its record and compare."),
    "predict": ("suite.predict", "Class probabilities for a folder of images, as CSV."),
    "activations": ("suite.activations", "Draw what each layer makes of an image; dead channels."),
    "doctor": ("suite.doctor", "Find, and with --fix repair, what a crash left behind."),
}


class Commands(click.Group):
    """Sub-commands by name, without importing the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).main
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="suite")
def cli() -> None:
    """Compare recipes for training image classifiers. `suite COMMAND --help` explains a command."""


def main() -> None:
    """Entry point of the console command and of ``python -m suite``."""
    sys.argv[0] = Path(sys.argv[0]).name  # runs record the command: no path of this machine
    cli(prog_name="suite")


if __name__ == "__main__":
    main()
