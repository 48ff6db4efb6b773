"""Make the pictures of the README: ``python scripts/pictures.py report`` and ``... terminal``.

``report`` renders a committed report with headless Chromium and writes ``docs/assets/report.png``.
``terminal`` runs the quickstart in a pseudo-terminal, first with ``--dry-run`` and then for real,
and writes ``docs/assets/terminal.svg``: an animation of what the terminal showed, waits shortened.
Nothing in either picture is typed by hand. ``terminal`` needs ``pip install pyte==0.8.2``.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
ASSETS = REPO / "docs" / "assets"
REPORT = REPO / "reports" / "transfer" / "index.html"
REPORT_SIZE = "1340,612"  # pixels: the verdicts and the table of arms
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>
<include>/etc/fonts/fonts.conf</include>
<match target="pattern">
<edit name="family" mode="prepend" binding="strong"><string>Inter</string>
<string>Liberation Sans</string><string>DejaVu Sans Condensed</string></edit>
</match></fontconfig>"""
COLUMNS, ROWS = 100, 34
SWEEP = "search_spaces/quickstart.yaml"
COMMANDS = (f"python -m suite.sweep {SWEEP} --dry-run", f"python -m suite.sweep {SWEEP}")
SECONDS_BETWEEN_FRAMES = 3.0  # of the real run
SECONDS_SHOWN, SECONDS_SHOWN_LAST = 0.35, 6.0  # of the animation; last: of each command
CHAR_WIDTH, LINE_HEIGHT, MARGIN = 8.4, 18, 14  # pixels, at a font size of 14
COLOURS = {
    "green": "#7ec699", "brown": "#e5c07b", "yellow": "#e5c07b", "red": "#e06c75",
    "blue": "#61afef", "cyan": "#56b6c2", "magenta": "#c678dd",
}  # fmt: skip

Span = tuple[str, str]  # text, fill colour
Row = tuple[Span, ...]
Frame = tuple[Row, ...]


def picture_of_report() -> None:
    """Write ``report.png``: the top of the committed report.

    The page asks for the system's own font. Where that is the very wide DejaVu Sans, the last
    column is cut off, so a font of usual width is preferred.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
    target = ASSETS / "report.png"
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    size, shot = f"--window-size={REPORT_SIZE}", f"--screenshot={target}"
    with tempfile.TemporaryDirectory() as folder:
        fonts = Path(folder) / "fonts.conf"
        fonts.write_text(FONTS)
        environment = {**os.environ, "FONTCONFIG_FILE": str(fonts)}
        command = [browser, *flags, size, shot, REPORT.as_uri()]
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)


def recording_of_terminal() -> None:
    """Write ``terminal.svg``: the quickstart's plan and run."""
    import pyte

    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    frames: list[tuple[Frame, float]] = []  # what was seen, and for how many seconds it is shown
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "search_spaces").symlink_to(REPO / "search_spaces")
        for command in COMMANDS:
            screen.reset()
            stream.feed(f"$ {command}\r\n".encode())
            frames.append((_frame(screen), SECONDS_SHOWN))
            for output in _run(command, folder):
                stream.feed(output)
                frames.append((_frame(screen), SECONDS_SHOWN))
            stream.feed(b"$ ")
            frames.append((_frame(screen), SECONDS_SHOWN_LAST))
    distinct = [next(run) for _, run in groupby(frames)]
    (ASSETS / "terminal.svg").write_text(_svg(distinct))


