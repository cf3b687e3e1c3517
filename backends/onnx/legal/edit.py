"""Editing of ONNX graphs for the rules: constants, grids, new nodes that keep the names of the old ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

Attribute = int | float | str | Sequence[int]
_CODES: Mapping[ir.DataType, tuple[int, int]] = {
    ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255),
}


@dataclass(frozen=True)
class Rule:
    """One narrow rewrite.

    Args:
        name: of the rule.
        reason: what the runtime does with the form that was there.
        apply: rewrites around a node if it fits; says whether it did.
    """

    name: str
    reason: str
    apply: Callable[[Editor, ir.Node], bool]


@dataclass
class Editor:
    """One graph that is rewritten in place.

    Args:
        graph: the graph.
        domains: operator sets that rules began to use, with their versions.
    """

    graph: ir.Graph
    domains: dict[str, int] = field(default_factory=dict)
    _named: int = 0

    def constant(self, values: np.ndarray, name: str, dtype: ir.DataType | None = None) -> ir.Value:
        """A new initializer; `dtype` for the types that numpy lacks."""
        unique = self.unique(name)
        tensor = ir.Tensor(values, dtype, name=unique)
        value = ir.Value(
            name=unique, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.initializers[unique] = value
        return value

    def unique(self, name: str) -> str:
        """A name that nothing has."""
        self._named += 1
        return f"{name}.legal{self._named}"

    def before(
        self,
        place: ir.Node,
        kind: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        domain: str = "",
        results: int = 1,
    ) -> ir.Value:
        """A new node in front of `place`; its first result."""
        if domain:
            self.domains[domain] = 1
        name = self.unique(place.name or place.op_type)
        outputs = [ir.Value(name=f"{name}.{number}") for number in range(results)]
        node = ir.node(kind, list(inputs), dict(attributes or {}), domain=domain, outputs=outputs, name=name)
        self.graph.insert_before(place, node)
        return outputs[0]

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Lets everybody read `new`; a result of the graph keeps its name."""
        if old.is_graph_output():
            new.shape, new.type = new.shape or old.shape, new.type or old.type
            name, old.name = old.name, self.unique("replaced")
            new.name = name
            for number, output in enumerate(self.graph.outputs):
                if output is old:
                    self.graph.outputs[number] = new
        ir.convenience.replace_all_uses_with(old, new)


def known(value: ir.Value | None) -> np.ndarray | None:
    """The values of a constant; None for anything else."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is not None and node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor().numpy()
    return None


def dtype_of(value: ir.Value | None) -> ir.DataType | None:
    """The element type of a value."""
    if value is None:
        return None
    return value.const_value.dtype if value.const_value is not None else value.dtype


def maker(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node behind a value when it is one of `kinds`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in kinds else None


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value."""
    return [use.node for use in value.uses()]


def only_reader(value: ir.Value, *kinds: str) -> ir.Node | None:
    """The one reader of a value that is nobody's result, when it is one of `kinds`."""
    found = readers(value)
    fits = len(found) == 1 and not value.is_graph_output() and found[0].op_type in kinds
    return found[0] if fits else None


def number(node: ir.Node, name: str, default: float) -> float:
    """A numeric attribute."""
    found = node.attributes.get(name)
    return default if found is None else float(found.value)


def input_at(node: ir.Node, position: int) -> ir.Value | None:
    """An input; None where it is left out."""
    return node.inputs[position] if position < len(node.inputs) else None


def plain_gemm(node: ir.Node) -> bool:
    """Whether a Gemm has no factors and reads its input as it is."""
    return number(node, "alpha", 1) == 1 and number(node, "beta", 1) == 1 and not number(node, "transA", 0)


def limits(dtype: ir.DataType | None) -> tuple[int, int] | None:
    """Smallest and largest code of an 8-bit type; None for others."""
    return None if dtype is None else _CODES.get(dtype)


@dataclass(frozen=True)
class Grid:
    """A QuantizeLinear or DequantizeLinear with constant scales.

    Args:
        node: the operator.
        scale: float32.
        zero: zero points as int64, shaped like the scale; zeros when they are left out.
        dtype: of the codes.
    """

    node: ir.Node
    scale: np.ndarray
    zero: np.ndarray
    dtype: ir.DataType

    @property
    def single(self) -> bool:
        """Whether it has one scale."""
        return self.scale.size == 1

    def codes(self, reals: np.ndarray | float) -> np.ndarray:
        """Codes of reals on a grid of one scale."""
        low, high = limits(self.dtype) or (0, 0)
        steps = np.rint(np.asarray(reals, np.float32) / self.scale.reshape(()))
        return np.clip(steps + float(self.zero.reshape(())), low, high).astype(np.int64)

    def same(self, other: Grid) -> bool:
        """Whether two grids are equal."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale.reshape(-1), other.scale.reshape(-1))
            and np.array_equal(self.zero.reshape(-1), other.zero.reshape(-1))
        )


def grid_of(node: ir.Node | None) -> Grid | None:
    """The 8-bit grid of a QuantizeLinear or DequantizeLinear; None when it is not constant, or in blocks."""
    if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear") or number(node, "block_size", 0):
        return None
    scale, stored = known(node.inputs[1]), input_at(node, 2)
    dtype = dtype_of(stored)
    if dtype is None and node.op_type == "DequantizeLinear":
        dtype = dtype_of(node.inputs[0])
    elif dtype is None:
        dtype = ir.DataType(int(number(node, "output_dtype", 0)) or ir.DataType.UINT8)
    if scale is None or scale.dtype != np.float32 or limits(dtype) is None or dtype is None:
        return None
    zero = np.zeros(scale.shape, np.int64) if stored is None else known(stored)
    return None if zero is None else Grid(node, scale, zero.astype(np.int64), dtype)
