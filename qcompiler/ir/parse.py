"""The `.qir` text form, read back: a recursive-descent parser whose errors name the line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from qcompiler.errors import ParseError, QCompilerError
from qcompiler.ir import ops
from qcompiler.ir.fill import Fill, resolve
from qcompiler.ir.parse_dim import parse_dim
from qcompiler.ir.program import Node, Origin, Program, Signature, Stage
from qcompiler.ir.structure import from_json
from qcompiler.ir.text import MEMORY_FORMATS
from qcompiler.ir.types import (
    DTYPES_BY_NAME,
    Dim,
    Symbol,
    SymbolType,
    TensorType,
    TupleType,
    Type,
)
from qcompiler.spec import QuantSpec

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*") | (?P<ref>[%@][A-Za-z0-9_]+) |
    (?P<number>-?(?:inf\b|nan\b|\d+\.?\d*(?:[eE][+-]?\d+)?)) | (?P<word>[A-Za-z_][A-Za-z0-9_.]*) | (?P<mark>.)
    )""",
    re.VERBOSE,
)
_NODE_LINE = re.compile(r"^(?P<results>[%_][^=]*?)\s*=\s*(?P<op>[A-Za-z_][\w.]*)\s*(?P<rest>.*)$")


def parse_program(text: str, weights: Mapping[str, torch.Tensor] | None = None) -> Program:
    """Reads one program.

    Args:
        text: what `print_program` printed, or what a person wrote.
        weights: tensors for the parameters printed as digests, by parameter name.

    Raises:
        ParseError: with the line that cannot be read, or whose printed type is not the one its operator yields.
        InputError: when `weights` lacks a parameter or holds other bytes.
    """
    reader = _Reader(text)
    program = reader.read()
    if weights is not None:
        program.params = resolve(program.params, weights)
    return program


@dataclass
class _Reader:
    text: str
    specs: dict[str, QuantSpec] = field(default_factory=dict)
    values: dict[str, Node] = field(default_factory=dict)
    program: Program = field(default_factory=Program)
    signature: Signature | None = None
    closed: bool = False

    def read(self) -> Program:
        opened = False
        for number, raw in enumerate(self.text.splitlines(), 1):
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
        self.program.signature = self.signature or Signature.flat(len(self.program.inputs), len(self.program.outputs))
        self.program.edits = 0
        return self.program

    def declaration(self, line: str) -> None:
        kind, _, rest = line.partition(" ")
        name, _, value = (part.strip() for part in rest.partition("="))
        if kind == "spec" and name.startswith("@"):
            self.specs[name[1:]] = QuantSpec.parse(value)
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

    def body(self, line: str) -> None:
        keyword = line.split(maxsplit=1)[0]
        if line == "}":
            self.closed = True
        elif keyword == "signature":
            data = json.loads(line.partition(" ")[2])
            self.signature = Signature(*(from_json(data[key]) for key in ("args", "kwargs", "result")))
        elif keyword == "input":
            self.input(_Cursor(line[len("input") :], self))
        elif keyword == "param":
            self.param(_Cursor(line[len("param") :], self))
        elif keyword == "return":
            cursor = _Cursor(line[len("return") :], self)
            self.program.set_outputs(cursor.references())
        else:
            self.node(line)

    def input(self, cursor: _Cursor) -> None:
        name, label = cursor.definition()
        cursor.expect(":")
        self.define(name, self.program.add_input(label, cursor.type()))

    def param(self, cursor: _Cursor) -> None:
        name, label = cursor.definition()
        cursor.expect(":")
        type_ = cursor.type()
        if not isinstance(type_, TensorType):
            raise ParseError("a parameter is a tensor")
        cursor.expect("=")
        self.define(name, self.program.add_param(label, cursor.fill(), type_))

    def node(self, line: str) -> None:
        match = _NODE_LINE.match(line)
        if not match:
            raise ParseError("expected `%name = op arguments : type`")
        body, _, comment = match["rest"].partition("  ;")
        origin = _parse_origin(comment)
        cursor = _Cursor(body, self)
        args = cursor.arguments()
        attributes = cursor.attributes()
        cursor.expect(":")
        type_ = cursor.type()
        target = ops.op_target(match["op"])
        _restore_spec(target, args, attributes, type_)
        builder = self.program.append(origin.step, origin.module)
        names = [name.strip().lstrip("%") for name in match["results"].split(",")]
        given = type_ if target is ops.kernel else None
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
        if name in self.values:
            raise ParseError(f"%{name} is defined twice")
        if node.name != name:
            node._rename(name)
        self.values[name] = node

    def lookup(self, name: str) -> Node:
        if name not in self.values:
            raise ParseError(f"%{name} is used before it is defined")
        return self.values[name]


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


