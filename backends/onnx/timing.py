"""How long emitted files take in onnxruntime: whole calls, and a lone layer apart from what is around it.

Files are run in turns, so that a busy machine slows all of them alike. With one thread a call is timed by the time that
the processor spent on it, which other processes do not change; kernels are timed by the profile of the runtime, whose
clock has ticks of a microsecond.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from qcompiler.backends.onnx.dtypes import as_numpy
from qcompiler.backends.onnx.session import Session, open_session
from qcompiler.clocks import Part, Times
from qcompiler.cost import summary

WARM_UP = 5
_KERNEL = "_kernel_time"
_LAYOUTS = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_Call = tuple[Session, Mapping[str, np.ndarray]]
_QUIET = 3
"""One call of so many is quick enough to be told of."""
_TICK = 1e-6
"""Times of a profile are whole ticks, rounded down: half a tick is missing on average."""


def time_calls(
    files: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
) -> list[list[float]]:
    """Seconds of each call of each file; arguments as of `target.Clocks.calls`."""
    calls = [_call(path, given, threads) for path, given in zip(files, inputs, strict=True)]
    # Every second call counts: the caches then hold what the file needs, as when one model runs again and again.
    twice = [call for call in calls for _ in range(2)]
    return [taken[WARM_UP:] for taken in _in_turns(twice, threads, WARM_UP + runs)[1::2]]


def time_parts(
    files: Sequence[Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, runs: int
) -> list[list[Times]]:
    """Seconds of the parts of each call of each file; arguments as of `target.Clocks.parts`.

    The profile tells how a call divides; what the divided call takes is told by one without a profile, less the call of
    a file that does next to nothing.
    """
    with tempfile.TemporaryDirectory(prefix="qcompiler-profile-") as folder:
        nothing = Path(folder) / "nothing.onnx"
        onnx.save(_nothing(), str(nothing))
        plain = [_call(nothing, [torch.zeros(1)], threads)]
        plain += [_call(path, given, threads) for path, given in zip(files, inputs, strict=True)]
        profiled = [
            _call(path, given, threads, Path(folder) / str(number))
            for number, (path, given) in enumerate(zip(files, inputs, strict=True))
        ]
        taken = _in_turns([*plain, *profiled], threads, WARM_UP + runs)[: len(plain)]
        profiles = [Path(session.inner.end_profiling()).read_text() for session, _ in profiled]
    alone, *whole = [summary(seconds[WARM_UP:])[0] for seconds in taken]
    divided = [[parts_of(call) for call in calls_of(json.loads(text))[-runs:]] for text in profiles]
    # Nothing takes less than the smallest kernel, which is in the call of a file that does next to nothing.
    return [scaled(calls, max(seconds - alone, 0.0) + _TICK) for calls, seconds in zip(divided, whole, strict=True)]


def scaled(calls: Sequence[Times], whole: float) -> list[Times]:
    """The parts of the quickest calls, which shall take `whole` seconds in the middle.

    Args:
        calls: of one layer, as its profile tells.
        whole: seconds of a call without a profile.

    A profile tells of time on the wall: on a busy machine other processes interrupt most of the long calls, and what
    they take is ascribed to whichever kernel was running. The quickest calls were not interrupted.
    """
    quiet = sorted(calls, key=lambda call: sum(call.values()))[: -(-len(calls) // _QUIET)]
    factor = whole / max(summary([sum(call.values()) for call in quiet])[0], _TICK)
    return [{part: seconds * factor for part, seconds in call.items()} for call in quiet]


def _in_turns(calls: Sequence[_Call], threads: int, rounds: int) -> list[list[float]]:
    clock = time.thread_time if threads == 1 else time.perf_counter
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for (session, feed), taken in zip(calls, found, strict=True):
            started = clock()
            session.inner.run(None, feed)
            taken.append(clock() - started)
    return found


def _nothing() -> onnx.ModelProto:
    value, result = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y"))
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "nothing", [value], [result])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def calls_of(events: Sequence[Mapping[str, object]]) -> list[list[tuple[str, float]]]:
    """Operator type and seconds of each kernel, in order, for each call that a profile tells of."""
    calls: list[list[tuple[str, float]]] = []
    kernels: list[tuple[str, float]] = []
    for event in events:
        arguments, ticks = event.get("args"), event.get("dur")
        if event.get("name") == "model_run":
            calls.append(kernels)
            kernels = []
        elif isinstance(arguments, dict) and isinstance(ticks, int) and str(event.get("name")).endswith(_KERNEL):
            kernels.append((str(arguments.get("op_name", "")), (ticks + 0.5) * _TICK))
    return calls


def parts_of(kernels: Sequence[tuple[str, float]]) -> Times:
    """The time of a lone layer apart from the changes of numbers and of layout in front of it and behind it."""
    kinds = [kind for kind, _ in kernels]
    around = _LAYOUTS | _VIEWS | {"QuantizeLinear", "DequantizeLinear"}
    inside = [place for place, kind in enumerate(kinds) if kind not in around]
    # A layer that only moves values is all layout.
    first, last = (inside[0], inside[-1]) if inside else (len(kinds), -1)
    found: dict[Part, float] = dict.fromkeys(("enter", "layout in", "operator", "layout out", "leave"), 0.0)
    for place, (kind, seconds) in enumerate(kernels):
        found[_part(kind, before=inside != [] and place < first, behind=inside != [] and place > last)] += seconds
    return found


def _part(kind: str, before: bool, behind: bool) -> Part:
    if kind == "QuantizeLinear" and not behind:
        return "enter"
    if kind == "DequantizeLinear" and not before:
        return "leave"
    if kind in _LAYOUTS and (before or behind):
        return "layout in" if before else "layout out"
    return "operator"


def _call(path: Path, inputs: Sequence[torch.Tensor], threads: int, profile: Path | None = None) -> _Call:
    """A session and its inputs by name; the runtime has left out those that nothing reads."""
    session = open_session(path, threads=threads, profile=profile)
    names = [value.name for value in onnx.load(str(path), load_external_data=False).graph.input]
    values = dict(zip(names, inputs, strict=True))
    return session, {name: as_numpy(values[name].contiguous()) for name in session.inputs}
