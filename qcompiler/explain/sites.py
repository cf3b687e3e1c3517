"""Where a quantized program reads other numbers than its float one, and how much they differ on a batch.

Operators of both programs are matched by name. A site is a pair of nodes, one of each program, that matched operators
read at the same places of their arguments. Adding its error to what the float program's operators read there makes
them compute, operator by operator, what the quantized program computes, whatever stands between its operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcompiler.errors import UnsupportedError
from qcompiler.ir import ops
from qcompiler.ir.interp import check_inputs, compute
from qcompiler.ir.program import Node, Program, all_nodes
from qcompiler.stats import Batch

RESULT = "output"
"""Name of the reader of the results."""


@dataclass(frozen=True)
class Site:
    """A tensor that the quantized program reads otherwise.

    Args:
        exact: node of the float program.
        noisy: node of the quantized program that is read in its stead.
        readers: names of the operators, in order; `output` for the results.
        constant: whether it depends on no input.
    """

    exact: Node
    noisy: Node
    readers: tuple[str, ...]
    constant: bool

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.exact.name


@dataclass(frozen=True)
class Sites:
    """All sites of two programs.

    Args:
        reference: the float program, at stage canonical.
        quantized: at stage quantized.
        sites: in order of the float program's first readers.
        by_edge: site of each (reader, node read) of the float program; None stands for the results.
        matched: names of operators and inputs that both programs have.
    """

    reference: Program
    quantized: Program
    sites: tuple[Site, ...]
    by_edge: Mapping[tuple[Node | None, Node], Site]
    matched: frozenset[str]


@dataclass
class _Finder:
    reference: Program
    quantized: Program
    constant: frozenset[Node]
    edges: dict[tuple[Node | None, Node], Node] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)

    def find(self) -> Sites:
        others = {node.name: node for node in self.quantized.graph.nodes}
        for node in self.reference.graph.nodes:
            other = others.get(node.name)
            if node.op == "placeholder" and other is not None and other.op == "placeholder":
                self.matched.add(node.name)
            elif node.op == "call_function" and node not in self.constant and other is not None:
                self.match(node, other)
        for node, other in zip(self.reference.outputs, self.quantized.outputs, strict=True):
            self.edges[None, node] = other
        return self.grouped()

    def match(self, node: Node, other: Node) -> None:
        """Notes what two operators of one name read, if they are the same one."""
        own, its = (list(all_nodes((item.args, item.kwargs))) for item in (node, other))
        pairs = dict(zip(own, its, strict=False))
        alike = node.target is other.target and len(own) == len(its)
        if alike and all(pairs[a] is b for a, b in zip(own, its, strict=True)):
            self.matched.add(node.name)
            self.edges.update({(node, source): read for source, read in pairs.items()})

    def grouped(self) -> Sites:
        groups: dict[tuple[Node, Node], list[Node | None]] = {}
        for (reader, source), read in self.edges.items():
            if not self.same(source, read):
                groups.setdefault((source, read), []).append(reader)
        by_edge: dict[tuple[Node | None, Node], Site] = {}
        sites: list[Site] = []
        for (source, read), readers in groups.items():
            names = tuple(RESULT if reader is None else reader.name for reader in readers)
            sites.append(Site(source, read, names, source in self.constant))
            by_edge.update({(reader, source): sites[-1] for reader in readers})
        return Sites(self.reference, self.quantized, tuple(sites), by_edge, frozenset(self.matched))

    def same(self, source: Node, read: Node) -> bool:
        """Whether both programs certainly read the same number there."""
        if source.op == "get_attr" and read.op == "get_attr":
            one, other = self.reference.params[str(source.target)], self.quantized.params[str(read.target)]
            return one is other
        return source.name == read.name and source.name in self.matched and source not in self.constant


def find_sites(reference: Program, quantized: Program) -> Sites:
    """Where a quantized program reads other numbers than the float one.

    Args:
        reference: at stage canonical.
        quantized: at stage quantized.

    Raises:
        UnsupportedError: when the programs have no operator in common, or other results.
    """
    if len(reference.outputs) != len(quantized.outputs):
        raise UnsupportedError("the quantized program has other results than the float one")
    found = _Finder(reference, quantized, constants(reference)).find()
    if reference.nodes and not any(node.name in found.matched for node in reference.nodes):
        raise UnsupportedError(
            "no operator of the quantized program has the name of one of the float program",
            mend="compare a program with the canonical one that it was made of",
        )
    return found


def constants(program: Program) -> frozenset[Node]:
    """Nodes that depend on no input."""
    found: set[Node] = set()
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and sources and all(item in found for item in sources)):
            found.add(node)
    return frozenset(found)


def all_values(program: Program, batch: Batch) -> dict[Node, object]:
    """The value of every node of a program on a batch, without gradients."""
    check_inputs(program, batch)
    values: dict[Node, object] = dict(zip(program.inputs, batch, strict=True))
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op in ("get_attr", "call_function"):
                values[node] = compute(program, node, values)
    return values


@dataclass(frozen=True)
class Record:
    """One batch through both programs.

    Args:
        sites: where they differ.
        batch: flat inputs.
        exact: value of each node of the float program.
        noisy: value of each node of the quantized program.
        meant: by site, what the float program's operators would have read there from the quantized stream.
        errors: by site, what was read minus what was meant: floating, in the tensor's shape.
    """

    sites: Sites
    batch: Batch
    exact: Mapping[Node, object]
    noisy: Mapping[Node, object]
    meant: Mapping[Site, Tensor]
    errors: Mapping[Site, Tensor]

    @property
    def wanted(self) -> list[Tensor]:
        """The float results."""
        return [value for node in self.sites.reference.outputs if isinstance(value := self.exact[node], Tensor)]

    @property
    def found(self) -> list[Tensor]:
        """The results of the quantized program."""
        return [value for node in self.sites.quantized.outputs if isinstance(value := self.noisy[node], Tensor)]


def record(sites: Sites, batch: Batch, exact: Mapping[Node, object] | None = None) -> Record:
    """Runs a batch through both programs and takes down the error of every site.

    Raises:
        UnsupportedError: when a tensor has another shape in the quantized program.
    """
    exact = all_values(sites.reference, batch) if exact is None else exact
    noisy = all_values(sites.quantized, batch)
    meant_values = _meant(sites, exact, noisy)
    meant: dict[Site, Tensor] = {}
    errors: dict[Site, Tensor] = {}
    for site in sites.sites:
        one, other = meant_values[site.exact], noisy[site.noisy]
        if not isinstance(one, Tensor) or not isinstance(other, Tensor) or not one.is_floating_point():
            continue
        if one.shape != other.shape:
            raise UnsupportedError(
                f"'%{site.name}' has shape {list(one.shape)} in the float program and {list(other.shape)} in the other"
            )
        if not (site.constant and torch.equal(one, other)):
            meant[site], errors[site] = one, other - one
    return Record(sites, batch, exact, noisy, meant, errors)


def _meant(sites: Sites, exact: Mapping[Node, object], noisy: Mapping[Node, object]) -> dict[Node, object]:
    """Values of the float program's nodes computed from the quantized program's own results."""
    by_name = {node.name: node for node in sites.quantized.graph.nodes}
    constant = constants(sites.reference)
    values: dict[Node, object] = {}
    with torch.no_grad():
        for node in sites.reference.graph.nodes:
            if node.op == "output":
                continue
            if node in constant or node.op == "get_attr":
                values[node] = exact[node]
            elif node.name in sites.matched:
                values[node] = noisy[by_name[node.name]]
            else:
                values[node] = compute(sites.reference, node, values)
    return values


def run_with(sites: Sites, batch: Batch, added: Mapping[Site, Tensor]) -> list[Tensor]:
    """The float program with something added at sites; gradients flow to what is added.

    Shapes: added as the tensors of their sites -> the floating results.
    """
    program = sites.reference
    values: dict[Node, object] = dict(zip(program.inputs, batch, strict=True))

    def read(reader: Node | None, source: Node) -> object:
        site = sites.by_edge.get((reader, source))
        value, extra = values[source], added.get(site) if site is not None else None
        return value + extra if extra is not None and isinstance(value, Tensor) else value

    remaining = {node: len(node.users) for node in program.graph.nodes}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            values[node] = compute(program, node, values)
        elif node.op == "call_function":
            values[node] = compute(program, node, {source: read(node, source) for source in node.all_input_nodes})
        for source in node.all_input_nodes:
            remaining[source] -= 1
            if not remaining[source] and source not in program.outputs:
                del values[source]
    results = [read(None, node) for node in program.outputs]
    return [value for value in results if isinstance(value, Tensor)]


def square_error(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
    """Sum of squared differences of floating results, in float64; differentiable."""
    pairs = [(a, b) for a, b in zip(wanted, found, strict=True) if a.is_floating_point()]
    return sum(((b.double() - a.double()).square().sum() for a, b in pairs), torch.zeros((), dtype=torch.float64))


def is_dequantized(node: Node) -> bool:
    """Whether a node turns codes into numbers."""
    return node.target is ops.dequantize
