"""Where a constant vector may be added to a scaled value and taken off again by its readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcompiler.analysis.gains import PASSING
from qcompiler.analysis.groups import Action, Blocker, Site
from qcompiler.analysis.relations import Relations
from qcompiler.analysis.weights import TRANSPOSED, spatial_axes
from qcompiler.ir.program import Node

_SHIFT = frozenset({Action.SHIFT})
_WRITERS = frozenset({"aten.layer_norm", "aten.group_norm", "aten.instance_norm"})


@dataclass(frozen=True, eq=False)
class Shifts:
    """Follows values from their only writer to their readers."""

    relations: Relations

    def refused(self, sites: Sequence[Site], holds: Callable[[Node], bool]) -> Blocker | None:
        """Why no vector can be added to the values that one writer writes; None where it can.

        Args:
            sites: of the group.
            holds: whether a value holds coordinates of the group.
        """
        program = self.relations.program
        writers = list(dict.fromkeys(site.node for site in sites if site.role == "writer"))
        if len(writers) != 1:
            return Blocker(_SHIFT, writers[1].name, "writes too: a shift would be added twice")
        writer = writers[0]
        if program.op(writer) not in _WRITERS and spatial_axes(program, writer) is None:
            return Blocker(_SHIFT, writer.name, "has no place for a shift")
        waiting = [(writer, user) for user in writer.users]
        while waiting:
            source, user = waiting.pop(0)
            if program.op(user) in PASSING and not holds(user):
                continue
            reason = self._obstacle(source, user)
            if reason is not None:
                return Blocker(_SHIFT, user.name, reason)
            if spatial_axes(program, user) is None:
                waiting.extend((user, following) for following in user.users)
        return None

    def _obstacle(self, source: Node, user: Node) -> str | None:
        program = self.relations.program
        op = program.op(user)
        bound = self.relations.bind(user) if op else {}
        if op in TRANSPOSED:
            return "spreads a shift unevenly"
        if spatial_axes(program, user) is not None:
            padding = bound.get("padding", 0)
            padded = isinstance(padding, str) or (isinstance(padding, list | tuple) and any(padding))
            return "pads with zeros, which no shift reaches" if padded else None
        if op == "aten.scaled_dot_product_attention":
            return None if bound["value"] is source and source not in (bound["query"], bound["key"]) else "not linear"
        # A part that others write beside it would make them writers of the group too.
        return None if op in PASSING or op == "aten.cat" else "does not let a shift pass"
