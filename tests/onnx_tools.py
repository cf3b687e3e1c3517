"""What the tests of the ONNX writer share: small programs, and onnxruntime to run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch

from qcompiler.backends.onnx.writer import write_model
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Builder, Node, Program, Signature, Stage
from qcompiler.ir.types import Dim, Symbol, TensorType, symbol_expr

F32, I64, BOOL = torch.float32, torch.int64, torch.bool
Body = Callable[..., object]


def build(body: Body, *inputs: TensorType, stage: Stage = Stage.CANONICAL) -> Program:
    """A program of one builder function; it returns one node or a list."""
    program = Program(stage=stage)
    program.dimensions.add("s0", Symbol(3))
    program.dimensions.add("s1", Symbol(5))
    nodes = [program.add_input(f"x{i}", type_) for i, type_ in enumerate(inputs)]
    result = body(program.append(), *nodes)
    outputs = [result] if isinstance(result, Node) else list(result)  # pyright: ignore[reportArgumentType]
    program.set_outputs(outputs)
    program.signature = Signature.flat(len(inputs), len(outputs))
    return program


def symbolic(program_dims: Sequence[Dim | str]) -> tuple[Dim, ...]:
    return tuple(symbol_expr(dim) if isinstance(dim, str) else dim for dim in program_dims)


def typed(*dims: Dim | str, dtype: torch.dtype = F32) -> TensorType:
    return TensorType(dtype, symbolic(dims))


def sample(type_: TensorType, sizes: dict[str, int], seed: int = 0) -> torch.Tensor:
    shape = [dim if isinstance(dim, int) else sizes[str(dim)] for dim in type_.shape]
    generator = torch.Generator().manual_seed(seed)
    if type_.dtype == BOOL:
        return torch.rand(shape, generator=generator) > 0.4
    if not type_.dtype.is_floating_point:
        return torch.randint(0, 4, shape, generator=generator).to(type_.dtype)
    return torch.randn(shape, generator=generator).to(type_.dtype)


def session(model: ir.Model, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_onnx(model: ir.Model, inputs: Sequence[torch.Tensor], *, optimized: bool = True) -> list[torch.Tensor]:
    running = session(model, optimized=optimized)
    names = [item.name for item in running.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return [torch.from_numpy(np.asarray(value)) for value in running.run(None, feed)]


def assert_same(program: Program, inputs: Sequence[torch.Tensor], opset: int = 21, rtol: float = 1e-5) -> ir.Model:
    model = write_model(program, opset=opset)
    for got, wanted in zip(run_onnx(model, inputs), evaluate(program, inputs), strict=True):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted.detach(), rtol=rtol, atol=1e-5, equal_nan=True)
    return model


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def single(op: str, *arguments: object, **keywords: object) -> Body:
    """A body that calls one operator on its inputs, then on constants."""
    return lambda b, *nodes: b.call(op, *nodes, *arguments, kwargs=keywords)


def parameters(op: str, *shapes: tuple[int, ...], rest: Sequence[object] = ()) -> Body:
    """A body that calls one operator on its inputs and on seeded parameters."""

    def body(b: Builder, *nodes: Node) -> Node:
        generator = torch.Generator().manual_seed(9)
        made = [b.param(f"w{i}", torch.randn(shape, generator=generator)) for i, shape in enumerate(shapes)]
        return b.call(op, *nodes, *made, *rest)

    return body


X = typed("s0", 4, 6)
IMAGE = typed("s0", 4, 8, 6)
Case = tuple[str, Body, list[TensorType]]
