"""What a checkpoint is made of, found in a quantized or lowered program: codes by the names of the source model, the
rest of its parameters, and what no checkpoint can say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from qcompiler.errors import InputError, UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program, Stage, all_nodes
from qcompiler.ir.region import named_regions
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec, dequantize

STEP = "export"
_QUANTIZING = frozenset({"qc.quantize", "qc.dequantize", "qc.choose_qparams", "qc.kernel", ops.GETITEM})
_ROUNDED_BIAS = "biases lie on the grid of the target's accumulators, no longer on that of the source model"
_WIDEST_WEIGHT = 8
_EMBEDDING = "aten.embedding"
_SHOWN = 8
_MEND = "keep these layers in float (assign{keep=...}), or choose another recipe or another format"


@dataclass(frozen=True)
class Activation:
    """How a layer's input is quantized.

    Args:
        spec: its numbers.
        scale: float32, one number; None when it is found at run time.
        zero_point: whole number in float32; None when symmetric or found at run time.
    """

    spec: QuantSpec
    scale: Tensor | None
    zero_point: Tensor | None


@dataclass(frozen=True)
class Layer:
    """One quantized weight.

    Args:
        codes: grid values in a float carrier.
        scales: one tensor per level, innermost first.
        zero_point: None when symmetric.
        spec: the numbers.
        activation: of the input of the operator that reads it; None when that is float.
        looked_up: whether rows of it are picked, as of an embedding.
    """

    codes: Tensor
    scales: tuple[Tensor, ...]
    zero_point: Tensor | None
    spec: QuantSpec
    activation: Activation | None = None
    looked_up: bool = False

    def reals(self) -> Tensor:
        """The weight that the program computes with, float32."""
        scale = self.scales[0] if len(self.scales) == 1 else self.scales
        return dequantize(self.codes.float(), scale, self.zero_point, self.spec)


@dataclass(frozen=True)
class Contents:
    """A checkpoint before it has a format.

    Args:
        layers: by the name of the weight in the source model.
        plain: all other parameters, by name.
        floats: modules whose matrix stays in float.
        lost: what the checkpoint does not say, one line each.
    """

    layers: Mapping[str, Layer]
    plain: Mapping[str, Tensor]
    floats: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


def contents_of(program: Program, faithful: Collection[str]) -> Contents:
    """The weights of a program under the names of the model that it came from.

    Args:
        program: at stage quantized or lowered, all scales found.
        faithful: steps whose operators compute what the source model does; what another step adds, such as a rotation
            at run time, has no place in a checkpoint.

    Raises:
        InputError: for a program at another stage, or with nothing quantized in it.
        UnsupportedError: naming every operator and parameter that the source model lacks.
    """
    if program.stage not in (Stage.QUANTIZED, Stage.LOWERED):
        raise InputError(
            f"a program at stage {program.stage} has no codes to export",
            where=f"program @{program.name}",
            step=STEP,
            mend="export an artefact, or a program after its weights were solved",
        )
    found = _Collector(program)
    found.problems.extend(_added(program, faithful))
    for node in program.nodes:
        found.look(node)
    found.rest()
    if not found.layers:
        raise InputError(
            "no weight of the program is quantized",
            where=f"program @{program.name}",
            step=STEP,
            mend="compile with a recipe that quantizes weights",
        )
    refuse(found.problems, "the source model has no place for what the compilation made")
    return Contents(found.layers, found.plain, tuple(dict.fromkeys(found.floats)), tuple(found.lost))


def refuse(problems: Collection[str], what: str, mend: str = _MEND) -> None:
    """Raises UnsupportedError that names all problems; does nothing when there is none."""
    if not problems:
        return
    shown = list(dict.fromkeys(problems))
    more = f"; and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    raise UnsupportedError(
        what,
        where="; ".join(shown[:_SHOWN]) + more,
        step=STEP,
        mend=mend,
    )


def _added(program: Program, faithful: Collection[str]) -> Iterator[str]:
    """Operators that the compilation put beside those of the source model."""
    for node in program.nodes:
        step = program.origin(node).step
        if step not in faithful and program.op(node) not in _QUANTIZING:
            yield f"operator %{node.name} ({program.op(node)}), made by {step}"
    if named_regions(program):
        yield "branches and loops, whose weights have no names of their own"


@dataclass(frozen=True)
class _Part:
    """An operand in codes."""

    codes: Node
    scales: tuple[Node, ...]
    zero_point: Node | None
    spec: QuantSpec

    @property
    def stored(self) -> bool:
        return self.codes.op == "get_attr"

    @property
    def nodes(self) -> Iterator[Node]:
        yield from (self.codes, *self.scales, *([] if self.zero_point is None else [self.zero_point]))


@dataclass
class _Collector:
    program: Program
    layers: dict[str, Layer] = field(default_factory=dict)
    plain: dict[str, Tensor] = field(default_factory=dict)
    floats: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    owners: dict[str, Node] = field(default_factory=dict)
    used: set[Node] = field(default_factory=set)

    def look(self, node: Node) -> None:
        """Takes the weights and the bias that one operator reads."""
        if node.target in (ops.quantize, ops.dequantize):
            bound = self.program.bind(node)
            self.used.update(all_nodes([bound["scale"], bound["zero_point"]]))
            return
        result = self.program.bind(node).get("result") if node.target is not ops.kernel else node.kwargs.get("result")
        self.used.update(all_nodes(result))
        parts = [part for argument in node.args for part in self.parts(argument)]
        self.used.update(source for part in parts for source in part.nodes)
        module = self.program.origin(node).module
        read = next((self.activation(part) for part in parts if not part.stored), None)
        for part in parts:
            if part.stored and part.spec.bits <= _WIDEST_WEIGHT:
                self.weight(module, part, read, _EMBEDDING in (self.program.op(node), node.kwargs.get("op")))
            elif part.stored:
                self.bias(module, part)
        self.floating(node, module)

    def parts(self, argument: object) -> Iterator[_Part]:
        """The operands in codes of one argument: dequantized values, and those of a kernel."""
        if isinstance(argument, Node) and argument.target is ops.dequantize:
            bound = self.program.bind(argument)
            argument = [bound["codes"], bound["scale"], bound["zero_point"]]
        if not isinstance(argument, list | tuple) or len(argument) != 3 or not isinstance(argument[0], Node):
            return
        codes, scale, zero_point = argument[0], argument[1], argument[2]
        type_ = self.program.type(codes)
        if isinstance(type_, TensorType) and type_.spec is not None:
            yield _Part(
                codes, tuple(all_nodes(scale)), zero_point if isinstance(zero_point, Node) else None, type_.spec
            )

    def weight(self, module: str, part: _Part, read: Activation | None, looked_up: bool) -> None:
        name = self.name(part.codes, module, "weight")
        if self.owners.setdefault(name, part.codes) is not part.codes:
            self.problems.append(f"several weights called '{name}'")
        elif name not in self.layers or self.layers[name].activation is None:
            zero_point = None if part.zero_point is None else self.program.param(part.zero_point)
            scales = tuple(self.program.param(scale) for scale in part.scales)
            codes = self.program.param(part.codes)
            self.layers[name] = Layer(codes, scales, zero_point, part.spec, read, looked_up)

    def activation(self, part: _Part) -> Activation:
        scale, zero_point = self.program.constant(part.scales[0]), self.program.constant(part.zero_point)
        return Activation(part.spec, scale, zero_point)

    def bias(self, module: str, part: _Part) -> None:
        """A bias that the target adds in its accumulators, as the real numbers that it stands for."""
        scales = tuple(self.program.param(scale) for scale in part.scales)
        reals = Layer(self.program.param(part.codes), scales, None, part.spec).reals()
        self.plain[self.name(part.codes, module, "bias")] = reals
        if _ROUNDED_BIAS not in self.lost:
            self.lost.append(_ROUNDED_BIAS)

    def floating(self, node: Node, module: str) -> None:
        """What stays in float: a matrix without codes, a bias that a pass made anew."""
        for param in node.all_input_nodes:
            if param.op != "get_attr" or param in self.used:
                continue
            rank = self.program.tensor_type(param).rank
            if rank == 2 and self.program.op(node) == "aten.linear":
                self.floats.append(module)
            if rank == 1 and str(param.target).endswith(".bias"):
                self.plain[self.name(param, module, "bias")] = self.program.param(param)
                self.used.add(param)

    def rest(self) -> None:
        """All parameters that nothing above has taken."""
        for param in self.program.param_nodes:
            if param not in self.used:
                self.plain[str(param.target)] = self.program.param(param)

    def name(self, param: Node, module: str, part: str) -> str:
        """The name in the source model: the parameter's own when it lies in the module that reads it."""
        own = str(param.target).removesuffix(".codes")
        inside = own.startswith(f"{module}.") if module else "." not in own
        return own if inside else f"{module}.{part}".removeprefix(".")
