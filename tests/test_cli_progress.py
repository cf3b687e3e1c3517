"""Progress of a compilation on the error stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from qcompiler.cli.progress import BarProgress, NoProgress, PlainProgress, make_progress
from qcompiler.cli.sources import call_factory
from qcompiler.errors import InputError
from qcompiler.job import prepare
from tests.cli_tools import make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module, its data, an ONNX file and a program."""
    return make_folder(tmp_path_factory.mktemp("cli"))


def ticking(*times: float) -> Iterator[float]:
    yield from times


def test_plain_progress_has_one_line_per_stage() -> None:
    stream = io.StringIO()
    times = ticking(0, 1, 2, 2, 3)
    with PlainProgress(stream, lambda: 5_000_000, clock=lambda: next(times)) as progress:
        progress.update("1/2 calibrate", 0, 0)
        progress.update("1/2 calibrate", 3, 8)
        progress.update("2/2 nearest", 0, 0)
        progress.log("hello")
    assert stream.getvalue() == "1/2 calibrate 3/8: 2.0 s, peak 5 MB\nhello\n2/2 nearest: 1.0 s, peak 5 MB\n"


def test_plain_progress_tells_the_time_left_of_a_long_stage() -> None:
    stream = io.StringIO()
    times = ticking(0, 12, 12)
    progress = PlainProgress(stream, lambda: 0, clock=lambda: next(times))
    progress.update("calibrate", 0, 8)
    progress.update("calibrate", 2, 8)
    assert "calibrate 2/8: 12.0 s, 36 s left" in stream.getvalue()


def test_a_failed_stage_is_not_reported_as_done() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, lambda: 0)
    progress.update("read", 0, 0)
    progress.__exit__(InputError, InputError("no"), None)
    assert stream.getvalue() == ""


def test_progress_follows_the_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(make_progress("auto", io.StringIO()), PlainProgress)
    assert isinstance(make_progress("none", Terminal()), NoProgress)
    bar = make_progress("auto", Terminal(), lambda: 123_000_000)
    assert isinstance(bar, BarProgress)
    with bar:
        bar.update("3/9 calibrate", 0, 0)
        bar.update("3/9 calibrate", 2, 8)
        task = bar.bars.tasks[0]
        assert (task.completed, task.total, task.fields["peak"]) == (2, 8, "123 MB")
        bar.update("4/9 nearest", 0, 0)
        assert [task.description for task in bar.bars.tasks] == ["4/9 nearest"]


def test_the_runner_reports_samples_of_each_step(folder: Path) -> None:
    from qcompiler.job import run_job
    from qcompiler.pipeline import Options

    seen: list[tuple[str, int, int]] = []
    options = Options(check="off", progress=lambda stage, done, total: seen.append((stage, done, total)))
    model = call_factory(folder / "net.py", "build")
    samples = [torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))] * 3
    run_job(prepare(model, calibration=samples, recipe="w8a8", options=options))
    calibrating = [event for event in seen if event[0].endswith(" calibrate")]
    assert [done for _, done, _ in calibrating][:4] == [0, 1, 2, 3]
    assert {total for _, done, total in calibrating if done} == {3}
