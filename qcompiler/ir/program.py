"""The graph: ATen and qc operators over typed values, with parameters, stages and provenance, around a torch.fx graph.

Passes edit it only through the methods here and through `Builder`, which infer types, keep provenance and count edits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

import torch
from torch.fx.node import Argument

from qcompiler.errors import InputError, VerifyError
from qcompiler.ir import ops
from qcompiler.ir.faces import Faces
from qcompiler.ir.fill import Fill
from qcompiler.ir.infer import infer
from qcompiler.ir.nodes import all_nodes, identifier, map_nodes
from qcompiler.ir.origin import Origin, Stage
from qcompiler.ir.structure import Signature
from qcompiler.ir.types import Dim, Dimensions, SymbolType, TensorType, TupleType, Type
from qcompiler.spec import QuantSpec

Node = torch.fx.Node
Target = ops.Target


@dataclass(eq=False)
class Program(Faces):
    """One graph with its parameters.

    Args:
        name: identifier used in the text form.
        stage: see `Stage`.
        graph: placeholders (inputs), get_attr nodes (parameters), call_function nodes, one output node. Each value node
            carries `meta["type"]` (a `Type`) and `meta["origin"]` (an `Origin`).
        params: value of each parameter by name: a tensor, shared by reference and never written to, or a `Fill`. The
            tensor may be float64 where the type is narrower (`set_exact`): readers get it rounded.
        dimensions: the symbols of the types.
        signature: how inputs and results are structured.
        states: what the first call starts from, by the name of each input that is a state; see `ir.states`.
        edits: number of edits so far.
    """

    name: str = "program"
    stage: Stage = Stage.TRACED
    graph: torch.fx.Graph = field(default_factory=torch.fx.Graph)
    params: dict[str, torch.Tensor | Fill] = field(default_factory=dict)
    dimensions: Dimensions = field(default_factory=Dimensions)
    signature: Signature = field(default_factory=lambda: Signature.flat(0, 0))
    states: dict[str, torch.Tensor | Fill] = field(default_factory=dict)
    edits: int = 0

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> list[Node]:
        """Input nodes in order."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs as the model calls them."""
        return [str(node.target) for node in self.inputs]

    @property
    def outputs(self) -> list[Node]:
        """The flat result nodes in order."""
        return list(self._output_node.args[0]) if self._has_output else []  # pyright: ignore[reportArgumentType, reportReturnType]

    @property
    def nodes(self) -> list[Node]:
        """Operator nodes in execution order."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @property
    def param_nodes(self) -> list[Node]:
        """Parameter nodes in order."""
        return [node for node in self.graph.nodes if node.op == "get_attr"]

    def node(self, name: str) -> Node:
        """The node called `name`.

        Raises:
            InputError: when there is none.
        """
        for node in self.graph.nodes:
            if node.name == name:
                return node
        raise InputError(f"program @{self.name} has no node '%{name}'", mend="`qcompiler dump` prints the names")

    def type(self, node: Node) -> Type:
        """Type of any value node."""
        return node.meta["type"]

    def tensor_type(self, node: Node) -> TensorType:
        """Type of a node that yields one tensor.

        Raises:
            VerifyError: when it yields something else.
        """
        type_ = node.meta["type"]
        if not isinstance(type_, TensorType):
            raise VerifyError(f"'%{node.name}' is not a tensor", where=str(type_))
        return type_

    def shape(self, node: Node) -> tuple[Dim, ...]:
        """Shape of a tensor node."""
        return self.tensor_type(node).shape

    def origin(self, node: Node) -> Origin:
        """Provenance of a node."""
        return node.meta.get("origin", Origin())

    def param(self, node: Node) -> torch.Tensor:
        """Value of a parameter node (read only)."""
        value = self.rounded(node)
        return value if isinstance(value, torch.Tensor) else value.materialize(self.tensor_type(node))

    def rounded(self, node: Node) -> torch.Tensor | Fill:
        """What stands behind a parameter node, in its dtype."""
        value = self.params[str(node.target)]
        return value.to(self.tensor_type(node).dtype) if isinstance(value, torch.Tensor) else value

    def exact(self, node: Node) -> torch.Tensor:
        """Value of a floating-point parameter node in float64, before it was rounded where that is known."""
        value = self.params[str(node.target)]
        return (value if isinstance(value, torch.Tensor) else value.materialize(self.tensor_type(node))).double()

    def constant(self, value: object) -> torch.Tensor | None:
        """The tensor behind a parameter node; None for anything else."""
        return self.param(value) if isinstance(value, Node) and value.op == "get_attr" else None

    def op(self, node: Node) -> str:
        """Text name of the operator of a call node, such as `aten.conv2d`; empty for inputs and parameters."""
        return ops.op_name(node.target) if node.op == "call_function" else ""

    def bind(self, node: Node) -> dict[str, Argument]:
        """Arguments of a call node by name, defaults filled in."""
        return ops.bind(node.target, node.args, node.kwargs)

    @property
    def regions(self) -> Mapping[str, Program]:
        """The programs that operators of this one run, by name; see `ir.region`."""
        from qcompiler.ir.region import named_regions  # regions hold programs, so that they stand above

        return {name: region.program for name, region in named_regions(self).items()}

    @property
    def _has_output(self) -> bool:
        return any(node.op == "output" for node in self.graph.nodes)

    @property
    def _output_node(self) -> Node:
        return next(node for node in reversed(self.graph.nodes) if node.op == "output")

    # -- making -------------------------------------------------------------------------------------------------------

    def copy(self) -> Program:
        """A Program that can be edited without touching this one; parameter tensors are shared."""
        graph = torch.fx.Graph()
        mapping: dict[Node, Node] = {}
        for node in self.graph.nodes:
            clone = graph.node_copy(node, lambda old: mapping[old])
            clone.meta = dict(node.meta)
            mapping[node] = clone
        return replace(
            self, graph=graph, params=dict(self.params), dimensions=self.dimensions.copy(), states=dict(self.states)
        )

    def add_input(self, name: str, type_: Type) -> Node:
        """Adds an input behind those that are there."""
        first = next((node for node in self.graph.nodes if node.op != "placeholder"), self.graph._root)
        with self.graph.inserting_before(first):
            node = self.graph.create_node("placeholder", name, name=identifier(name))
        node.meta.update(type=type_, origin=Origin())
        return node

    def add_param(
        self,
        name: str,
        value: torch.Tensor | Fill,
        type_: TensorType | None = None,
        step: str = "",
        node_name: str = "",
    ) -> Node:
        """Adds a parameter under a name made unique, its node under `node_name` if given; see `Builder` for a place."""
        unique, count = name, 1
        while unique in self.params:
            unique, count = f"{name}_{count}", count + 1
        if type_ is None:
            if not isinstance(value, torch.Tensor):
                raise VerifyError(f"parameter '{name}' needs a type")
            type_ = TensorType(value.dtype, tuple(value.shape))
        self.params[unique] = value
        node = self.graph.create_node("get_attr", unique, name=identifier(node_name or unique))
        node.meta.update(type=type_, origin=Origin(step=step))
        self.edits += 1
        return node

    def set_outputs(self, nodes: Sequence[Node]) -> None:
        """Declares the flat results, replacing earlier ones."""
        if self._has_output:
            self._output_node.args = (list(nodes),)
        else:
            self.graph.create_node("output", "output", (list(nodes),))
        self.edits += 1

    def before(self, node: Node, step: str = "") -> Builder:
        """A builder that inserts just before `node` and inherits its source module."""
        return Builder(self, lambda: self.graph.inserting_before(node), Origin(self.origin(node).module, step))

    def after(self, node: Node, step: str = "") -> Builder:
        """A builder that inserts after `node` (and after its `getitem`s); successive nodes keep their order."""
        following = node.next
        while following.op == "call_function" and self.op(following) == ops.GETITEM:
            following = following.next
        if node.op in ("placeholder", "get_attr"):
            following = next((n for n in self.graph.nodes if n.op in ("call_function", "output")), following)
        return Builder(self, lambda: self.graph.inserting_before(following), Origin(self.origin(node).module, step))

    def append(self, step: str = "", module: str = "") -> Builder:
        """A builder that adds at the end; what front-ends use."""
        return Builder(self, lambda: self.graph.inserting_before(self.graph._root), Origin(module, step))

    # -- editing ------------------------------------------------------------------------------------------------------

    def replace(self, old: Node, new: Node) -> None:
        """Redirects every use of `old` to `new` and removes `old`; types downstream follow."""
        same_type = old.meta["type"] == new.meta["type"]
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self.erase(old)
        if not same_type:
            self._retype_users(new)

    def redirect(self, user: Node, old: Node, new: Node) -> None:
        """Makes one user read `new` where it read `old`."""
        user.replace_input_with(old, new)
        self.edits += 1
        self._retype(user)

    def set_args(self, node: Node, args: Sequence[Argument], kwargs: Mapping[str, Argument] | None = None) -> None:
        """Gives a call node new arguments."""
        node.args = tuple(args)
        node.kwargs = dict(kwargs or {})
        self.edits += 1
        self._retype(node)

    def set_param(self, node: Node, value: torch.Tensor | Fill, spec: QuantSpec | None = None) -> None:
        """Gives a parameter node a new value; all its users see it. A Fill has the dtype and shape of the old one."""
        self.params[str(node.target)] = value
        like = value if isinstance(value, torch.Tensor) else self.tensor_type(node)
        node.meta["type"] = TensorType(like.dtype, tuple(like.shape), spec)
        self.edits += 1
        self._retype_users(node)

    def set_exact(self, node: Node, value: torch.Tensor) -> None:
        """Gives a floating-point parameter a value in float64: read rounded, rewritten exactly any number of times."""
        self.params[str(node.target)] = value.double()
        node.meta["type"] = TensorType(self.tensor_type(node).dtype, tuple(value.shape))
        self.edits += 1
        self._retype_users(node)

    def settle(self) -> None:
        """Rounds every parameter that is known more exactly than its dtype, which saves memory and time."""
        for node in self.param_nodes:
            self.params[str(node.target)] = self.rounded(node)

    def own_param(self, user: Node, param: Node, step: str = "") -> Node:
        """A parameter node that only `user` reads: `param` itself, or a copy of the reference when it is shared."""
        if len(param.users) == 1:
            return param
        clone = self.before(user, step).param(
            str(param.target), self.params[str(param.target)], self.tensor_type(param)
        )
        self.redirect(user, param, clone)
        return clone

    def rename(self, node: Node, name: str) -> None:
        """Gives a node the name of one that is gone; raises VerifyError when another node bears it."""
        if any(other.name == name for other in self.graph.nodes if other is not node):
            raise VerifyError(f"two nodes cannot both be called '%{name}'")
        node.name = name
        self.edits += 1

    def erase(self, node: Node) -> None:
        """Removes a node without users.

        Raises:
            VerifyError: when somebody still reads it.
        """
        if node.users:
            readers = ", ".join(f"%{user.name}" for user in node.users)
            raise VerifyError(f"'%{node.name}' cannot be removed: {readers} still read it")
        self.graph.erase_node(node)
        self.edits += 1

    def erase_dead(self) -> int:
        """Removes operators and parameters that no result depends on; returns how many nodes went."""
        removed = 0
        for node in reversed(list(self.graph.nodes)):
            if node.op in ("call_function", "get_attr") and not node.users:
                self.erase(node)
                removed += 1
        used = {str(node.target) for node in self.param_nodes}
        for name in [name for name in self.params if name not in used]:
            del self.params[name]
        return removed

    def _retype(self, *nodes: Node) -> None:
        """Infers types anew, in execution order, so that a node is looked at when all its arguments are settled."""
        pending = list(nodes)
        heapify(pending)
        while pending:
            node = heappop(pending)
            if node.op != "call_function" or ops.is_declared(node.target):
                continue
            inferred = infer(self.dimensions, node.target, node.args, node.kwargs)
            if inferred == node.meta["type"]:
                continue
            node.meta["type"] = inferred
            for user in node.users:
                if user not in pending:
                    heappush(pending, user)

    def _retype_users(self, node: Node) -> None:
        self._retype(*node.users)


@dataclass(frozen=True)
class Builder:
    """Adds nodes at one place of a Program; every node gets its inferred type and an origin."""

    program: Program
    place: Callable[[], object]
    origin: Origin

    def call(
        self,
        op: str | Target,
        *args: object,
        kwargs: Mapping[str, object] | None = None,
        name: str | None = None,
        type_: Type | None = None,
    ) -> Node:
        """Adds `op(*args, **kwargs)`.

        Args:
            op: text name such as `aten.add.Tensor`, or the callable.
            args: nodes, numbers, lists, dtypes, specs.
            kwargs: keyword arguments of the operator.
            name: wanted node name; made unique.
            type_: result type where it cannot be inferred (kernel calls, operators with regions).

        Raises:
            VerifyError: when the arguments do not fit.
        """
        target = ops.op_target(op) if isinstance(op, str) else op
        kwargs = dict(kwargs or {})
        inferred = type_ if type_ is not None else infer(self.program.dimensions, target, args, kwargs)  # pyright: ignore[reportArgumentType]
        with self.place():  # pyright: ignore[reportGeneralTypeIssues]
            wanted = identifier(name) if name else None
            node = self.program.graph.create_node("call_function", target, args, kwargs, wanted)  # pyright: ignore[reportArgumentType]
        node.meta.update(type=inferred, origin=self.origin)
        self.program.edits += 1
        return node

    def items(self, node: Node) -> list[Node | None]:
        """The results of a tuple-valued node as `getitem` nodes (existing ones are reused); None where absent."""
        type_ = self.program.type(node)
        if not isinstance(type_, TupleType):
            raise VerifyError(f"'%{node.name}' is not a tuple")
        known = {user.args[1]: user for user in node.users if self.program.op(user) == ops.GETITEM}
        return [
            None if item is None else known.get(i) or self.call(ops.GETITEM, node, i)
            for i, item in enumerate(type_.items)
        ]

    def param(self, name: str, value: torch.Tensor | Fill, type_: TensorType | None = None) -> Node:
        """Adds a parameter (its name is made unique)."""
        with self.place():  # pyright: ignore[reportGeneralTypeIssues]
            return self.program.add_param(name, value, type_, self.origin.step)


__all__ = ["Builder", "Fill", "Node", "Origin", "Program", "Signature", "Stage", "SymbolType", "all_nodes", "map_nodes"]
