"""The `.qir` text form, printed: one node per line, types always, weights as fills or digests.

The grammar (whole; `ir/parse.py` reads it)::

    file    ::= { "#" comment } { spec } { dim } program
    spec    ::= "spec" "@"name "=" QuantSpec text
    dim     ::= "dim" name "=" hint "in" low ".." [high]
    program ::= "program" "@"name "stage="stage "{" [signature] body "}"
    body    ::= {input} {state} {param} {region} {node} {update} "return" values
    region  ::= "region" "@"name "{" body "}"
    input   ::= "input" "%"name [string] ":" type
    state   ::= "state" "%"name [string] ":" type "=" fill
    update  ::= "update" "%"name "=" value
    param   ::= "param" "%"name [string] ":" type "=" fill
    fill    ::= word "(" [numbers] ")" | "file(" path "," key "," type [ "," strides "," offset ] ")"
    node    ::= results "=" op args [ "{" key=value, ... "}" ] ":" type [ ";" origin ]
    type    ::= (dtype | [ dtype ] "@"spec) "[" dims "]" | "sym[" dim "]" | "(" types ")" | "none"

A node with several results names each of them (`_` when unused). A spec that the types already say is not repeated.
Codes are carried in f32 unless their type says otherwise, as in `f16@spec[4,8]`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import sympy
import torch

from qcompiler.errors import VerifyError
from qcompiler.ir import ops
from qcompiler.ir.fill import Fill, digest_of, is_absent
from qcompiler.ir.program import Node, Origin, Program, Signature
from qcompiler.ir.region import Region, named_regions
from qcompiler.ir.states import arguments, results, state_nodes, updates
from qcompiler.ir.stored import Stored
from qcompiler.ir.types import (
    DTYPE_NAMES,
    Dim,
    Symbol,
    SymbolType,
    TensorType,
    TupleType,
    Type,
    dim_symbols,
    symbol_expr,
)
from qcompiler.spec import QuantSpec

INLINE_VALUES = 8
MEMORY_FORMATS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "preserve": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}


def print_program(
    program: Program, only: Collection[str] | None = None, notes: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Text of a program.

    Args:
        program: any stage.
        only: names of the inputs, parameters and operators to print; everything when None (only a whole program parses
            back).
        notes: what to say of a node, by its name: lines of comment below it.
    """
    return _Printer(program, notes=notes or {}).program(only)


def symbol_names(program: Program) -> dict[str, str]:
    """What the text form calls each symbol that a program's types use."""
    names: dict[str, str] = {}
    _name_all_symbols(program, names)
    return names


def _name_all_symbols(program: Program, names: dict[str, str]) -> None:
    for node in (*program.inputs, *program.param_nodes):
        _print_type(node.meta["type"], names, {})
    for region in named_regions(program).values():
        _name_all_symbols(region.program, names)
    for node in program.nodes:
        _print_type(node.meta["type"], names, {})


def print_type(type_: Type | None) -> str:
    """Text of a type outside any program (dimensions by their own names, specs spelled out)."""
    return _print_type(type_, None, None)


