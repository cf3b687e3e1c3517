"""Every operator of a model alone, in every way that it may run: what a table of latencies is measured on.

A lone layer is the program with everything else taken away: its operands become inputs, it keeps its weights and the
activation behind it, and it is quantized, lowered and emitted like a whole model. What its operands and its result take
to become codes and reals again is told apart from the layer itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qcompiler.clocks import Clocks, Times
from qcompiler.cost import LatencyTable, Row, fit, summary
from qcompiler.data import sample_inputs
from qcompiler.errors import QCompilerError, UnsupportedError
from qcompiler.ir.program import Node, Program
from qcompiler.passes.allocate import UsePlan
from qcompiler.passes.allocate.predictor import (
    DEQUANTIZE,
    LAYOUT_IN,
    LAYOUT_OUT,
    QUANTIZE,
    Key,
    Predictor,
    activation_behind,
    program_key,
    row_key,
    value_key,
)
from qcompiler.passes.allocate.units import Offer
from qcompiler.passes.calibrate import Calibrate
from qcompiler.passes.lower import ApplyPlan
from qcompiler.passes.solve.nearest import Nearest
from qcompiler.pipeline import Context, Options, run_passes
from qcompiler.plan import Assignment, Plan
from qcompiler.target import Target

RUNS = 30
_LISTED = 400
"""Files that are run in turns: each of them is loaded meanwhile."""


@dataclass(frozen=True)
class Lone:
    """One operator in one way.

    Args:
        key: of its row.
        node: the operator in the whole program.
        assigned: None for float.
        at: the activation right behind it, empty for none.
    """

    key: Key
    node: Node
    assigned: Assignment | None
    at: str


@dataclass(frozen=True)
class Bench:
    """How layers and programs are timed.

    Args:
        target: whose kernels run.
        threads: that one operator may use.
        runs: of each file, after a few that do not count.
        log: takes one line for the user.
    """

    target: Target
    threads: int = 1
    runs: int = RUNS
    log: Callable[[str], None] = lambda line: None

    def empty(self) -> LatencyTable:
        """A table without rows.

        Raises:
            UnsupportedError: when what the target runs on is not here.
        """
        clocks = self._clocks()
        device = clocks.device(self.target, self.threads)
        if device is None:
            raise UnsupportedError(
                f"{self.target.name} runs elsewhere: nothing can be measured on this machine",
                mend="measure where it runs and pass latencies=table.json; without it times are modelled",
            )
        return LatencyTable(device)

    def layers(self, offered: Offer, table: LatencyTable) -> LatencyTable:
        """The table with rows of every operator in every way that an allocation may choose, and of the float program.

        Rows that are there are kept. What cannot be emitted alone is left out and said.
        """
        known = {row.key for row in table.rows}
        missing = [lone for lone in lone_layers(offered, self.target) if lone.key not in known]
        rows: list[Row] = []
        for start in range(0, len(missing), _LISTED):
            rows += self._measured(offered.program, missing[start : start + _LISTED])
        if program_key(offered.program) not in known:
            (seconds,) = self.plans(offered.program, [{}])
            rows.append(_row(program_key(offered.program), seconds))
        self.log(f"measured {len(rows)} rows on {table.device}")
        return table.with_rows(rows)

    def plans(self, program: Program, plans: Sequence[Mapping[str, Assignment]]) -> list[list[float]]:
        """Seconds of every call of the whole program under each plan, run in turns; the numbers in it are made up."""
        with tempfile.TemporaryDirectory(prefix="qcompiler-bench-") as folder:
            folders = [Path(folder) / str(number) for number in range(len(plans))]
            for plan, place in zip(plans, folders, strict=True):
                self.emit(program, plan, place)
            return self._clocks().calls(folders, [sample_inputs(program)] * len(plans), self.threads, self.runs)

    def anchors(self, offered: Offer) -> dict[str, Mapping[str, Assignment]]:
        """Whole plans that say how sums of rows relate to whole programs: float, each uniform one, two mixed ones."""
        chosen = {f"uniform {name}": offered.uniform(name) for name in offered.schemes}
        for step in (1, 2):
            mixed = tuple(place // step % len(unit.options) for place, unit in enumerate(offered.units))
            chosen[f"mixed, {step} in turn"] = mixed
        plans: dict[str, Mapping[str, Assignment]] = {"float": {}}
        return plans | {name: offered.plan(choice) for name, choice in chosen.items()}

    def corrected(
        self, program: Program, table: LatencyTable, plans: Sequence[Mapping[str, Assignment]]
    ) -> tuple[LatencyTable, list[tuple[float, float]]]:
        """The table with the correction that fits whole plans best.

        Returns:
            the table, and of each plan the seconds that its rows add up to and those measured.
        """
        predictor = Predictor(program, table, self.target)
        sums = [predictor.sum(plan) for plan in plans]
        measured = [summary(samples)[0] for samples in self.plans(program, plans)]
        return replace(table, correction=fit(sums, measured)), list(zip(sums, measured, strict=True))

    def _measured(self, program: Program, layers: Sequence[Lone]) -> list[Row]:
        clocks, rows = self._clocks(), []
        emitted: list[tuple[Lone, Program, Path]] = []
        with tempfile.TemporaryDirectory(prefix="qcompiler-bench-") as folder:
            for number, lone in enumerate(layers):
                place = Path(folder) / str(number)
                try:
                    alone = lone_program(program, lone)
                    self.emit(alone, {} if lone.assigned is None else {lone.node.name: lone.assigned}, place)
                except QCompilerError as error:
                    self.log(f"%{lone.node.name} cannot be timed alone: {error.what}")
                else:
                    emitted.append((lone, alone, place))
            if emitted:
                inputs = [sample_inputs(alone) for _, alone, _ in emitted]
                times = clocks.parts([place for *_, place in emitted], inputs, self.threads, self.runs)
                for (lone, alone, _), parts in zip(emitted, times, strict=True):
                    rows += _rows(program, alone, lone, parts)
        return rows

    def emit(self, program: Program, plan: Mapping[str, Assignment], folder: Path) -> None:
        """Quantizes with made-up data, lowers and writes.

        Args:
            program: at stage canonical.
            plan: assignments by name.
            folder: to be made.
        """
        folder.mkdir()
        sample = sample_inputs(program)
        passes = (UsePlan(plan=Plan(assignments=plan)), ApplyPlan(), Calibrate(), Nearest())
        quantized, _ = run_passes(program, passes, Context(self.target), [sample], Options(check="off"), sample)
        backend = self.target.backend
        backend.emit(backend.lower(quantized, self.target), self.target, folder)

    def _clocks(self) -> Clocks:
        if not isinstance(self.target.backend, Clocks):
            raise UnsupportedError(
                f"the backend {self.target.backend.name} cannot be timed", mend="measure on a target that runs here"
            )
        return self.target.backend


def lone_layers(offered: Offer, target: Target) -> list[Lone]:
    """What an allocation may choose between, and the same operators in float; one for each key."""
    found: dict[Key, Lone] = {}
    for node, ways in _ways(offered).items():
        at = activation_behind(offered.program, node, target)
        for way in (None, *ways):
            key = row_key(offered.program, node, way, at)
            found.setdefault(key, Lone(key, node, way, at))
    return list(found.values())


def lone_program(program: Program, lone: Lone) -> Program:
    """The program of one operator; operands are inputs with the sizes that the model was traced with.

    Raises:
        VerifyError: when it does not stand alone.
    """
    alone = program.copy()
    node = alone.node(lone.node.name)
    behind = alone.node(lone.at) if lone.at else node
    given = list(alone.inputs)
    for source in dict.fromkeys(source for source in node.all_input_nodes if source.op != "get_attr"):
        sizes = tuple(program.dimensions.hint(size) for size in alone.shape(source))
        type_ = replace(alone.tensor_type(source), shape=sizes)
        alone.redirect(node, source, alone.add_input(f"{source.name}_alone", type_))
    alone.set_outputs([behind])
    alone.states = {}
    alone.erase_dead()
    for placeholder in given:
        alone.erase(placeholder)
    alone.signature = type(alone.signature).flat(len(alone.inputs), 1)
    return alone


def _ways(offered: Offer) -> Mapping[Node, Sequence[Assignment]]:
    """All assignments of each operator, those of joining and carrying ones included."""
    plans = [offered.plan(offered.uniform(name)) for name in offered.schemes]
    plans += [option.assignments for unit in offered.units for option in unit.options]
    found: dict[Node, list[Assignment]] = {}
    nodes = {node.name: node for node in offered.program.nodes}
    for plan in plans:
        for name, assigned in plan.items():
            known = found.setdefault(nodes[name], [])
            if assigned not in known:
                known.append(assigned)
    return found


def _rows(program: Program, alone: Program, lone: Lone, calls: Sequence[Times]) -> Iterator[Row]:
    """The rows that the parts of one layer tell of."""
    op, kernel, numbers, signature = lone.key
    yield _row(lone.key, [call["operator"] for call in calls])
    for part in (LAYOUT_IN, LAYOUT_OUT):
        if any(call[part] for call in calls):
            yield _row((f"{part} {op}", kernel, numbers, signature), [call[part] for call in calls])
    if lone.assigned is None:
        return
    bound = program.bind(lone.node)
    for name, spec in lone.assigned.inputs.items():
        values = [bound[name]] if isinstance(bound[name], Node) else list(bound[name])  # pyright: ignore[reportArgumentType]
        sources = [value for value in values if isinstance(value, Node) and value.op != "get_attr"]
        if sources and not spec.dynamic:
            each = [call["enter"] / len(alone.inputs) for call in calls]
            yield from (_row(value_key(program, QUANTIZE, source, spec), each) for source in sources)
    if lone.assigned.result is not None:
        at = lone.assigned.result_at
        made = next((user for user in lone.node.users if user.name == at), lone.node)
        yield _row(value_key(program, DEQUANTIZE, made, lone.assigned.result), [call["leave"] for call in calls])


def _row(key: Key, samples: Sequence[float]) -> Row:
    op, kernel, numbers, signature = key
    seconds, spread = summary(samples)
    return Row(
        op=op, kernel=kernel, numbers=numbers, signature=signature, seconds=seconds, spread=spread, runs=len(samples)
    )
