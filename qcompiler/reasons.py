"""Why a pass left a place alone: what it refused there, what kernels and symmetries say, or what it did after all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

from qcompiler.analysis.symmetry import symmetries
from qcompiler.errors import InputError
from qcompiler.ir.ops import GETITEM
from qcompiler.ir.pattern import Refusal
from qcompiler.ir.program import Node, Program, Stage
from qcompiler.pass_text import parse_pass
from qcompiler.passes.recipes import catalogue
from qcompiler.pipeline import Annotates, Pass, Step
from qcompiler.plan import Assignment
from qcompiler.spec import parse_scheme
from qcompiler.target import Choice, Target
from qcompiler.view.align import align, describe
from qcompiler.view.select import matches_module

_TRANSFORMS = "qcompiler.passes.transform"
_NEAR = 3


@dataclass(frozen=True)
class Answer:
    """What is known of one site.

    Args:
        step: the pass.
        node: name of the node.
        op: its operator.
        module: its source module.
        reason: one line.
        details: more lines, such as one per kernel.
        mend: what would make the pass act.
        refused: whether the pass left it alone.
    """

    step: str
    node: str
    op: str = ""
    module: str = ""
    reason: str = ""
    details: tuple[str, ...] = ()
    mend: str = ""
    refused: bool = True

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def with_places(program: Program, refusals: Sequence[Refusal], step: Step) -> list[Answer]:
    """Refusals with operator and module of their nodes."""
    nodes = {node.name: node for node in program.graph.nodes}
    return [_answer(program, nodes.get(refusal.node), refusal, step) for refusal in refusals]


def site_answers(before: Program, after: Program, step: Step, site: str, target: Target) -> list[Answer]:
    """All that is known of the nodes that fit a site.

    Args:
        before: the program that the pass saw.
        after: what it made of it.
        step: the pass, with what it refused.
        site: name of a node, a source module, or a pattern of either.
        target: the device.

    Raises:
        InputError: when no node fits.
    """
    nodes = sites(before, site)
    by_node = {refusal.node: refusal for refusal in step.refusals}
    pass_ = parse_pass(step.text, catalogue())
    pairs = {old: new for new, old in align(before, after).pairs.items()}
    answers: list[Answer] = []
    for node in nodes:
        if node.name in by_node:
            answer = _answer(before, node, by_node[node.name], step)
        else:
            answer = _what_happened(before, after, node, pairs.get(node.name), step)
        answers.append(_explained(before, node, answer, pass_, target))
    told = [answer for answer in answers if answer.refused]
    return told or answers or []


def sites(program: Program, site: str) -> list[Node]:
    """The operators that a site names.

    Raises:
        InputError: when there is none.
    """
    name = site.lstrip("%")
    nodes = [node for node in program.nodes if program.op(node) != GETITEM]
    exact = [node for node in nodes if node.name == name]
    found = exact or [
        node for node in nodes if fnmatchcase(node.name, name) or matches_module(program.origin(node).module, name)
    ]
    if not found:
        raise InputError(
            f"no operator of the program is called '{site}', nor is one of such a module",
            where=f"program @{program.name}",
            mend="`qcompiler dump --with provenance` prints names and modules",
        )
    return found


def _answer(program: Program, node: Node | None, refusal: Refusal, step: Step) -> Answer:
    op, module = ("", "") if node is None else (program.op(node), program.origin(node).module)
    lines = tuple(part.strip() for part in refusal.reason.split(";"))
    reason, details = (lines[0], ()) if len(lines) == 1 else (f"{len(lines)} reasons", lines)
    return Answer(step.text, refusal.node, op, module, reason, details, refusal.mend)


def _what_happened(before: Program, after: Program, node: Node, partner: str | None, step: Step) -> Answer:
    """Of a node that was not refused: what the pass did with it, or where the nearest refusals are."""
    op, module = before.op(node), before.origin(node).module
    if partner is None:
        return Answer(step.text, node.name, op, module, "the pass took it away", refused=False)
    made = after.node(partner)
    was, is_ = describe(before, node), describe(after, made)
    assigned = made.meta.get("assignment")
    if was != is_:
        return Answer(step.text, node.name, op, module, "the pass edited it", (was, f"-> {is_}"), refused=False)
    if isinstance(assigned, Assignment) and assigned != node.meta.get("assignment"):
        numbers = tuple(f"{name}: {spec}" for name, spec in assigned.inputs.items())
        return Answer(step.text, node.name, op, module, f"it got kernel {assigned.kernel}", numbers, refused=False)
    host = next((other.name for other in after.nodes if other is not made and _absorbs(other, partner)), "")
    if host and isinstance(parse_pass(step.text, catalogue()).promise, Annotates):
        return Answer(step.text, node.name, op, module, f"the kernel of %{host} computes it too", refused=False)
    near = _nearest(before, node, step.refusals)
    told = tuple(f"%{refusal.node}: {refusal.reason}" for refusal in near)
    reason = "the pass left it as it is and noted no reason"
    return Answer(step.text, node.name, op, module, reason + ("; the nearest refusals:" if near else ""), told)


def _absorbs(node: Node, name: str) -> bool:
    """Whether the kernel of a node also computes the operator called `name`."""
    assigned = node.meta.get("assignment")
    return isinstance(assigned, Assignment) and assigned.result_at == name


def _nearest(program: Program, start: Node, refusals: Sequence[Refusal]) -> list[Refusal]:
    """The refusals at the fewest steps from a node."""
    by_node = {refusal.node: refusal for refusal in refusals}
    seen, ring, found = {start}, [start], list[Refusal]()
    while ring and len(found) < _NEAR:
        ring = [near for node in ring for near in (*node.all_input_nodes, *node.users) if near not in seen]
        ring = list(dict.fromkeys(ring))
        seen.update(ring)
        found += [by_node[node.name] for node in ring if node.name in by_node]
    return found[:_NEAR]


def _explained(program: Program, node: Node, answer: Answer, pass_: Pass, target: Target) -> Answer:
    """The answer with what the target's kernels, or the symmetries of the program, say of the node."""
    if not answer.refused or program.stage is not Stage.CANONICAL:
        return answer
    if isinstance(pass_.promise, Annotates):
        return _by_kernels(program, node, answer, pass_, target)
    if type(pass_).__module__.startswith(_TRANSFORMS):
        return _by_symmetries(program, node, answer)
    return answer