def _run(command: str, folder: str) -> Iterator[bytes]:
    """What the command writes to its terminal, in pieces of ``SECONDS_BETWEEN_FRAMES``.

    Raises:
        SystemExit: the command failed.
    """
    program = [sys.executable, *command.split()[1:]]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(program[0], program, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    output, shown = b"", time.monotonic()
    while True:
        try:
            ready = select.select([terminal], [], [], 0.2)[0]
            piece = os.read(terminal, 65536) if ready else b""
        except OSError:  # Linux: the other end was closed
            break
        if ready and not piece:
            break
        output += piece
        if output and time.monotonic() - shown >= SECONDS_BETWEEN_FRAMES:
            yield output
            output, shown = b"", time.monotonic()
    yield output
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        sys.exit(f"{command}: exit code {code}\n{output.decode(errors='replace')}")


def _frame(screen) -> Frame:  # type: ignore[no-untyped-def]
    """The rows of a pyte screen as spans of one colour, without empty rows at the end."""
    rows = [_row(screen.buffer[line]) for line in range(ROWS)]
    while rows and not rows[-1]:
        rows.pop()
    return tuple(rows)


def _row(cells) -> Row:  # type: ignore[no-untyped-def]
    characters = [cells[column] for column in range(COLUMNS)]
    spans = [("".join(c.data for c in run), fill) for fill, run in groupby(characters, _fill)]
    while spans and not spans[-1][0].strip():
        spans.pop()
    return tuple(spans)


def _fill(character) -> str:  # type: ignore[no-untyped-def]
    if character.bold and character.fg == "default":
        return "#ffffff"
    return COLOURS.get(character.fg.removeprefix("bright"), "#d5d8df")


def _svg(frames: list[tuple[Frame, float]]) -> str:
    """Frames one after the other; without animation, the last one."""
    height = MARGIN * 2 + LINE_HEIGHT * max(len(frame) for frame, _ in frames)
    width = MARGIN * 2 + round(CHAR_WIDTH * COLUMNS)
    total = sum(seconds for _, seconds in frames)
    style = [
        "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:pre}",
        ".f{visibility:hidden}.l{visibility:visible}",
    ]
    groups, start = [], 0.0
    for index, (frame, seconds) in enumerate(frames):
        last = index == len(frames) - 1
        style.append(
            _keyframes(index, start / total, 1.0 if last else (start + seconds) / total, total)
        )
        start += seconds
        texts = "".join(_text(row, line) for line, row in enumerate(frame))
        groups.append(f'<g id="f{index}" class="f{" l" if last else ""}">{texts}</g>')
    style.append("@media (prefers-reduced-motion:reduce){.f{animation:none!important}}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">\n<title>Terminal: {escape(" && ".join(COMMANDS))}</title>\n'
        f"<style>{''.join(style)}</style>\n"
        f'<rect width="100%" height="100%" rx="8" fill="#1e2127"/>\n'
        + "\n".join(groups)
        + "\n</svg>\n"
    )


def _keyframes(index: int, start: float, end: float, total: float) -> str:
    """CSS that shows frame ``index`` between two fractions of ``total`` seconds, and hides it
    otherwise.
    """
    stops = {0.0: "hidden", start: "visible", end: "visible" if end == 1 else "hidden"}
    steps = "".join(f"{100 * at:.2f}%{{visibility:{value}}}" for at, value in stops.items())
    return (
        f"@keyframes k{index}{{{steps}}}#f{index}{{animation:k{index} {total:.2f}s step-end "
        f"infinite}}"
    )


def _text(row: Row, line: int) -> str:
    """A row: one element for each word group, placed by its column."""
    parts, column = [], 0
    for text, fill in row:
        for match in re.finditer(r"\S+(?: \S+)*", text):
            x = MARGIN + CHAR_WIDTH * (column + match.start())
            y = MARGIN + LINE_HEIGHT * line + 13
            place = f'x="{x:.1f}" y="{y}" textLength="{CHAR_WIDTH * len(match[0]):.1f}"'
            parts.append(f'<text {place} fill="{fill}">{escape(match[0])}</text>')
        column += len(text)
    return "".join(parts)


if __name__ == "__main__":
    MAKERS = {"report": picture_of_report, "terminal": recording_of_terminal}
    if len(sys.argv) != 2 or sys.argv[1] not in MAKERS:
        sys.exit(__doc__)
    ASSETS.mkdir(exist_ok=True)
    MAKERS[sys.argv[1]]()
