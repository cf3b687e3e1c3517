"""Checks a certificate: that a rewritten program computes what the old one did, value by value, in float64.

    python certificate_checker.py FOLDER

Of what wrote it only the reader of the text form is used. Checked is that every basis is what it says, that inputs and
results are not changed, and every value that both programs hold under one name and that is not hidden: computed in both
from the nearest such values, with the claims applied to what the new program is given, the new value is the old one
with its own claims applied. What is given are values of the old program on the sample inputs, shaken by noise. By
induction along the new program its results are those of the old one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, fx
from torch.fx.node import map_arg

from qcompiler.ir.parse import parse_program

WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
TOLERANCE, WORST_CONDITION, TRIALS, KEYS = 1e-9, 1e8, 2, ("axis", "along", "exponent")


class WrongCertificate(Exception):
    """The certificate does not prove what it says."""


@dataclass
class Side:
    """One of the two programs, computed in float64."""

    params: Mapping[str, Tensor]
    nodes: dict[str, fx.Node]
    inputs: list[str]
    outputs: list[fx.Node]

    def compute(self, node: fx.Node, values: dict[fx.Node, object]) -> object:
        """The value of a node from those in `values`, which is filled with all that had to be computed."""
        pending = [node]
        while pending:
            missing = [source for source in pending[-1].all_input_nodes if source not in values]
            if missing and pending[-1] not in values:
                pending += missing
            else:
                top = pending.pop()
                values[top] = values[top] if top in values else self.run(top, values)
        return values[node]

    def run(self, node: fx.Node, values: Mapping[fx.Node, object]) -> object:
        """One operator or parameter."""
        if node.op == "get_attr":
            return widened(self.params[str(node.target)])
        if node.op != "call_function" or not callable(node.target):
            raise WrongCertificate(f"%{node.name} depends on an input that is not among the values given")
        args = widened_types(map_arg(node.args, values.__getitem__))  # pyright: ignore[reportArgumentType]
        kwargs = widened_types(map_arg(node.kwargs, values.__getitem__))  # pyright: ignore[reportArgumentType]
        return node.target(*args, **kwargs)  # pyright: ignore[reportCallIssue]

    def frontier(self, node: fx.Node, cuts: set[str]) -> set[str]:
        """The nearest values among `cuts` that a node is computed from."""
        seen: set[fx.Node] = set()
        pending = list(node.all_input_nodes)
        while pending:
            source = pending.pop()
            if source not in seen and source.name not in cuts:
                pending += source.all_input_nodes
            seen.add(source)
        return {source.name for source in seen} & cuts


def check(folder: Path) -> int:
    """Checks a certificate; returns the number of values that were compared.

    Raises:
        WrongCertificate: naming the basis or value that is not as claimed.
    """
    text = json.loads((folder / "claims.json").read_text())
    tensors, _ = read_tensors(folder / "claims.safetensors")
    before, after = load(folder / "before"), load(folder / "after")
    for name, kind in text["bases"].items():
        check_basis(name, kind, tensors[name])
    return Checker(before, after, text["values"], set(text["hidden"]), text["bases"], tensors).check()


def load(path: Path) -> Side:
    """A program and its parameters, which rounded to their dtypes must be those of the text."""
    params, dtypes = read_tensors(path.with_suffix(".safetensors"))
    rounded = {name: value.to(getattr(torch, dtypes[name])) for name, value in params.items()}
    program = parse_program(path.with_suffix(".qir").read_text(), rounded)
    for node in program.param_nodes:
        if not torch.equal(program.param(node), rounded[str(node.target)]):
            raise WrongCertificate(f"%{node.name} is not the parameter of the text")
    nodes = {node.name: node for node in program.graph.nodes if node.op != "output"}
    return Side(params, nodes, [node.name for node in program.inputs], program.outputs)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, and what is said of them."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def check_basis(name: str, kind: str, values: Tensor) -> None:
    """That a basis is of its kind."""
    if not values.isfinite().all() or values.dim() != (2 if kind in ("scale", "shift") else 3):
        raise WrongCertificate(f"{name} has values that are not finite, or the wrong shape")
    one = torch.eye(values.shape[-1], dtype=torch.float64)
    right = {
        "orthogonal": lambda: (values @ values.mT - one).abs().max() < TOLERANCE,
        "general": lambda: torch.linalg.cond(values).max() < WORST_CONDITION,
        "centring": lambda: (values - (one - 1 / len(one))).abs().max() < TOLERANCE,
        "scale": lambda: (values > 0).all(),
        "shift": lambda: True,
    }
    if kind not in right or not right[kind]():
        raise WrongCertificate(f"{name} is not {kind}")


@dataclass
class Checker:
    """Compares the two programs."""

    before: Side
    after: Side
    claims: Mapping[str, list[dict[str, object]]]
    hidden: set[str]
    kinds: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def check(self) -> int:
        """Compares inputs, results and every common value; returns how many."""
        inputs, results = self.before.inputs, self.after.outputs
        if inputs != self.after.inputs or len(results) != len(self.before.outputs):
            raise WrongCertificate("the two programs do not have the same inputs and results")
        outside = {*inputs, *(node.name for node in results)}
        for name in outside & (set(self.claims) | self.hidden):
            raise WrongCertificate(f"%{name} is an input or a result, and may not be changed")
        real: dict[fx.Node, object] = {
            self.before.nodes[name]: widened(self.tensors[f"input.{index}"]) for index, name in enumerate(inputs)
        }
        for node in self.before.nodes.values():  # all values of the old program on the sample
            self.before.compute(node, real)
        varying: set[fx.Node] = set()  # what depends on no tensor among the inputs is a constant and looked through
        for node in self.before.nodes.values():
            read = any(n in varying and not isinstance(real[n], int | float) for n in node.all_input_nodes)
            varying |= {node} if read or node.op == "placeholder" else set()
        one = {node.name for node in varying if not isinstance(real[node], list | tuple)} - self.hidden
        cuts = (one | self.claims.keys()) & self.before.nodes.keys() & self.after.nodes.keys()
        for name in self.claims.keys() - cuts:
            raise WrongCertificate(f"%{name} has a claim, but there is no such value in both programs")
        pairs = [(self.before.nodes[n], new) for n, new in self.after.nodes.items() if n in cuts - set(inputs)]
        ends = zip(self.before.outputs, results, strict=True)
        pairs += [(old, new) for old, new in ends if old.name != new.name or old.name not in cuts]
        for old, new in pairs:
            for trial in range(TRIALS):
                self.compare(old, new, cuts, real, noise=0.3 * trial)
        return len(pairs)

    def compare(self, old: fx.Node, new: fx.Node, cuts: set[str], real: Mapping[fx.Node, object], noise: float) -> None:
        """Computes one value in both programs from the nearest common ones."""
        needed, read = self.before.frontier(old, cuts), self.after.frontier(new, cuts)
        if not read <= needed:  # a value that the old one is not computed from cannot be chosen freely
            noise = 0.0
        given = {name: self.shaken(real[self.before.nodes[name]], noise) for name in sorted(needed | read)}
        try:
            wanted = self.before.compute(old, {self.before.nodes[name]: x for name, x in given.items()})
            got = self.after.compute(new, {self.after.nodes[name]: self.changed(name, x) for name, x in given.items()})
            error = distance(self.changed(new.name, wanted), got)
        except (RuntimeError, IndexError, ValueError) as reason:
            raise WrongCertificate(f"%{new.name} cannot be computed: {reason}") from reason
        if not error <= TOLERANCE:
            raise WrongCertificate(
                f"%{new.name} = {new.target} is not what is claimed: error {error:.3g} (allowed {TOLERANCE:.3g})"
            )

    def shaken(self, value: object, noise: float) -> object:
        """Numbers near those of the sample, of the same sign where all have one."""
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel() or not noise:
            return value
        draw, other = torch.rand((2, *value.shape), generator=self.generator, dtype=torch.float64) * 2 - 1
        finite = value[value.isfinite()]
        one_sided = not finite.numel() or finite.min() >= 0 or finite.max() <= 0
        return value * (1 + noise * draw) + (0.0 if one_sided else noise * finite.std() * other)

    def changed(self, name: str, value: object) -> object:
        """A value of the old program as it is claimed to be in the new one."""
        for row in self.claims.get(name, ()):
            value = self.acted(value, row) if isinstance(value, Tensor) else None
        return value

    def acted(self, value: Tensor, row: Mapping[str, object]) -> Tensor:
        """One claim applied."""
        basis, axis, along, exponent = self.tensors[str(row["basis"])], *(int(str(row[k])) for k in KEYS)
        index, fibre, at = (self.tensors[f"{row['place']}.{part}"] for part in ("index", "fibre", "at"))
        result = value.clone()
        for copy, (where, which) in enumerate(zip(index, fibre, strict=True)):
            whole = result if along < 0 else result.select(along, int(at[copy])).unsqueeze(along)
            moved, chosen = whole.movedim(axis, -1), basis[which]
            part = moved[..., where]
            if chosen.dim() == 2:
                part = part @ (torch.linalg.inv(chosen).mT if row["dual"] else chosen)
            else:
                shift = self.kinds[str(row["basis"])] == "shift"
                part = part + exponent * chosen if shift else part * chosen**exponent
            moved[..., where] = part
        return result


def widened(value: Tensor) -> Tensor:
    """Floating-point numbers as float64."""
    return value.to(torch.complex128) if value.is_complex() else value.to(WIDE.get(value.dtype, value.dtype))


def widened_types(value: object) -> object:
    """Arguments in which every floating dtype is float64."""
    if isinstance(value, torch.dtype):
        return WIDE.get(value, value)
    if isinstance(value, list | tuple):
        return type(value)(widened_types(item) for item in value)
    if isinstance(value, dict):
        return {key: widened_types(item) for key, item in value.items()}
    return replace(value, widen=True) if hasattr(value, "widen") else value  # pyright: ignore[reportArgumentType]


def distance(wanted: object, got: object) -> float:
    """Largest difference, relative to the largest number."""
    if not isinstance(wanted, Tensor) or not isinstance(got, Tensor):
        return 0.0 if type(wanted) is type(got) and wanted == got else float("inf")
    if wanted.shape != got.shape or not wanted.numel():
        return float("inf") if wanted.shape != got.shape else 0.0
    wanted, got = wanted.double(), got.double()
    same = (wanted == got) | (wanted.isnan() & got.isnan())
    gap = torch.where(same, 0.0, (wanted - got).abs()).max().item()
    return gap / max(torch.where(wanted.isfinite(), wanted.abs(), 0.0).max().item(), 1e-30)


if __name__ == "__main__":
    try:
        print(f"{check(Path(sys.argv[1]))} values are as claimed")
    except WrongCertificate as wrong:
        sys.exit(f"wrong: {wrong}")
