"""Regions: programs inside a program, which `qc.cond`, `qc.loop` and `qc.scan` run.

A region is a value among the arguments of its operator, as a spec is: it is never written to. Who changes one puts
another in its place, so that copies of a program share their regions. It has parameters of its own; everything else
that it reads is an input of it. Its types use the symbols of the program around it, and symbols that only it uses.
Low-bit numbers do not occur in regions: at every stage beyond traced, a region is at stage canonical.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from qcompiler.ir import ops
from qcompiler.ir.fill import Fill, resolve
from qcompiler.ir.nodes import all_nodes
from qcompiler.ir.program import Node, Program, Signature, Stage

# names that the printer gives to specs, which share the mark @
_SPEC_NAME = re.compile(r"q\d+")

INSIDE = "inside a region (control flow): stays in float"
"""Why a layer is not quantized."""
MEND_INSIDE = "move the layer out of the branch or loop; a branch on a free size goes away when that size is fixed"


@dataclass(frozen=True, eq=False)
class Region:
    """A program as an argument; calling it runs it.

    Args:
        program: takes tensors or sizes, yields tensors.
        widen: whether it computes in float64.
    """

    program: Program
    widen: bool = False

    def __call__(self, *inputs: object) -> list[object]:
        """The results for one value per input."""
        from qcompiler.ir.interp import evaluate_values  # evaluation stands above

        return evaluate_values(self.program, inputs, widen=self.widen)

    def __len__(self) -> int:
        """Number of results."""
        return len(self.program.outputs)

    def nothing(self, result: int) -> torch.Tensor:
        """No runs of a result stacked: a first axis of size 0, and free sizes 0 too."""
        type_ = self.program.tensor_type(self.program.outputs[result])
        dtype = torch.float64 if self.widen and type_.dtype.is_floating_point else type_.dtype
        return torch.zeros([0, *(dim if isinstance(dim, int) else 0 for dim in type_.shape)], dtype=dtype)


def nested_stage(stage: Stage) -> Stage:
    """The stage of the regions of a program at `stage`."""
    return Stage.TRACED if stage is Stage.TRACED else Stage.CANONICAL


def regions_of(node: Node) -> dict[str, Region]:
    """The regions among the arguments of a node, by argument name; they are always keyword arguments."""
    if not ops.runs_regions(node.target):
        return {}
    arguments = {name: node.kwargs.get(name) for name in ops.REGION_OPS[ops.op_name(node.target)].regions}
    return {name: value for name, value in arguments.items() if isinstance(value, Region)}


def named_regions(program: Program) -> dict[str, Region]:
    """Every region that operators of `program` run, in order of first use, by its name made unique."""
    found: dict[str, Region] = {}
    for node in program.nodes:
        for region in regions_of(node).values():
            if region not in found.values():
                found[_free_name(region.program.name, found)] = region
    return found


def _free_name(name: str, taken: Mapping[str, Region]) -> str:
    wanted = f"{name}_region" if _SPEC_NAME.fullmatch(name) else name
    unique, count = wanted, 1
    while unique in taken:
        unique, count = f"{wanted}_{count}", count + 1
    return unique


def nested_programs(program: Program, path: str = "") -> Iterator[tuple[str, Program]]:
    """A program and all regions inside it, at any depth, each with its path such as `then/body/`; its own is empty."""
    yield path, program
    for name, region in named_regions(program).items():
        yield from nested_programs(region.program, f"{path}{name}/")


def nested_params(program: Program) -> dict[str, torch.Tensor | Fill]:
    """The parameters of a program and of its regions, those of a region under `region/name`."""
    return {f"{path}{name}": value for path, each in nested_programs(program) for name, value in each.params.items()}


def nested_param_nodes(program: Program) -> Iterator[tuple[str, Program, Node]]:
    """Every parameter node of a program and of its regions: its name as in `nested_params`, its program, the node."""
    for path, each in nested_programs(program):
        for node in each.param_nodes:
            yield f"{path}{node.target}", each, node


def resolve_params(program: Program, weights: Mapping[str, torch.Tensor]) -> None:
    """Replaces digests by the tensors of these names, in regions too; see `fill.resolve`."""
    for path, each in nested_programs(program):
        known = {name.removeprefix(path): value for name, value in weights.items() if name.startswith(path)}
        each.params = resolve(each.params, known)


def inner_layers(node: Node) -> Iterator[tuple[str, Program, Node]]:
    """Operators with weights that the regions of `node` run: a name such as `cond/then/conv`, the region, the node."""
    for region in dict.fromkeys(regions_of(node).values()):
        for path, program in nested_programs(region.program, f"{node.name}/{region.program.name}/"):
            for inner in program.nodes:
                weight = program.bind(inner).get("weight")
                if isinstance(weight, Node) and len(program.shape(weight)) > 1:
                    yield f"{path}{inner.name}", program, inner


def captures_of(node: Node) -> list[Node]:
    """What an operator with regions hands to the last inputs of each of them; its last positional argument."""
    return list(all_nodes(node.args[-1]))


def map_regions(program: Program, change: Callable[[Program], Program]) -> None:
    """Puts `change(region)` in the place of every region of `program`; one that two operators run stays one."""
    made: dict[Region, Region] = {}
    for node in program.nodes:
        change_regions(program, node, change, made)


def change_regions(
    program: Program, node: Node, change: Callable[[Program], Program], made: dict[Region, Region] | None = None
) -> None:
    """Puts `change(region)` in the place of the regions of one node; `made` holds what was changed already."""
    known = {} if made is None else made
    regions = regions_of(node)
    for region in regions.values():
        if region not in known:
            known[region] = Region(change(region.program))
    if regions:
        kwargs = {**node.kwargs, **{name: known[region] for name, region in regions.items()}}
        program.set_args(node, node.args, kwargs)  # pyright: ignore[reportArgumentType]


def with_signature(region: Program) -> Program:
    """`region` with the signature that its inputs and results have now."""
    region.signature = Signature.flat(len(region.inputs), len(region.outputs))
    return region


def copy_deep(program: Program) -> Program:
    """A copy whose regions can be written to as well."""
    copy = program.copy()
    map_regions(copy, copy_deep)
    copy.edits = program.edits
    return copy


def widened(value: object) -> object:
    """A region that computes in float64; anything else as it is."""
    return replace(value, widen=True) if isinstance(value, Region) else value