class _Cursor:
    """Tokens of one line."""

    def __init__(self, text: str, reader: _Reader) -> None:
        self.reader = reader
        self.tokens = [
            (match.lastgroup or "mark", match[match.lastgroup or 0])
            for match in _TOKEN.finditer(text)
            if match.lastgroup
        ]
        self.position = 0

    def peek(self) -> str:
        return self.tokens[self.position][1] if self.position < len(self.tokens) else ""

    def take(self) -> tuple[str, str]:
        if self.position >= len(self.tokens):
            raise ParseError("the line ends too early")
        self.position += 1
        return self.tokens[self.position - 1]

    def expect(self, mark: str) -> None:
        found = self.take()[1]
        if found != mark:
            raise ParseError(f"expected '{mark}', found '{found}'")

    def accept(self, mark: str) -> bool:
        if self.peek() == mark:
            self.position += 1
            return True
        return False

    def definition(self) -> tuple[str, str]:
        kind, text = self.take()
        if kind != "ref" or not text.startswith("%"):
            raise ParseError("expected %name")
        if self.position < len(self.tokens) and self.tokens[self.position][0] == "string":
            return text[1:], json.loads(self.take()[1])
        return text[1:], text[1:]

    def references(self) -> list[Node]:
        found: list[Node] = []
        while self.position < len(self.tokens):
            found.append(self.reader.lookup(self.take()[1][1:]))
            self.accept(",")
        return found

    def arguments(self) -> list[object]:
        found: list[object] = []
        while self.peek() not in (":", "{", ""):
            found.append(self.value())
            self.accept(",")
        return found

    def attributes(self) -> dict[str, object]:
        found: dict[str, object] = {}
        if self.accept("{"):
            while not self.accept("}"):
                key = self.take()[1]
                self.expect("=")
                found[key] = self.value()
                self.accept(",")
        return found

    def value(self) -> object:
        kind, text = self.take()
        if kind == "string":
            return json.loads(text)
        if kind == "ref":
            return self.reader.lookup(text[1:]) if text[0] == "%" else self.spec(text)
        if kind == "number":
            return float(text) if re.search(r"[.eEn]", text) else int(text)
        if text == "[":
            items: list[object] = []
            while not self.accept("]"):
                items.append(self.value())
                self.accept(",")
            return items
        return self.word(text)

    def word(self, text: str) -> object:
        constants: dict[str, object] = {
            "none": None,
            "true": True,
            "false": False,
            "inf": float("inf"),
            "nan": float("nan"),
        }
        if text in constants:
            return constants[text]
        if text in DTYPES_BY_NAME:
            return DTYPES_BY_NAME[text]
        if text in ("device", "memory", "layout"):
            self.expect("(")
            inner = self.take()[1]
            self.expect(")")
            if text == "memory":
                return MEMORY_FORMATS[inner]
            return torch.device(inner) if text == "device" else torch.strided
        raise ParseError(f"'{text}' is not a value")

    def spec(self, text: str) -> QuantSpec:
        if text[1:] not in self.reader.specs:
            raise ParseError(f"spec {text} is not declared", mend="declare it above: spec @name = int8 sym ...")
        return self.reader.specs[text[1:]]

    def fill(self) -> Fill:
        kind = self.take()[1]
        self.expect("(")
        words: list[str] = []
        while not self.accept(")"):
            words.append(self.take()[1])
        if kind in ("zeros", "ones", "unset"):
            return Fill(kind)
        if kind in ("normal", "uniform"):
            return Fill(kind, seed=int(words[-1]) if words else 0)
        if kind == "values":
            return Fill("values", values=tuple(float(word) for word in words if word != ","))
        if kind == "digest":
            return Fill("digest", digest="".join(words))
        raise ParseError(
            f"'{kind}' is not a way to fill a parameter",
            mend="zeros, ones, normal, uniform, values, digest, unset",
        )

    def type(self) -> Type:
        found = self.optional_type()
        if found is None:
            raise ParseError("'none' is a type only inside a tuple")
        return found

    def optional_type(self) -> Type | None:
        kind, text = self.take()
        if text == "none":
            return None
        if text == "(":
            items: list[Type | None] = []
            while not self.accept(")"):
                items.append(self.optional_type())
                self.accept(",")
            return TupleType(tuple(items))
        self.expect("[")
        dims = self.dims()
        if text == "sym":
            return SymbolType(dims[0])
        spec = self.spec(text) if kind == "ref" else None
        dtype = torch.float32 if spec else DTYPES_BY_NAME.get(text)
        if dtype is None:
            raise ParseError(f"'{text}' is not an element type", mend=f"one of {', '.join(DTYPES_BY_NAME)} or @spec")
        return TensorType(dtype, tuple(dims), spec)

    def dims(self) -> list[Dim]:
        found: list[Dim] = []
        words: list[str] = []
        depth = 0
        while True:
            text = self.take()[1]
            if depth == 0 and text in (",", "]"):
                if words:
                    found.append(parse_dim("".join(words), self.reader.program.dimensions))
                words = []
                if text == "]":
                    return found
                continue
            depth += {"(": 1, ")": -1}.get(text, 0)
            words.append(text)
