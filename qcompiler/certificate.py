"""The proof beside a change of basis: what each value of a program has become, for somebody else to check.

Surgery says for every value that it changes how: `claim`, or `hide` where old and new value are not meant to relate,
such as what a norm yields once its gain is folded away. The claims are kept with the nodes, so that they travel with
the program. A certificate is the program before, the program after and what was claimed in between. To check it,
nothing of this package is needed but the reader of the text form: every value that both programs hold under one name,
and that is not hidden, is computed in both from the nearest such values, and must have become what is claimed of it,
which is nothing at all where nothing is said. From input to result, these small equations prove the whole.

| kind         | a row vector v becomes          | values                   |
|--------------|---------------------------------|--------------------------|
| `orthogonal` | `v · T`                         | T [fibres, size, size]   |
| `general`    | `v · T`, dual: `v · T^-T`       | T [fibres, size, size]   |
| `centring`   | `v · T`, T = 1 - 1/size         | T [fibres, size, size]   |
| `scale`      | `v * s ** exponent`             | s [fibres, size]         |
| `shift`      | `v + exponent * t`              | t [fibres, size]         |
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from qcompiler.analysis.groups import Place, SymmetryGroup
from qcompiler.ir.fill import is_absent
from qcompiler.ir.program import Node, Program
from qcompiler.ir.region import nested_param_nodes, nested_params
from qcompiler.ir.text import print_program
from qcompiler.stats import Batch

BasisKind = Literal["orthogonal", "general", "centring", "scale", "shift"]
BEFORE, AFTER = "before", "after"
CLAIMS_FILE, TENSOR_FILE = "claims.json", "claims.safetensors"
_KEY = "claims"


@dataclass(frozen=True, eq=False)
class Basis:
    """What acts on the coordinates; one basis serves many claims.

    Args:
        kind: see the module's table.
        values: float64.
    """

    kind: BasisKind
    values: torch.Tensor


@dataclass(frozen=True, eq=False)
class Claim:
    """How a value is changed.

    Args:
        basis: what acts.
        place: on which coordinates, and which fibre of the basis on which of them.
        dual: acts as the transposed inverse.
        exponent: of a scale; factor of a shift.
    """

    basis: Basis
    place: Place
    dual: bool = False
    exponent: int = 1


@dataclass(frozen=True)
class Hidden:
    """Says that a value is not meant to relate to the one of the same name before."""


def claim(node: Node, made: Claim | Hidden) -> None:
    """Says of the value of `node`, which was changed by surgery, what it has become; later claims act after it."""
    node.meta[_KEY] = (*claims(node), made)


def claim_group(program: Program, group: SymmetryGroup, basis: Basis) -> None:
    """Says that `basis` acts on a group: on the values that bear the names of its ports now, where nodes were replaced.

    The values that no port tells are hidden. A shift is the same at all ports.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    for port in group.ports:
        if port.node.name in nodes:
            exponent = 1 if basis.kind == "shift" else port.exponent
            claim(nodes[port.node.name], Claim(basis, port.place, port.dual, exponent))
    for node in group.scattered:
        if node.name in nodes:
            hide(nodes[node.name])


def hide(node: Node) -> None:
    """Says that the value of `node` does not relate to what it was."""
    claim(node, Hidden())


def claims(node: Node) -> tuple[Claim | Hidden, ...]:
    """What was said of a value, in order."""
    return node.meta.get(_KEY, ())


def certifies(before: Program, after: Program) -> bool:
    """Whether anything was said since `after` was a copy of `before`, be it of new values only, and can be proved."""
    if any(is_absent(value) for value in nested_params(after).values()):
        return False
    old = {node.name: claims(node) for node in before.graph.nodes}
    return any(claims(node) != old.get(node.name, ()) for node in after.graph.nodes if claims(node))


def claims_between(before: Program, after: Program) -> dict[str, tuple[Claim | Hidden, ...]]:
    """What was said, by name of the value, since `after` was a copy of `before`."""
    old = {node.name: claims(node) for node in before.graph.nodes}
    found: dict[str, tuple[Claim | Hidden, ...]] = {}
    for node in after.graph.nodes:
        known = old.get(node.name, ())
        new = claims(node)[len(known) :] if claims(node)[: len(known)] == known else claims(node)
        if new and node.name in old:
            found[node.name] = new
    return found


def write_certificate(before: Program, after: Program, sample: Batch, folder: Path) -> None:
    """Writes both programs, the claims made between them, inputs to try them on, and all parameters.

    Floating-point parameters are written in float64, as they were before they were rounded; the dtypes to which they
    are rounded lie beside them, so that the text's digests can be checked.

    Args:
        before: at stage canonical, with all its weights.
        after: what surgery made of it.
        sample: one tensor per input.
        folder: made when it is not there.

    Raises:
        OSError: when it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in ((BEFORE, before), (AFTER, after)):
        (folder / f"{name}.qir").write_text(print_program(program), encoding="utf-8")
        params, dtypes = _exact_params(program)
        save_file(params, folder / f"{name}.safetensors", metadata=dtypes)
    tables = _Tables()
    values = {name: [tables.row(item) for item in made] for name, made in claims_between(before, after).items()}
    hidden = [name for name, rows in values.items() if any(row is None for row in rows)]
    text = {
        "bases": tables.kinds,
        "hidden": hidden,
        "values": {name: rows for name, rows in values.items() if name not in hidden},
    }
    (folder / CLAIMS_FILE).write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    inputs = {f"input.{index}": value.contiguous().clone() for index, value in enumerate(sample)}
    save_file({**tables.tensors, **inputs}, folder / TENSOR_FILE)


def _exact_params(program: Program) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Values by name, and the dtypes to which they are rounded."""
    found: dict[str, torch.Tensor] = {}
    dtypes: dict[str, str] = {}
    for name, owner, node in nested_param_nodes(program):
        dtype = owner.tensor_type(node).dtype
        value = owner.exact(node) if dtype.is_floating_point else owner.param(node)
        found[name], dtypes[name] = value.detach().contiguous().clone(), str(dtype).removeprefix("torch.")
    return found, dtypes


@dataclass
class _Tables:
    """Numbers the bases and places as they come up."""

    kinds: dict[str, BasisKind] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    names: dict[Basis, str] = field(default_factory=dict)
    places: dict[bytes, str] = field(default_factory=dict)

    def row(self, item: Claim | Hidden) -> dict[str, str | int] | None:
        if isinstance(item, Hidden):
            return None
        return {
            "basis": self.basis(item.basis),
            "axis": item.place.axis,
            "along": -1 if item.place.along is None else item.place.along[0],
            "place": self.place(item.place),
            "dual": item.dual,
            "exponent": item.exponent,
        }

    def basis(self, basis: Basis) -> str:
        if basis not in self.names:
            name = self.names[basis] = f"basis.{len(self.names)}"
            self.kinds[name] = basis.kind
            self.tensors[name] = basis.values.detach().double().contiguous().clone()
        return self.names[basis]

    def place(self, place: Place) -> str:
        along = torch.empty(0) if place.along is None else place.along[1]
        parts = {"index": place.index, "fibre": place.fibre, "at": along}
        whole = {name: part.long().contiguous() for name, part in parts.items()}
        key = "".join(f"{tuple(part.shape)}" for part in whole.values()).encode()
        key += b"".join(part.numpy().tobytes() for part in whole.values())
        if key not in self.places:
            name = self.places[key] = f"place.{len(self.places)}"
            self.tensors.update({f"{name}.{part}": tensor.clone() for part, tensor in whole.items()})
        return self.places[key]
