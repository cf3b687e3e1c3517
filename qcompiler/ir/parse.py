"""The `.qir` text form, read back: a recursive-descent parser whose errors name the line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from qcompiler.errors import ParseError, QCompilerError
from qcompiler.ir import ops
from qcompiler.ir.cursor import Cursor, Scope
from qcompiler.ir.fill import Fill
from qcompiler.ir.program import Node, Origin, Program, Signature, Stage
from qcompiler.ir.region import Region, nested_stage, resolve_params
from qcompiler.ir.states import add_state, arguments, resolve_states, results
from qcompiler.ir.structure import from_json
from qcompiler.ir.types import Symbol, TensorType, TupleType, Type
from qcompiler.spec import QuantSpec

_NODE_LINE = re.compile(r"^(?P<results>[%_][^=]*?)\s*=\s*(?P<op>[A-Za-z_][\w.]*)\s*(?P<rest>.*)$")


def parse_program(text: str, weights: Mapping[str, torch.Tensor] | None = None) -> Program:
    """Reads one program.

    Args:
        text: what `print_program` printed, or what a person wrote.
        weights: tensors for the parameters printed as digests, by parameter name; those of regions under
            `region/name`, as `ir.region.nested_params` gives them.

    Raises:
        ParseError: with the line that cannot be read, or whose printed type is not the one its operator yields.
        InputError: when `weights` lacks a parameter or holds other bytes.
    """
    program = _Reader().read(text)
    if weights is not None:
        resolve_params(program, weights)
        resolve_states(program, weights)
    return program


@dataclass
class _Reader:
    scope: Scope = field(default_factory=Scope)
    program: Program = field(default_factory=Program)
    signature: Signature | None = None
    closed: bool = False
    inner: _Reader | None = None
    next: dict[str, Node | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scope.dimensions = self.program.dimensions

    def read(self, text: str) -> Program:
        opened = False
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            try:
                if line.startswith("program "):
                    opened = self.head(line)
                elif opened:
                    self.body(line)
                else:
                    self.declaration(line)
            except QCompilerError as error:
                raise ParseError(error.what, where=f"line {number}: {line}", mend=error.mend) from error
        if not self.closed:
            raise ParseError("the program has no closing '}'", mend="is the text cut off?")
        return self.finished()

    def finished(self) -> Program:
        flat = Signature.flat(len(arguments(self.program)), len(results(self.program)))
        self.program.signature = self.signature or flat
        self.program.edits = 0
        return self.program

    def declaration(self, line: str) -> None:
        kind, _, rest = line.partition(" ")
        name, _, value = (part.strip() for part in rest.partition("="))
        if kind == "spec" and name.startswith("@"):
            self.scope.specs[name[1:]] = QuantSpec.parse(value)
        elif kind == "dim":
            match = re.fullmatch(r"(\d+) in (\d+)\.\.(\d*)", value)
            if not match:
                raise ParseError("a dimension reads `dim s0 = 4 in 1..` or `dim s0 = 4 in 1..128`")
            high = int(match[3]) if match[3] else None
            self.program.dimensions.add(name, Symbol(int(match[1]), int(match[2]), high))
        else:
            raise ParseError("expected spec, dim or program")

    def head(self, line: str) -> bool:
        match = re.fullmatch(r"program @(\S+) stage=(\w+) \{", line)
        if not match or match[2] not in list(Stage):
            raise ParseError("a program begins `program @name stage=traced|canonical|quantized|lowered {`")
        self.program.name, self.program.stage = match[1], Stage(match[2])
        return True

    def region(self, line: str) -> None:
        """Opens a region, whose lines go to a reader of its own until it closes."""
        match = re.fullmatch(r"region @([A-Za-z0-9_]+) \{", line)
        if not match:
            raise ParseError("a region begins `region @name {`")
        if match[1] in self.scope.regions:
            raise ParseError(f"region @{match[1]} is declared twice")
        program = Program(match[1], nested_stage(self.program.stage), dimensions=self.program.dimensions)
        self.inner = _Reader(Scope(specs=self.scope.specs), program)

    def within(self, inner: _Reader, line: str) -> None:
        inner.body(line)
        if inner.closed:
            self.scope.regions[inner.program.name] = Region(inner.finished())
            self.inner = None

    def body(self, line: str) -> None:
        keyword = line.split(maxsplit=1)[0]
        if self.inner is not None:
            self.within(self.inner, line)
        elif line == "}":
            self.closed = True
        elif keyword == "region":
            self.region(line)
        elif keyword == "signature":
            data = json.loads(line.partition(" ")[2])
            self.signature = Signature(*(from_json(data[key]) for key in ("args", "kwargs", "result")))
        elif keyword == "input":
            self.input(Cursor(line[len("input") :], self.scope))
        elif keyword == "state":
            self.state(Cursor(line[len("state") :], self.scope))
        elif keyword == "update":
            self.update(Cursor(line[len("update") :], self.scope))
        elif keyword == "param":
            self.param(Cursor(line[len("param") :], self.scope))
        elif keyword == "return":
            cursor = Cursor(line[len("return") :], self.scope)
            self.program.set_outputs([*cursor.references(), *self.written()])
        else:
            self.node(line)

    def input(self, cursor: Cursor) -> None:
        name, label = cursor.definition()
        cursor.expect(":")
        self.define(name, self.program.add_input(label, cursor.type()))

    def param(self, cursor: Cursor) -> None:
        name, label, type_, fill = self.filled(cursor)
        self.define(name, self.program.add_param(label, fill, type_, node_name=name))

    def state(self, cursor: Cursor) -> None:
        name, label, type_, fill = self.filled(cursor)
        self.define(name, add_state(self.program, label, type_, fill))
        self.next[name] = None

    def filled(self, cursor: Cursor) -> tuple[str, str, TensorType, Fill]:
        """A parameter or a state: name, label, type, value."""
        name, label = cursor.definition()
        cursor.expect(":")
        type_ = cursor.type()
        if not isinstance(type_, TensorType):
            raise ParseError("a parameter or a state is a tensor")
        cursor.expect("=")
        return name, label, type_, cursor.fill()

    def update(self, cursor: Cursor) -> None:
        name, _ = cursor.definition()
        cursor.expect("=")
        if name not in self.next:
            raise ParseError(f"%{name} is not a state")
        (self.next[name],) = cursor.references()

    def written(self) -> list[Node]:
        """What the next call starts from, in the order of the states."""
        missing = [name for name, node in self.next.items() if node is None]
        if missing:
            raise ParseError(
                f"states {', '.join(missing)} have no update", mend="write `update %state = %value` before `return`"
            )
        return [node for node in self.next.values() if node is not None]

    def node(self, line: str) -> None:
        match = _NODE_LINE.match(line)
        if not match:
            raise ParseError("expected `%name = op arguments : type`")
        body, _, comment = match["rest"].partition("  ;")
        origin = _parse_origin(comment)
        cursor = Cursor(body, self.scope)
        args = cursor.arguments()
        attributes = cursor.attributes()
        cursor.expect(":")
        type_ = cursor.type()
        target = ops.op_target(match["op"])
        _restore_spec(target, args, attributes, type_)
        builder = self.program.append(origin.step, origin.module)
        names = [name.strip().lstrip("%") for name in match["results"].split(",")]
        given = type_ if ops.is_declared(target) else None
        tuple_valued = isinstance(type_, TupleType)
        first = next((name for name in names if name != "_"), "unused")
        node = builder.call(
            target, *args, kwargs=attributes, name=f"{first}__all" if tuple_valued else names[0], type_=given
        )
        if node.meta["type"] != type_:
            from qcompiler.ir.text import print_type

            raise ParseError(f"the printed type is not what {match['op']} yields: {print_type(node.meta['type'])}")
        if not tuple_valued:
            self.define(names[0], node)
            return
        for index, name in enumerate(names):
            if name != "_":
                self.define(name, builder.call(ops.GETITEM, node, index, name=name))

    def define(self, name: str, node: Node) -> None:
        if name in self.scope.values:
            raise ParseError(f"%{name} is defined twice")
        if node.name != name:
            node._rename(name)
        self.scope.values[name] = node


def _restore_spec(target: object, args: list[object], attributes: dict[str, object], type_: Type) -> None:
    if "spec" in attributes or len(args) > 3:
        return
    if target is ops.quantize and isinstance(type_, TensorType):
        attributes["spec"] = type_.spec
    if target is ops.dequantize and isinstance(args[0], Node):
        attributes["spec"] = args[0].meta["type"].spec


def _parse_origin(comment: str) -> Origin:
    match = re.fullmatch(r"\s*(?:from (\S+))?(?:\s*by (\S+))?\s*", comment)
    return Origin(match[1] or "", match[2] or "") if match else Origin()
