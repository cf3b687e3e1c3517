"""A plan made earlier, or edited by hand, put back on the program it was made for.

Formula   assignment of each node = the plan's
Shapes    any
Promise   Annotates
Needs     nothing: neither data nor the target's choice
Source    own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import SpecError
from qcompiler.ir.program import Node, Program, Stage, all_nodes
from qcompiler.passes.allocate.uniform import slot_spec
from qcompiler.pipeline import Annotates, Context, Promise
from qcompiler.plan import Assignment, Plan
from qcompiler.spec import QuantSpec
from qcompiler.target import Kernel, Slot


@dataclass(frozen=True)
class UsePlan:
    """Annotates the program from a plan file.

    Args:
        path: a `plan.json`.
        plan: the plan itself, instead of a path.
    """

    path: str = ""
    plan: Plan | None = None
    name: ClassVar[str] = "use_plan"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Annotates()

    def run(self, program: Program, ctx: Context) -> Program:
        """Annotates the nodes.

        Raises:
            InputError: when the plan cannot be read or names nodes that the program lacks.
            SpecError: when the plan asks for what the target's kernels do not do.
        """
        plan = self.plan if self.plan is not None else Plan.load(self.path)
        plan.check(program)
        kernels = {kernel.name: kernel for kernel in ctx.target.kernels}
        for node in program.nodes:
            node.meta.pop("assignment", None)
            node.meta.pop("refusal", None)
            node.meta["asked"] = plan.scheme
            if node.name in plan.assignments:
                chosen = plan.assignments[node.name]
                if chosen.kernel not in kernels:
                    raise SpecError(
                        f"the plan asks for kernel '{chosen.kernel}', which {ctx.target.name} lacks",
                        where=f"%{node.name}",
                        mend=f"the plan was made for {plan.target}; kernels here: {', '.join(sorted(kernels))}",
                    )
                problem = misfit(program, node, chosen, kernels[chosen.kernel])
                if problem:
                    raise SpecError(
                        f"the plan asks for what kernel '{chosen.kernel}' of {ctx.target.name} does not do: {problem}",
                        where=f"%{node.name} = {program.op(node)}",
                        mend=f"the plan was made for {plan.target}; `qcompiler targets` lists what each kernel takes",
                    )
                node.meta["assignment"] = chosen
            elif node.name in plan.refusals:
                node.meta["refusal"] = plan.refusals[node.name]
        return program


def misfit(program: Program, node: Node, chosen: Assignment, kernel: Kernel) -> str:
    """Why a kernel cannot do what an assignment asks of it on this node, empty when it can."""
    arguments = program.bind(node)
    if program.op(node) not in kernel.ops:
        return f"it computes {', '.join(kernel.ops)}"
    missing = [name for name, slot in kernel.slots.items() if slot.need == "must" and name not in chosen.inputs]
    if missing:
        return f"{missing[0]} in float"
    for name, spec in chosen.inputs.items():
        tensors = list(all_nodes(arguments.get(name)))
        if name not in kernel.slots or not tensors:
            return f"{name}, which is none of its arguments"
        if not _takes(program, kernel.slots[name], tensors[0], spec):
            return f"{name} as {spec}"
    if chosen.result is None:
        return "a result in float" if kernel.result.need == "must" else ""
    places = [node, *(user for user in node.users if program.op(user) in kernel.absorbs)]
    at = next((place for place in places if place.name == chosen.result_at), None)
    if at is None:
        return f"a result at %{chosen.result_at}"
    return "" if _takes(program, kernel.result, at, chosen.result) else f"a result as {chosen.result}"


def _takes(program: Program, slot: Slot, tensor: Node, spec: QuantSpec) -> bool:
    if any(accept.anything for accept in slot.accepts):
        return True
    offered = [slot_spec(program, slot, tensor, number) for accept in slot.accepts for number in accept.numbers()]
    return _shape_of(spec) in [_shape_of(other) for other in offered]


def _shape_of(spec: QuantSpec) -> tuple[object, ...]:
    """What a kernel cares for; in which format scales were rounded is no matter of its own."""
    return spec.format, spec.symmetric, spec.dynamic, [level.block for level in spec.levels]
