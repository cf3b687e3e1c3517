"""A program whose layers lie in a library, as a torch module: layers are calls of `qcompiler::cuda_layer`, everything
between them is ATen in the library's floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.fx.node import map_arg

from qcompiler.backends.cuda.execution import COUNTERS, digest_of, opened
from qcompiler.backends.cuda.layer import Port
from qcompiler.backends.cuda.library import WEIGHTS_FILE, Library
from qcompiler.backends.cuda.settings import DTYPES
from qcompiler.errors import UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.program import Node, Program
from qcompiler.ir.types import TensorType
from qcompiler.spec import QuantSpec

_WIDE = torch.float32
_OF_NUMBERS = (ops.quantize, ops.dequantize, ops.choose_qparams)


def module_of(program: Program, folder: Path) -> torch.fx.GraphModule:
    """The module of a program, on this processor until it is moved.

    Takes flat inputs and returns the flat results as a list, floats in the types that the program says.

    Args:
        program: calls a layer by each `qc.kernel`.
        folder: of the library.

    Raises:
        UnsupportedError: for a program with regions in other floats than float32.
        InputError: when the folder holds no library.
    """
    digest = digest_of(folder)
    library = opened(str(folder), digest).library
    compute = DTYPES[library.compute]
    if program.regions and compute != _WIDE:
        raise UnsupportedError(
            f"branches and loops of the model compute in float32, the library in {library.compute}",
            mend="set compute=float32",
        )
    builder = _Builder(program, library, compute, (str(folder), digest))
    builder.add_weights(load_file(folder / WEIGHTS_FILE))
    for node in program.graph.nodes:
        builder.add(node)
    return torch.fx.GraphModule(builder.holder, builder.graph, class_name="OnDevice")


class _Numbers(torch.nn.Module):
    """An operator of numbers that no layer took, such as a dequantizer in front of an operator without a kernel."""

    def __init__(self, operator: Callable[..., object], names: tuple[str, ...], spec: QuantSpec) -> None:
        super().__init__()
        self.operator, self.names, self.spec = operator, names, spec

    def forward(self, *arguments: object) -> object:
        """What the operator yields; arguments are those of the names."""
        return self.operator(**dict(zip(self.names, arguments, strict=True)), spec=self.spec)


class _Builder:
    """The graph while it is built."""

    def __init__(self, program: Program, library: Library, compute: torch.dtype, place: tuple[str, str]) -> None:
        self.program, self.library, self.compute, self.place = program, library, compute, place
        self.layers = {layer.name: layer for layer in library.layers}
        self.holder = torch.nn.Module()
        self.graph = torch.fx.Graph()
        self.made: dict[Node, Node] = {}
        self.weights: dict[str, Node] = {}

    def add_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Keeps packed weights and counters."""
        for index, (name, tensor) in enumerate(tensors.items()):
            # In the file they lie at any place; kernels read vectors.
            self.weights[name] = self._kept(f"packed_{index}", tensor.clone())
        self.weights[COUNTERS] = self._kept(COUNTERS, torch.zeros(self.library.counters, dtype=torch.int32))

    def add(self, node: Node) -> None:
        """Adds what became of a node."""
        match node.op:
            case "placeholder":
                made = self.graph.placeholder(node.name)
                self.made[node] = self._cast(made) if self._is_wide(node) else made
            case "get_attr":
                value = self.program.param(node).detach()
                exact = all(self._spec(user) is not None for user in node.users)
                self.made[node] = self._kept(f"param_{len(self.made)}", value if exact else self._narrow(value))
            case "output":
                self.graph.output([self._widened(result) for result in self.program.outputs])
            case _:
                self.made[node] = self._called(node)

    def _called(self, node: Node) -> Node:
        if node.target is ops.kernel:
            return self._layer(node)
        spec = self._spec(node)
        return self._call(node) if spec is None else self._numbers(node, spec)

    def _spec(self, node: Node) -> QuantSpec | None:
        found = self.program.bind(node).get("spec") if node.target in _OF_NUMBERS else None
        return found if isinstance(found, QuantSpec) else None

    def _numbers(self, node: Node, spec: QuantSpec) -> Node:
        """A call whose spec is a module's, because code that fx writes can name none.

        Scales and codes are float32 there: half precision holds neither small scales nor many codes.
        """
        bound = {key: value for key, value in self.program.bind(node).items() if key != "spec"}
        name = f"numbers_{len(self.made)}"
        self.holder.add_module(name, _Numbers(ops.op_target(self.program.op(node)), tuple(bound), spec))
        given = map_arg(tuple(bound.values()), self._widened)
        found = self.graph.call_module(name, given)  # pyright: ignore[reportArgumentType]
        return self._cast(found) if node.target is ops.dequantize else found

    def _widened(self, source: Node) -> Node:
        return self._cast(self.made[source], _WIDE) if self._is_wide(source) else self.made[source]

    def _layer(self, node: Node) -> Node:
        layer = self.layers[str(node.args[0])]
        sources = [source for source in node.args[1:] if isinstance(source, Node)]
        inputs = [self._as_port(source, port) for source, port in zip(sources, layer.inputs, strict=True)]
        weights = [self.weights[f"{layer.name}.{name}"] for name in layer.weights]
        arguments = (inputs, [*weights, self.weights[COUNTERS]], *self.place, layer.name)
        found = self.graph.call_function(torch.ops.qcompiler.cuda_layer.default, arguments)
        one = isinstance(self.program.type(node), TensorType)
        return self.graph.call_function(ops.op_target(ops.GETITEM), (found, 0)) if one else found

    def _as_port(self, source: Node, port: Port) -> Node:
        """Reals as a layer reads them: some kernels take half precision, whatever the model computes in."""
        made = self.made[source]
        if not port.dtype.is_floating_point or port.dtype == self._floats(source):
            return made
        return self.graph.call_method("to", (made, port.dtype))

    def _floats(self, source: Node) -> torch.dtype:
        """In which a value is held: the library's floats, and what a layer with several results says of each."""
        index = source.args[1] if self.program.op(source) == ops.GETITEM else None
        if not isinstance(index, int) or source.all_input_nodes[0].target is not ops.kernel:
            return self.compute
        return self.layers[str(source.all_input_nodes[0].args[0])].outputs[index].dtype

    def _call(self, node: Node) -> Node:
        args, kwargs = map_arg((node.args, dict(node.kwargs)), lambda source: self.made[source])
        kwargs = {**kwargs, **self._stated(node)}
        return self.graph.call_function(node.target, self._fit(args), self._fit(kwargs))  # pyright: ignore

    def _stated(self, node: Node) -> dict[str, torch.dtype]:
        """The dtype of a tensor made from numbers alone, where the call leaves it to torch's default."""
        bound = self.program.bind(node)
        read = any(isinstance(self.program.type(source), TensorType) for source in node.all_input_nodes)
        unstated = "dtype" in bound and bound["dtype"] is None
        return {"dtype": self.compute} if unstated and not read and self._is_wide(node) else {}

    def _fit(self, value: object) -> object:
        """Arguments with float32 replaced by the library's floats, and numbers that those can hold."""
        if isinstance(value, list | tuple):
            return type(value)(self._fit(item) for item in value)
        if isinstance(value, dict):
            return {key: self._fit(item) for key, item in value.items()}
        if value is _WIDE:
            return self.compute
        if isinstance(value, float) and value not in (float("inf"), float("-inf")):
            limit = torch.finfo(self.compute).max
            return min(max(value, -limit), limit)
        return value

    def _cast(self, node: Node, dtype: torch.dtype | None = None) -> Node:
        to = dtype or self.compute
        return node if self.compute == _WIDE else self.graph.call_method("to", (node, to))

    def _narrow(self, value: Tensor) -> Tensor:
        return value.to(self.compute) if value.dtype == _WIDE else value

    def _is_wide(self, node: Node) -> bool:
        type_ = self.program.type(node)
        return isinstance(type_, TensorType) and type_.dtype == _WIDE

    def _kept(self, name: str, value: Tensor) -> Node:
        self.holder.register_buffer(name, value)
        return self.graph.get_attr(name)