@dataclass
class _Printer:
    subject: Program
    dims: dict[str, str] = field(default_factory=dict)
    specs: dict[QuantSpec, str] = field(default_factory=dict)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    regions: dict[Region, str] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def program(self, only: Collection[str] | None) -> str:
        lines: list[str] = []
        if self.subject.signature != Signature.flat(len(arguments(self.subject)), len(results(self.subject))):
            lines.append(f"  signature {_signature_json(self.subject.signature)}")
        lines += [f"  {line}" for line in self.body(only)]
        head = [f"spec @{name} = {spec}" for spec, name in self.specs.items()]
        head += [self.dimension(name) for name in self.dims]
        return "\n".join([*head, f"program @{self.subject.name} stage={self.subject.stage} {{", *lines, "}"]) + "\n"

    def body(self, only: Collection[str] | None) -> list[str]:
        """The lines between the braces, without indentation."""
        lines: list[str] = []
        self.symbols.update(self.subject.dimensions.symbols)
        for node in self.chosen(arguments(self.subject), only):
            lines += self.noted(node, f"input %{node.name}{_label(node)} : {self.type(node.meta['type'])}")
        for node in self.chosen(state_nodes(self.subject), only):
            fill = print_fill(self.subject.states[str(node.target)])
            lines += self.noted(node, f"state %{node.name}{_label(node)} : {self.type(node.meta['type'])} = {fill}")
        for node in self.chosen(self.subject.param_nodes, only):
            fill = print_fill(self.subject.rounded(node))
            lines += self.noted(node, f"param %{node.name}{_label(node)} : {self.type(node.meta['type'])} = {fill}")
        self.regions = {region: name for name, region in named_regions(self.subject).items()}
        for region, name in self.regions.items() if only is None else ():
            inner = _Printer(region.program, self.dims, self.specs, self.symbols)
            lines += [f"region @{name} {{", *(f"  {line}" for line in inner.body(None)), "}"]
        for node in self.chosen(self.subject.nodes, only):
            if self.subject.op(node) != ops.GETITEM:
                lines += self.noted(node, self.node(node))
        pairs = zip(state_nodes(self.subject), updates(self.subject), strict=True)
        lines += [f"update %{node.name} = %{update.name}" for node, update in pairs if only is None]
        outputs = ", ".join(f"%{node.name}" for node in results(self.subject))
        return [*lines, f"return {outputs}" if outputs else "return"]

    def chosen(self, nodes: Sequence[Node], only: Collection[str] | None) -> Sequence[Node]:
        return nodes if only is None else [node for node in nodes if node.name in only]

    def noted(self, node: Node, line: str) -> list[str]:
        return [line, *(f"  # {note}" for note in self.notes.get(node.name, ()))]

    def dimension(self, name: str) -> str:
        symbol = self.symbols[name]
        high = "" if symbol.high is None else str(symbol.high)
        return f"dim {self.dims[name]} = {symbol.hint} in {symbol.low}..{high}"

    def node(self, node: Node) -> str:
        args = [self.value(arg) for arg in node.args]
        attributes = {
            key: self.value(value) for key, value in node.kwargs.items() if not self.implied(node, key, value)
        }
        text = f"{self.results(node)} = {self.subject.op(node)}"
        text += f" {', '.join(args)}" if args else ""
        text += f" {{{', '.join(f'{key}={attributes[key]}' for key in sorted(attributes))}}}" if attributes else ""
        text += f" : {self.type(node.meta['type'])}"
        return text + _print_origin(self.subject.origin(node))

    def results(self, node: Node) -> str:
        type_ = node.meta["type"]
        if not isinstance(type_, TupleType):
            return f"%{node.name}"
        names = {user.args[1]: f"%{user.name}" for user in node.users if self.subject.op(user) == ops.GETITEM}
        return ", ".join(names.get(i, "_") for i in range(len(type_.items))) or "_"

    def implied(self, node: Node, key: str, value: object) -> bool:
        return key == "spec" and value == implied_spec(node)

    def type(self, type_: Type | None) -> str:
        return _print_type(type_, self.dims, self.specs)

    def value(self, value: object) -> str:
        if isinstance(value, Node):
            return f"%{value.name}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(self.value(item) for item in value)}]"
        if isinstance(value, QuantSpec):
            return f"@{_spec_name(value, self.specs)}"
        if isinstance(value, Region):
            return f"@{self.regions[value]}"
        return print_literal(value)


def implied_spec(node: Node) -> QuantSpec | None:
    """The spec that a quantize or dequantize node's types already tell."""
    if node.target is ops.quantize:
        type_ = node.meta["type"]
    elif node.target is ops.dequantize and isinstance(node.args[0], Node):
        type_ = node.args[0].meta["type"]
    else:
        return None
    return type_.spec if isinstance(type_, TensorType) else None


def print_literal(value: object) -> str:
    """Text of a constant argument.

    Raises:
        VerifyError: for a value that has no text form.
    """
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {"inf": "inf", "-inf": "-inf", "nan": "nan"}[str(value)]
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, torch.dtype):
        return DTYPE_NAMES[value]
    if isinstance(value, torch.device):
        return f"device({value.type})"
    if isinstance(value, torch.layout):
        return "layout(strided)"
    for name, memory_format in MEMORY_FORMATS.items():
        if value is memory_format:
            return f"memory({name})"
    raise VerifyError(f"a value of type {type(value).__name__} has no text form", where=str(value)[:100])


