"""Tokens of one line of the `.qir` text form, and the values, types and fills that they spell."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import torch

from qcompiler.errors import ParseError
from qcompiler.ir.fill import Fill
from qcompiler.ir.parse_dim import parse_dim
from qcompiler.ir.program import Node
from qcompiler.ir.region import Region
from qcompiler.ir.stored import Stored
from qcompiler.ir.text import MEMORY_FORMATS
from qcompiler.ir.types import DTYPES_BY_NAME, Dim, Dimensions, SymbolType, TensorType, TupleType, Type
from qcompiler.spec import QuantSpec

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:[^"\\]|\\.)*") | (?P<ref>[%@][A-Za-z0-9_]+) |
    (?P<number>-?(?:inf\b|nan\b|\d+\.?\d*(?:[eE][+-]?\d+)?)) | (?P<word>[A-Za-z_][A-Za-z0-9_.]*) | (?P<mark>.)
    )""",
    re.VERBOSE,
)


@dataclass
class Scope:
    """What a line may name.

    Args:
        dimensions: the symbols.
        specs: by name.
        values: nodes of the block so far, by name.
        regions: of the block, by name.
    """

    dimensions: Dimensions = field(default_factory=Dimensions)
    specs: dict[str, QuantSpec] = field(default_factory=dict)
    values: dict[str, Node] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)

    def lookup(self, name: str) -> Node:
        """The node called `name`; raises ParseError when there is none yet."""
        if name not in self.values:
            raise ParseError(f"%{name} is used before it is defined")
        return self.values[name]