def _by_kernels(program: Program, node: Node, answer: Answer, pass_: Pass, target: Target) -> Answer:
    kernels = [kernel for kernel in target.kernels if program.op(node) in kernel.ops]
    details = list(answer.details)
    scheme = getattr(pass_, "scheme", "")
    if not details and isinstance(scheme, str) and scheme:
        choice = target.choose(program, node, parse_scheme(scheme))
        if not isinstance(choice, Choice) and choice.reason != answer.reason:
            details += [part.strip() for part in choice.reason.split(";")]
    for kernel in kernels:
        slots = [(name, slot) for name, slot in (*kernel.slots.items(), ("result", kernel.result)) if slot.accepts]
        taken = ", ".join(f"{name} {' or '.join(map(str, slot.accepts))}" for name, slot in slots)
        details.append(f"{kernel.name} takes {taken}")
    mend = answer.mend
    if not mend:
        mend = (
            "choose numbers that one of these kernels takes, by the recipe's scheme or, for this layer, by a plan"
            if kernels
            else f"{target.name} has no kernel for it; `qcompiler targets` lists what others have"
        )
    return Answer(**{**asdict(answer), "details": tuple(details), "mend": mend})


def _by_symmetries(program: Program, node: Node, answer: Answer) -> Answer:
    found = symmetries(program)
    blockers = [f"%{item.node} {item.reason} ({', '.join(sorted(item.actions))})" for item in found.blockers(node)]
    read = [f"reads {group.name}" for group in found.reading(node)]
    written = [f"writes {group.name}" for group in found.writing(node)]
    return Answer(**{**asdict(answer), "details": (*answer.details, *read, *written, *blockers)})
