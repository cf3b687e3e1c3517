"""Uniform allocation: one scheme for the whole program, wherever the target has a kernel for it.

Formula   a node is *quantized* when the target's first fitting kernel row takes it; rows that `join` or `carry` are
          quantized only between quantized neighbours, so integers flow through them and nothing is quantized in vain
Shapes    any
Promise   Annotates: `meta["assignment"]` or `meta["refusal"]` on operator nodes
Needs     the target's kernel rows
Source    placement by kernel capability; own
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from qcompiler.errors import SpecError, UnsupportedError
from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Node, Program, Stage, all_nodes
from qcompiler.ir.region import INSIDE, inner_layers
from qcompiler.ir.types import TensorType
from qcompiler.pipeline import Annotates, Context, Promise
from qcompiler.plan import KEPT, Assignment
from qcompiler.qparams import stored_spec
from qcompiler.spec import Number, QuantSpec, Scheme, parse_scheme
from qcompiler.target import Choice, Slot


@dataclass(frozen=True)
class Assign:
    """Assigns one scheme to every operator that the target can run with it.

    Args:
        scheme: short name such as `w8a8` or `w4a16g32`.
        keep: patterns (`|` between them, `*` and `?` inside) of node names or source module paths that stay float.
        edges: scheme of the first and the last operator with a weight, in graph order, kept ones aside; empty: as the
            rest.
        weight: number of weights instead of the scheme's, such as `fp6e2m3 sym channel scale=f32`; `float` for none.
        activation: number of activations instead of the scheme's, such as `fp8e4m3 sym token scale=f32 dynamic`.
    """

    scheme: str = "w8a8"
    keep: str = ""
    edges: str = ""
    weight: str = ""
    activation: str = ""
    name: ClassVar[str] = "assign"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Annotates()

    def run(self, program: Program, ctx: Context) -> Program:
        """Annotates the nodes.

        Raises:
            SpecError: for an unknown scheme, or a `keep` pattern that matches nothing.
            UnsupportedError: when not one operator can be quantized; says why for each kind.
        """
        kept = kept_nodes(program, self.keep)
        schemes = self._schemes(program, kept)
        choices: dict[Node, Choice] = {}
        without: dict[Node, Refusal] = {}
        for node in program.nodes:
            node.meta.pop("assignment", None)
            node.meta.pop("refusal", None)
            node.meta["asked"] = "float" if node in kept else _asked(program, node, schemes[node])
            _refuse_regions(node)
            if not isinstance(program.type(node), TensorType):
                continue
            choice = KEPT if node in kept else ctx.target.choose(program, node, schemes[node])
            if isinstance(choice, Choice):
                choices[node] = choice
            elif isinstance(choice, str):
                node.meta["refusal"] = choice
            elif _has_weight(program, node) and _asks(program, node, schemes[node]):
                node.meta["refusal"] = choice.reason
            else:
                without[node] = choice
        chosen = connected(program, choices)
        _tell_refused(program, ctx, choices, chosen, without)
        for node, choice in chosen.items():
            node.meta["assignment"] = assignment(program, node, choice)
        if not chosen and not kept:
            reasons = sorted({f"{program.op(n)}: {n.meta['refusal']}" for n in program.nodes if "refusal" in n.meta})
            raise UnsupportedError(
                f"{ctx.target.name} can run no operator of this model as {self.scheme}",
                where="; ".join(reasons[:5]) or "the model has no operator with weights that the target knows",
                mend="choose another recipe; `qcompiler targets` lists what each target takes",
            )
        refused = sum("refusal" in node.meta for node in program.nodes)
        ctx.log(f"{len(chosen)} operators as {self._main_scheme().name}, {refused} refused")
        return program

    def _main_scheme(self) -> Scheme:
        scheme = parse_scheme(self.scheme)
        if not (self.weight or self.activation):
            return scheme
        weight, activation = _number(self.weight, scheme.weight), _number(self.activation, scheme.activation)
        name = ", ".join(f"{what} {number or 'float'}" for what, number in (("w", weight), ("a", activation)))
        return Scheme(weight, activation, name)

    def _schemes(self, program: Program, kept: Collection[Node]) -> dict[Node, Scheme]:
        """The scheme of every node."""
        schemes = dict.fromkeys(program.nodes, self._main_scheme())
        weighted = [node for node in program.nodes if node not in kept and _has_weight(program, node)]
        if self.edges and weighted:
            schemes |= dict.fromkeys((weighted[0], weighted[-1]), parse_scheme(self.edges))
        return schemes


def _number(text: str, otherwise: Number | None) -> Number | None:
    """The number that an option asks for; the scheme's own where it asks for nothing."""
    if not text:
        return otherwise
    return None if text == "float" else Number.parse(text)