class Cursor:
    """Tokens of one line."""

    def __init__(self, text: str, scope: Scope) -> None:
        self.scope = scope
        self.tokens = [
            (match.lastgroup or "mark", match[match.lastgroup or 0])
            for match in _TOKEN.finditer(text)
            if match.lastgroup
        ]
        self.position = 0

    def peek(self) -> str:
        """The next token, empty at the end."""
        return self.tokens[self.position][1] if self.position < len(self.tokens) else ""

    def take(self) -> tuple[str, str]:
        """The next token with its kind; raises ParseError at the end."""
        if self.position >= len(self.tokens):
            raise ParseError("the line ends too early")
        self.position += 1
        return self.tokens[self.position - 1]

    def expect(self, mark: str) -> None:
        """Takes `mark`; raises ParseError when something else comes."""
        found = self.take()[1]
        if found != mark:
            raise ParseError(f"expected '{mark}', found '{found}'")

    def accept(self, mark: str) -> bool:
        """Takes `mark` if it comes; whether it did."""
        if self.peek() == mark:
            self.position += 1
            return True
        return False

    def definition(self) -> tuple[str, str]:
        """`%name`, or `%name "label"`: name and label."""
        kind, text = self.take()
        if kind != "ref" or not text.startswith("%"):
            raise ParseError("expected %name")
        if self.position < len(self.tokens) and self.tokens[self.position][0] == "string":
            return text[1:], json.loads(self.take()[1])
        return text[1:], text[1:]

    def references(self) -> list[Node]:
        """Values with commas between them, to the end of the line."""
        found: list[Node] = []
        while self.position < len(self.tokens):
            found.append(self.scope.lookup(self.take()[1][1:]))
            self.accept(",")
        return found

    def arguments(self) -> list[object]:
        """Positional arguments, up to the attributes or the type."""
        found: list[object] = []
        while self.peek() not in (":", "{", ""):
            found.append(self.value())
            self.accept(",")
        return found

    def attributes(self) -> dict[str, object]:
        """`{key=value, ...}`; empty when there is none."""
        found: dict[str, object] = {}
        if self.accept("{"):
            while not self.accept("}"):
                key = self.take()[1]
                self.expect("=")
                found[key] = self.value()
                self.accept(",")
        return found

    def value(self) -> object:
        """One argument: a constant, a value, a region, a spec, or a list of these."""
        kind, text = self.take()
        if kind == "string":
            return json.loads(text)
        if kind == "ref":
            return self.scope.lookup(text[1:]) if text[0] == "%" else self.region_or_spec(text)
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
        """The constant that a word stands for."""
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

    def region_or_spec(self, text: str) -> Region | QuantSpec:
        """What `@name` stands for as an argument."""
        name = text[1:]
        return self.scope.regions[name] if name in self.scope.regions else self.spec(text, "region or spec")

    def spec(self, text: str, what: str = "spec") -> QuantSpec:
        """The spec `@name`; raises ParseError, calling it `what`, when it is not declared."""
        if text[1:] not in self.scope.specs:
            raise ParseError(
                f"{what} {text} is not declared",
                mend="declare it above: `spec @name = int8 sym ...`, or `region @name {` in the same block",
            )
        return self.scope.specs[text[1:]]

    def fill(self) -> Fill:
        """How a parameter is made."""
        kind = self.take()[1]
        self.expect("(")
        if kind == "file":
            return Fill("file", stored=self.stored())
        words: list[str] = []
        while not self.accept(")"):
            words.append(self.take()[1])
        if kind in ("zeros", "ones", "absent", "unset"):
            return Fill(kind)
        if kind in ("normal", "uniform"):
            return Fill(kind, seed=int(words[-1]) if words else 0)
        if kind == "values":
            return Fill("values", values=tuple(float(word) for word in words if word != ","))
        if kind == "digest":
            return Fill("digest", digest="".join(words))
        raise ParseError(
            f"'{kind}' is not a way to fill a parameter",
            mend="zeros, ones, normal, uniform, values, digest, file, absent, unset",
        )

    def stored(self) -> Stored:
        """`"path", "key", type[, strides, offset])`: a tensor of a safetensors file."""
        file = self.value()
        self.expect(",")
        key = self.value()
        self.expect(",")
        type_ = self.type()
        strides: object = None
        offset: object = 0
        if self.accept(","):
            strides = self.value()
            self.expect(",")
            offset = self.value()
        self.expect(")")
        if not isinstance(type_, TensorType) or type_.spec or any(not isinstance(dim, int) for dim in type_.shape):
            raise ParseError('a parameter in a file reads file("path", "key", f32[2,3])')
        steps = tuple(int(step) for step in strides) if isinstance(strides, list) else None
        shape = tuple(int(dim) for dim in type_.shape)
        return Stored(str(file), str(key), type_.dtype, shape, steps, int(str(offset)))

    def type(self) -> Type:
        """A type."""
        found = self.optional_type()
        if found is None:
            raise ParseError("'none' is a type only inside a tuple")
        return found

    def optional_type(self) -> Type | None:
        """A type, or `none` inside a tuple."""
        kind, text = self.take()
        if text == "none":
            return None
        if text == "(":
            items: list[Type | None] = []
            while not self.accept(")"):
                items.append(self.optional_type())
                self.accept(",")
            return TupleType(tuple(items))
        carried = kind == "word" and self.peek().startswith("@")
        spec = self.spec(self.take()[1] if carried else text) if carried or kind == "ref" else None
        self.expect("[")
        dims = self.dims()
        if text == "sym":
            return SymbolType(dims[0])
        dtype = torch.float32 if spec and not carried else DTYPES_BY_NAME.get(text)
        if dtype is None:
            raise ParseError(f"'{text}' is not an element type", mend=f"one of {', '.join(DTYPES_BY_NAME)} or @spec")
        return TensorType(dtype, tuple(dims), spec)

    def dims(self) -> list[Dim]:
        """Dimensions up to `]`."""
        found: list[Dim] = []
        words: list[str] = []
        depth = 0
        while True:
            text = self.take()[1]
            if depth == 0 and text in (",", "]"):
                if words:
                    found.append(parse_dim("".join(words), self.scope.dimensions))
                words = []
                if text == "]":
                    return found
                continue
            depth += {"(": 1, ")": -1}.get(text, 0)
            words.append(text)