def print_dim(dim: Dim, names: Mapping[str, str] | None = None) -> str:
    """Text of a dimension, symbols renamed by `names`."""
    if isinstance(dim, int):
        return str(dim)
    return _DimPrinter().doprint(_renamed(dim, names) if names else dim)


def _renamed(expr: sympy.Basic, names: Mapping[str, str]) -> sympy.Basic:
    """The same expression over other symbols, not evaluated anew, so that its terms print in the order of the names."""
    if isinstance(expr, sympy.Symbol):
        return symbol_expr(names.get(str(expr), str(expr)))
    if not expr.args:
        return expr
    return expr.func(*(_renamed(arg, names) for arg in expr.args), evaluate=False)  # pyright: ignore[reportCallIssue]


class _DimPrinter(sympy.StrPrinter):
    printmethod = ""


def _print_type(type_: Type | None, dims: dict[str, str] | None, specs: dict[QuantSpec, str] | None) -> str:
    if type_ is None:
        return "none"
    if isinstance(type_, TupleType):
        return f"({', '.join(_print_type(item, dims, specs) for item in type_.items)})"
    if isinstance(type_, SymbolType):
        _name_symbols(type_.expr, dims)
        return f"sym[{print_dim(type_.expr, dims)}]"
    for dim in type_.shape:
        _name_symbols(dim, dims)
    element = DTYPE_NAMES[type_.dtype]
    if type_.spec is not None:
        carrier = "" if type_.dtype == torch.float32 else element
        element = carrier + (f"({type_.spec})" if specs is None else f"@{_spec_name(type_.spec, specs)}")
    return f"{element}[{','.join(print_dim(dim, dims) for dim in type_.shape)}]"


def _name_symbols(dim: Dim, dims: dict[str, str] | None) -> None:
    if dims is not None:
        for name in sorted(dim_symbols(dim)):
            dims.setdefault(name, f"s{len(dims)}")


def _spec_name(spec: QuantSpec, specs: dict[QuantSpec, str]) -> str:
    return specs.setdefault(spec, f"q{len(specs)}")


def _label(node: Node) -> str:
    return "" if str(node.target) == node.name else f" {json.dumps(str(node.target))}"


def print_fill(value: torch.Tensor | Fill) -> str:
    """Text of a parameter's value: few numbers spelled out, many as their digest, those in a file as their place."""
    if is_absent(value):
        return "absent()"
    if isinstance(value, torch.Tensor):
        if value.numel() <= INLINE_VALUES and not value.is_complex():
            value = Fill("values", values=tuple(value.detach().double().reshape(-1).tolist()))
        else:
            value = Fill("digest", digest=digest_of(value))
    if value.stored is not None:
        return _print_stored(value.stored)
    if value.kind in ("normal", "uniform"):
        return f"{value.kind}(seed={value.seed})"
    if value.kind == "values":
        return f"values({', '.join(_print_number(number) for number in value.values)})"
    return f"digest({value.digest})" if value.kind == "digest" else f"{value.kind}()"


def _print_stored(stored: Stored) -> str:
    place = f"{json.dumps(stored.file)}, {json.dumps(stored.key)}, {print_type(TensorType(stored.dtype, stored.shape))}"
    return f"file({place})" if stored.strides is None else f"file({place}, {list(stored.strides)}, {stored.offset})"


def _print_number(number: float) -> str:
    whole = math.isfinite(number) and number == int(number) and abs(number) < 2**53 and str(number) != "-0.0"
    return print_literal(int(number) if whole else number)


def _print_origin(origin: Origin) -> str:
    text = f" from {origin.module}" if origin.module else ""
    text += f" by {origin.step}" if origin.step else ""
    return f"  ;{text}" if text else ""


def _signature_json(signature: Signature) -> str:
    return json.dumps(
        {
            "args": signature.args.to_json(),
            "kwargs": signature.kwargs.to_json(),
            "result": signature.result.to_json(),
        }
    )