def kept_nodes(program: Program, patterns: str) -> set[Node]:
    """Nodes whose name or source module matches one of the patterns.

    Raises:
        SpecError: when a pattern matches nothing.
    """
    kept: set[Node] = set()
    for pattern in filter(None, (part.strip() for part in patterns.split("|"))):
        found = {
            node
            for node in program.nodes
            if fnmatchcase(node.name, pattern) or fnmatchcase(program.origin(node).module, pattern)
        }
        if not found:
            raise SpecError(f"keep pattern '{pattern}' matches no node or module", mend="`qcompiler dump` prints both")
        kept |= found
    return kept


def connected(program: Program, choices: Mapping[Node, Choice]) -> dict[Node, Choice]:
    """Drops joining and carrying operators that do not stand between quantized neighbours."""
    seeds = {node for node, choice in choices.items() if not (choice.kernel.joins or choice.kernel.carries)}
    wanted = {
        source
        for node in seeds
        for name in choices[node].numbers
        for source in activations(program, node, choices[node], name)
    }
    results = {result_node(program, node, choices[node]) for node in seeds if choices[node].result is not None}
    flowing: list[Node] = []
    for node, choice in choices.items():
        if node in seeds:
            continue
        sources = [source for name in choice.numbers for source in activations(program, node, choice, name)]
        if sources and all(source in results or source in wanted for source in sources):
            flowing.append(node)
            results.add(result_node(program, node, choice))
    for node in reversed(flowing):
        choice = choices[node]
        if result_node(program, node, choice) in wanted:
            seeds.add(node)
            wanted.update(source for name in choice.numbers for source in activations(program, node, choice, name))
    return {node: choice for node, choice in choices.items() if node in seeds}


def activations(program: Program, node: Node, choice: Choice, name: str) -> list[Node]:
    """Activation nodes at one argument; empty for weights."""
    return [] if choice.kernel.slots[name].weight else list(all_nodes(program.bind(node)[name]))


def result_node(program: Program, node: Node, choice: Choice) -> Node:
    """The node whose value is quantized as the result: `node`, or the activation that the kernel absorbs."""
    users = list(node.users)
    if len(users) == 1 and program.op(users[0]) in choice.kernel.absorbs and node not in program.outputs:
        return users[0]
    return node


def assignment(program: Program, node: Node, choice: Choice) -> Assignment:
    """The choice with specs of full rank."""
    arguments = program.bind(node)
    inputs = {
        name: slot_spec(program, choice.kernel.slots[name], next(all_nodes(arguments[name])), number)
        for name, number in choice.numbers.items()
    }
    if choice.result is None:
        return Assignment(choice.kernel.name, inputs)
    at = result_node(program, node, choice)
    return Assignment(choice.kernel.name, inputs, slot_spec(program, choice.kernel.result, at, choice.result), at.name)


def slot_spec(program: Program, slot: Slot, node: Node, number: Number) -> QuantSpec:
    """A number made concrete for one tensor."""
    rank = program.tensor_type(node).rank
    if slot.weight:
        return number.spec(rank, slot.channel_axis, slot.reduce_axis)
    return number.spec(rank)


def _tell_refused(
    program: Program,
    ctx: Context,
    choices: Mapping[Node, Choice],
    chosen: Mapping[Node, Choice],
    without: Mapping[Node, Refusal],
) -> None:
    """Says why operators stay in float, for want of a kernel or of neighbours; those that a kernel absorbs do not."""
    absorbed = {result_node(program, node, choice) for node, choice in chosen.items() if choice.result is not None}
    for node, refusal in without.items():
        if node not in absorbed:
            ctx.refuse(node, refusal.reason, depth=refusal.depth)
    for node, choice in choices.items():
        if node not in chosen and node not in absorbed:
            reason = f"{choice.kernel.name} hands integers on, and its neighbours are not all quantized"
            ctx.refuse(node, reason, "quantize what it reads and what reads it", depth=2)


def _refuse_regions(node: Node) -> None:
    """Notes the layers that stay in float because they lie inside the regions of `node`."""
    inner = [name for name, _, _ in inner_layers(node)]
    if inner:
        node.meta["refusal"] = f"{INSIDE}: {', '.join(inner)}"


def _has_weight(program: Program, node: Node) -> bool:
    """Whether a user would expect low bits here: the operator has a weight matrix, kernel or table."""
    weight = program.bind(node).get("weight")
    if not isinstance(weight, Node):
        return False
    constant = weight.op == "get_attr" or stored_spec(program, weight) is not None
    return constant and program.tensor_type(weight).rank > 1


def _stored(program: Program, node: Node) -> QuantSpec | None:
    return stored_spec(program, program.bind(node).get("weight"))


def _asks(program: Program, node: Node, scheme: Scheme) -> bool:
    """Whether low bits are wanted here, by the scheme or by the checkpoint."""
    return scheme.weight is not None or scheme.activation is not None or _stored(program, node) is not None


def _asked(program: Program, node: Node, scheme: Scheme) -> str:
    """What the report says was asked of an operator that stays in float."""
    stored = _stored(program, node)
    return scheme.name if stored is None else f"weight {stored.format.name}, {scheme.name}"
