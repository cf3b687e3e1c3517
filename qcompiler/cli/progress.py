"""Progress of a compilation: a bar per stage on a terminal, plain lines or JSON lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Mode = Literal["auto", "plain", "json", "none"]
QUIET_SECONDS = 10.0


class Progress(Protocol):
    """Takes the events of a compilation; a context manager, so that a bar is always taken down."""

    def __enter__(self) -> Progress:
        """Starts showing."""
        ...

    def __exit__(self, *failure: object) -> None:
        """Finishes the open stage and stops showing."""
        ...

    def update(self, stage: str, done: int, total: int) -> None:
        """Stage `stage` has done `done` of `total`; total 0 when it counts nothing."""
        ...

    def log(self, line: str) -> None:
        """A line for the user."""
        ...


def make_progress(mode: Mode, stream: TextIO | None = None, peak: Callable[[], int] | None = None) -> Progress:
    """The progress for a mode; `auto` is a bar when `stream` is a terminal and plain lines when not.

    Args:
        mode: see above.
        stream: where to write; the error stream when None.
        peak: tells the peak memory in bytes; that of this process when None.
    """
    from qcompiler.pipeline import peak_bytes

    target: TextIO = sys.stderr if stream is None else stream
    peak = peak or peak_bytes
    if mode == "auto":
        return BarProgress(target, peak) if target.isatty() else PlainProgress(target, peak)
    if mode == "none":
        return NoProgress()
    return PlainProgress(target, peak, as_json=mode == "json")


class NoProgress:
    """Silence."""

    def __enter__(self) -> NoProgress:
        """Nothing to start."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Nothing to stop."""

    def update(self, stage: str, done: int, total: int) -> None:
        """Nothing to show."""

    def log(self, line: str) -> None:
        """Nothing to show."""


@dataclass
class PlainProgress:
    """One line per finished stage, and one every ten seconds in a long one; the same as JSON objects on wish."""

    stream: TextIO
    peak: Callable[[], int]
    as_json: bool = False
    clock: Callable[[], float] = time.perf_counter
    stage: str = ""
    done: int = 0
    total: int = 0
    started: float = 0.0
    written: float = 0.0

    def __enter__(self) -> PlainProgress:
        """Nothing to start."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Writes the line of the open stage, unless it failed."""
        if self.stage and failure[0] is None:
            self.write(finished=True)

    def update(self, stage: str, done: int, total: int) -> None:
        """Writes a line when a stage ends, and now and then while it lasts."""
        now = self.clock()
        if stage != self.stage:
            if self.stage:
                self.write(finished=True)
            self.stage, self.started, self.written = stage, now, now
        self.done, self.total = done, total
        if now - self.written >= QUIET_SECONDS:
            self.written = now
            self.write(finished=False)

    def log(self, line: str) -> None:
        """Writes the line."""
        print(json.dumps({"log": line}) if self.as_json else line, file=self.stream)

    def write(self, finished: bool) -> None:
        """Writes the line of the current stage."""
        from qcompiler.report.words import size_text

        seconds, peak = self.clock() - self.started, self.peak()
        if self.as_json:
            data = {"stage": self.stage, "done": self.done, "total": self.total, "finished": finished}
            print(json.dumps({**data, "seconds": round(seconds, 3), "peak_bytes": peak}), file=self.stream)
            return
        count = f" {self.done}/{self.total}" if self.total > 1 else ""
        left = "" if finished or not self.done else f", {seconds / self.done * (self.total - self.done):.0f} s left"
        print(f"{self.stage}{count}: {seconds:.1f} s{left}, peak {size_text(peak)}", file=self.stream)


@dataclass
class BarProgress:
    """A bar for the stage at work: what, i/N, peak memory, time left. It leaves nothing behind."""

    stream: TextIO
    peak: Callable[[], int]
    stage: str = ""
    bars: RichProgress = field(init=False)
    task: TaskID | None = None

    def __post_init__(self) -> None:
        """Builds the bar."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("peak {task.fields[peak]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=self.stream),
            transient=True,
        )

    def __enter__(self) -> BarProgress:
        """Starts drawing."""
        self.bars.start()
        return self

    def __exit__(self, *failure: object) -> None:
        """Takes the bar down."""
        self.bars.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        """Moves the bar; a new stage starts a new one."""
        from qcompiler.report.words import size_text

        peak = size_text(self.peak())
        if stage != self.stage or self.task is None:
            if self.task is not None:
                self.bars.remove_task(self.task)
            self.stage = stage
            self.task = self.bars.add_task(stage, total=total or None, completed=done, peak=peak)
        else:
            self.bars.update(self.task, total=total or None, completed=done, peak=peak)

    def log(self, line: str) -> None:
        """Writes the line above the bar."""
        self.bars.console.print(line, markup=False, highlight=False)
