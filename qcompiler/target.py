"""Targets: what a device's kernels accept, as data that passes can ask.

A `Kernel` row says which operator it implements, which numbers it takes at each argument, whether the result must be
quantized for it to be chosen, and what may be absorbed. Placement, allocation and the audit all follow from the rows;
no pass holds a list of operators of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch

from qcompiler.accept import Accept
from qcompiler.cost import Roofline
from qcompiler.errors import SpecError
from qcompiler.formats import scale_format
from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.ir.types import TensorType
from qcompiler.qparams import stored_spec
from qcompiler.spec import Number, QuantSpec, Scheme, bits_per_element

Need = Literal["must", "may", "float"]
_STORED = "for example stored: [conv 8, linear_weight_only 4|8]"
_STORED_ROW = re.compile(r"(\w+) (\d+(?:\|\d+)*)")


@dataclass(frozen=True)
class Slot:
    """What a kernel takes at one argument, or yields as its result.

    Args:
        accepts: numbers in order of preference; none means float.
        need: `must` be quantized for this kernel to be chosen, `may` be, or stays `float`.
        weight: the argument is a parameter and follows the scheme's weight number.
        channel_axis: output-channel axis of a weight.
        reduce_axis: axis of a weight that is summed over, along which groups run.
    """

    accepts: tuple[Accept, ...] = ()
    need: Need = "must"
    weight: bool = False
    channel_axis: int = 0
    reduce_axis: int = 1

    def resolve(self, scheme: Scheme) -> Number | None:
        """The number this slot gets under a scheme; exact matches first, then the kernel's preference.

        A scale per token that is found at run time also serves a request for one per tensor: it is never less exact.
        """
        request = scheme.weight if self.weight else scheme.activation
        if request is None:
            return None
        finer = request.dynamic and request.granularity == "tensor"
        for wanted in (request, replace(request, granularity="token")) if finer else (request,):
            found = [number for accept in self.accepts if (number := accept.resolve(wanted))]
            if found:
                return request if request in found else found[0]
        return None

    def keeps(self, spec: QuantSpec) -> Number | None:
        """The number of a weight that its checkpoint stores as codes of `spec`; None when the slot does not take it."""
        number = Number.of(spec, self.channel_axis, self.reduce_axis)
        taken = number is not None and any(accept.resolve(number) == number for accept in self.accepts)
        return number if taken else None


@dataclass(frozen=True)
class Kernel:
    """One routine of a target.

    Args:
        name: unique within the target; the backend finds its meaning and its template by it.
        ops: operators it implements.
        slots: by argument name; arguments not named stay float.
        result: the result.
        absorbs: operators that may stand between the operator and the quantization of its result.
        joins: quantized only where all its inputs already are, so that integers flow through (adds, pools, concats).
        carries: the result has the scale and zero point of the inputs (which must share them).
        realised: names under which the runtime shows this kernel after its own optimization.
        guards: names of predicates of the backend that must hold too.
        one_group: all that it takes in groups has groups of one size.
        note: why the row is as it is; shown with refusals.
    """

    name: str
    ops: tuple[str, ...]
    slots: Mapping[str, Slot]
    result: Slot = field(default_factory=lambda: Slot(need="float"))
    absorbs: tuple[str, ...] = ()
    joins: bool = False
    carries: bool = False
    realised: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    note: str = ""
    one_group: bool = False


@dataclass(frozen=True)
class Choice:
    """A kernel chosen for one node: the number of each quantized argument, and of the result if it has one."""

    kernel: Kernel
    numbers: Mapping[str, Number]
    result: Number | None


Guard = Callable[[Program, Node], str]
Runner = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True)
class LayerAudit:
    """What was asked of one layer and what the runtime really runs.

    Args:
        name: node name in the program.
        module: source module path.
        op: operator, such as `aten.conv2d`.
        requested: the numbers asked for, such as `int8 x uint8`; `float` when nothing was.
        realised: the runtime's kernel.
        ok: whether the realised kernel is the requested one.
        reason: why not, or why the layer was left in float.
        mend: what would change it.
    """

    name: str
    module: str
    op: str
    requested: str
    realised: str
    ok: bool
    reason: str = ""
    mend: str = ""


class Backend(Protocol):
    """The code behind a target family; `backends/<name>` holds one."""

    name: str
    guards: Mapping[str, Guard]

    def lower(self, program: Program, target: Target) -> Program:
        """Quantized program to kernel calls."""
        ...

    def emit(self, program: Program, target: Target, folder: Path) -> Sequence[str]:
        """Writes the deployable files of a lowered program; returns their names."""
        ...

    def audit(self, program: Program, target: Target, folder: Path) -> Sequence[LayerAudit]:
        """Reads back from the runtime what it makes of the emitted files; empty when the runtime is not here."""
        ...

    def meanings(self) -> Mapping[str, Callable[..., object]]:
        """What each kernel computes, for the interpreter at stage lowered."""
        ...

    def runner(self, folder: Path) -> Runner:
        """Runs the emitted files: flat inputs to flat results."""
        ...


@runtime_checkable
class Foresees(Protocol):
    """A backend that can say of a canonical program, before any work on it, what it will not be able to write."""

    def check(self, program: Program, target: Target) -> None:
        """Raises UnsupportedError that names every such operator, its first node and source module."""
        ...


@runtime_checkable
class Annotates(Protocol):
    """A backend whose files can say what made them."""

    def annotate(self, folder: Path, model: Mapping[str, str], nodes: Mapping[str, Mapping[str, str]]) -> None:
        """Adds properties to the emitted files: of the whole, and of what became of each program node."""
        ...


@dataclass(frozen=True)
class Target:
    """A device: kernels in order of preference and settings of its backend.

    Args:
        name: of the device.
        backend: the code behind it.
        kernels: in order of preference.
        description: one line for people.
        settings: of the backend, and what the compiler itself asks for.
        device: its peaks, by which kernels that nobody measured are modelled; None when they are not known.
        companions: names of targets for which the same quantized program is written too.
    """

    name: str
    backend: Backend
    kernels: tuple[Kernel, ...]
    description: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)
    device: Roofline | None = None
    companions: tuple[str, ...] = ()

    def with_settings(self, changes: Mapping[str, object]) -> Target:
        """The device with other settings of its backend, such as `{"opset": 17}`; the backend checks them."""
        return replace(self, settings={**self.settings, **changes})

    @property
    def passes(self) -> tuple[str, ...]:
        """Texts of passes that this target wants right after the canonical ones."""
        wanted = self.settings.get("passes", ())
        return tuple(str(text) for text in wanted) if isinstance(wanted, list | tuple) else ()

    @cached_property
    def stored_widths(self) -> Mapping[str, tuple[int, ...]]:
        """The widths in which codes of a kernel's weight can be stored, by the kernel's name.

        Raises:
            SpecError: when the setting cannot be read.
        """
        rows = self.settings.get("stored", ())
        if not isinstance(rows, list | tuple):
            raise SpecError(f"target {self.name}: stored is no list", mend=_STORED)
        matches = [_STORED_ROW.fullmatch(str(row)) for row in rows]
        if None in matches:
            raise SpecError(f"target {self.name}: '{rows[matches.index(None)]}' is no width", mend=_STORED)
        return {match[1]: tuple(map(int, match[2].split("|"))) for match in matches if match}

    def stored_bits(self, kernel: str, spec: QuantSpec, shape: Sequence[int]) -> float:
        """Bits that one element of a weight takes in the emitted files, scales and zero points included.

        Args:
            kernel: name of the row that reads it.
            spec: of the weight; one in parts is stored as it says.
            shape: of the weight.
        """
        bits = bits_per_element(spec, shape)
        if spec.parts is not None:
            return bits
        scales = sum(
            math.prod(int(size) for size in level.scale_shape(shape))
            * (self._stored("scale", scale_format(level.scale).bits) - scale_format(level.scale).bits)
            for level in spec.levels
        )
        return bits + self._stored(kernel, spec.bits) - spec.bits + scales / math.prod(shape)

    def _stored(self, name: str, bits: int) -> int:
        return min((width for width in self.stored_widths.get(name, ()) if width >= bits), default=bits)

    def choose(self, program: Program, node: Node, scheme: Scheme) -> Choice | Refusal:
        """The first kernel that takes `node` under `scheme`.

        Returns:
            the choice, or a Refusal that says for each candidate why not.
        """
        op = program.op(node)
        candidates = [kernel for kernel in self.kernels if op in kernel.ops]
        if not candidates:
            return Refusal(f"{self.name} has no low-bit kernel for {op}", node.name)
        reasons: list[str] = []
        for kernel in candidates:
            choice = self._try(program, node, scheme, kernel)
            if isinstance(choice, Choice):
                return choice
            reasons.append(f"{kernel.name}: {choice}")
        return Refusal("; ".join(reasons), node.name, len(reasons))

    def _try(self, program: Program, node: Node, scheme: Scheme, kernel: Kernel) -> Choice | str:
        arguments = program.bind(node)
        numbers: dict[str, Number] = {}
        for name, slot in kernel.slots.items():
            problem = slot_problem(program, slot, arguments.get(name))
            if problem:
                return f"{name} {problem}"
            stored = stored_spec(program, arguments.get(name)) if slot.weight else None
            number = slot.keeps(stored) if stored is not None else slot.resolve(scheme)
            if number is None and (slot.need == "must" or stored is not None):
                return _not_taken(name, stored or (scheme.weight if slot.weight else scheme.activation))
            if number is not None and slot.need != "float":
                numbers[name] = number
        left = scheme.activation is not None and not _activation_slots(kernel) and not kernel.joins
        if left and _reads_activations(program, node):
            return f"leaves activations in float, {scheme.name} asks for {scheme.activation}"
        if scheme.activation is None and _activation_slots(kernel):
            return "quantizes activations"
        sizes = {number.group_size for number in numbers.values()}
        if kernel.one_group and len(sizes) > 1:
            return f"its groups are of {' and '.join(map(str, sorted(sizes)))}, its kernel takes one size"
        problems = (self.backend.guards[name](program, node) for name in kernel.guards)
        if problem := next(filter(None, problems), ""):
            return problem
        result = kernel.result.resolve(scheme) if kernel.result.need != "float" else None
        if result is None and kernel.result.need == "must":
            return _not_taken("its result", scheme.activation)
        return Choice(kernel, numbers, result)


def slot_problem(program: Program, slot: Slot, argument: object) -> str:
    """Why an argument cannot stand in a slot, empty when it can."""
    if slot.weight:
        is_param = argument is not None and getattr(argument, "op", "") == "get_attr"
        return "" if is_param or stored_spec(program, argument) is not None else "is not a constant weight"
    nodes = list(all_nodes(argument))
    if not nodes:
        return "is not a tensor"
    if any(node.op == "get_attr" for node in nodes):
        return "is a constant"
    types = [program.type(node) for node in nodes]
    reals = all(isinstance(type_, TensorType) and type_.is_float for type_ in types)
    return "" if reals else "is not floating point"


def _not_taken(what: str, request: Number | QuantSpec | None) -> str:
    if request is None:
        return f"{what} must be quantized for it, and the scheme leaves it in float"
    return f"{what} as {request} is not accepted"


def _reads_activations(program: Program, node: Node) -> bool:
    """Whether the operator reads real numbers besides its parameters; a look-up table reads none."""
    values = [source for source in node.all_input_nodes if source.op != "get_attr"]
    types = [program.type(value) for value in values]
    return any(isinstance(type_, TensorType) and type_.is_float for type_ in types)


def _activation_slots(kernel: Kernel) -> bool:
    return any(not slot.weight and slot.need != "float" for slot in kernel.slots.values())
