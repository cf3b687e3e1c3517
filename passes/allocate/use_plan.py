"""A plan made earlier, or edited by hand, put back on the program it was made for.

Formula   assignment of each node = the plan's
Shapes    any
Promise   Annotates
Needs     nothing: neither data nor the target's choice
Source    own
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from qcompiler.budget import Budget
from qcompiler.clocks import Clocks
from qcompiler.cost import LatencyTable
from qcompiler.errors import InputError, SpecError, UnsupportedError
from qcompiler.ir.program import Node, Program, Stage, all_nodes
from qcompiler.passes.allocate.costs import COSTS
from qcompiler.passes.allocate.peak_memory import RESOURCE as PEAK
from qcompiler.passes.allocate.peak_memory import peak_memory
from qcompiler.passes.allocate.predictor import Predictor
from qcompiler.passes.allocate.problem import TOLERANCE, Option, Unit
from qcompiler.passes.allocate.uniform import slot_spec
from qcompiler.pipeline import Annotates, Context, Promise
from qcompiler.plan import MEASURED, ON_PURPOSE, Assignment, Plan
from qcompiler.spec import QuantSpec
from qcompiler.target import Kernel, Slot, Target


@dataclass(frozen=True)
class UsePlan:
    """Annotates the program from a plan file.

    Args:
        path: a `plan.json`.
        plan: the plan itself, instead of a path.
        budget: what the plan may take; average bits are counted over the weights that it quantizes.
        latencies: a table that predicts what the plan takes of a limit of latency. Without it that is measured on the
            artefact where the target runs here, and modelled where it does not.
    """

    path: str = ""
    plan: Plan | None = None
    budget: Budget | None = None
    latencies: str = ""
    name: ClassVar[str] = "use_plan"
    needs: ClassVar[Stage] = Stage.CANONICAL
    gives: ClassVar[Stage] = Stage.CANONICAL
    promise: ClassVar[Promise] = Annotates()

    def with_budget(self, budget: Budget) -> UsePlan:
        """The pass with limits."""
        return replace(self, budget=budget)

    def run(self, program: Program, ctx: Context) -> Program:
        """Annotates the nodes.

        Raises:
            InputError: when the plan cannot be read, names nodes that the program lacks, or exceeds the budget.
            SpecError: when the plan asks for what the target's kernels do not do.
        """
        plan = self.plan if self.plan is not None else Plan.load(self.path)
        plan.check(program)
        kernels = {kernel.name: kernel for kernel in ctx.target.kernels}
        for node in program.nodes:
            node.meta.pop("assignment", None)
            node.meta.pop("refusal", None)
            node.meta["asked"] = "float" if plan.refusals.get(node.name) in ON_PURPOSE else plan.scheme
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
                node.meta[MEASURED] = plan.measured.get(node.name)
            elif node.name in plan.refusals:
                node.meta["refusal"] = plan.refusals[node.name]
        if self.budget is not None:
            check_budget(program, plan, self.budget, ctx)
            if self.budget.latency is not None and (self.latencies or not _runs_here(ctx.target)):
                predictor = self.predictor(program, ctx.target)
                used, reference = predictor.seconds(plan.assignments), predictor.seconds({})
                _check("latency", used, reference, self.budget)
        return program

    def predictor(self, program: Program, target: Target) -> Predictor:
        """What predicts latencies.

        Raises:
            InputError: when the table cannot be read.
            UnsupportedError: when there is none and the target's peaks are not known.
        """
        return Predictor(program, LatencyTable.load(self.latencies) if self.latencies else None, target)


def check_budget(program: Program, plan: Plan, budget: Budget, ctx: Context) -> None:
    """Refuses a plan that takes more than a budget allows of what is counted; the artefact is asked for the rest.

    Raises:
        InputError: naming the limit.
        UnsupportedError: when nothing tells what the plan takes of it.
    """
    unknown = sorted(set(budget.words) - {cost.resource for cost in COSTS} - {"latency", "size", "max_drop", PEAK})
    if unknown:
        raise UnsupportedError(f"nothing tells what {unknown[0]} the plan takes", mend="drop the plan or this limit")
    units = (Unit("plan", (Option("plan", plan.assignments),), tuple(plan.assignments)),)
    found = {cost.resource: cost().measure(program, units, ctx) for cost in COSTS if cost.resource in budget.words}
    found |= peak_memory(program, units) if PEAK in budget.words else {}
    for name, cost in found.items():
        if name != "size":
            _check(name, cost.fixed + cost.table[0][0], cost.reference, budget)


def _check(name: str, used: float, reference: float, budget: Budget) -> None:
    limit = budget.resolve(name.partition(" ")[0], reference)
    if limit is not None and used > limit * (1 + TOLERANCE):
        raise InputError(
            f"the budget allows {name} {limit:.6g} and the plan takes {used:.6g}",
            mend="allocate anew, without the plan, or allow that much",
        )


def _runs_here(target: Target) -> bool:
    return isinstance(target.backend, Clocks) and target.backend.device(target, 1) is not None


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
