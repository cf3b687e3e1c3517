"""Memory order and remembered types: made for speed, and seen in no result."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from qcompiler.ir.infer import infer
from qcompiler.ir.interp import run
from qcompiler.ir.ops import op_target
from qcompiler.ir.parse import parse_program
from qcompiler.ir.program import Program, Stage
from qcompiler.ir.types import TensorType
from qcompiler.layout import channels_last, memory_order
from qcompiler.pipeline import Context, Exact, Promise, run_passes
from qcompiler.summary import samples_to_measure
from qcompiler.target import Target

VIEWED = """
dim s0 = 2 in 1..
program @viewed stage=traced {
  input %x : f32[s0,3,4,4]
  %y = aten.relu %x : f32[s0,3,4,4]
  %v = aten.view %y, [-1, 48] : f32[s0,48]
  return %v
}
"""


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_images_move_and_keep_their_values() -> None:
    image, tokens, row = noise(2, 3, 4, 4), torch.ones(2, 3, 4, 4, dtype=torch.int64), noise(2, 3)
    moved = channels_last([image, tokens, row])
    assert moved[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved[0], image)
    assert moved[1] is tokens
    assert moved[2] is row


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3), (6,)])
def test_in_memory_order_a_tensor_flattens_without_a_copy(shape: tuple[int, ...]) -> None:
    for value in (noise(*shape), *channels_last([noise(*shape)])):
        assert value.permute(memory_order(value)).flatten().data_ptr() == value.data_ptr()
        assert value.permute(memory_order(value)).is_contiguous()


def test_traced_views_take_images_in_any_layout() -> None:
    program, image = parse_program(VIEWED), noise(2, 3, 4, 4)
    found = run(program, channels_last([image])[0])
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, image.relu().reshape(2, 48))


def test_equal_calls_are_inferred_once_and_numbers_of_other_kinds_are_not_equal() -> None:
    program = parse_program("program @p stage=traced {\n  input %x : i64[3]\n  return %x\n}")
    add, node = op_target("aten.add.Tensor"), program.inputs[0]
    types = [infer(program.dimensions, add, (node, number), {}) for number in (1, 1.0, 1)]
    assert types[0] == TensorType(torch.int64, (3,))
    assert types[1] == TensorType(torch.float32, (3,))
    assert types[2] is types[0]


def test_a_new_symbol_forgets_what_was_inferred() -> None:
    program = parse_program(VIEWED)
    copy = program.copy()
    assert copy.dimensions.known is program.dimensions.known
    copy.dimensions.add("s9", program.dimensions.symbols["s0"])
    assert not copy.dimensions.known
    assert program.dimensions.known


@pytest.mark.parametrize(("sizes", "expected"), [("8,8", 8), ("256,256", 4), ("1024,1024", 1)])
def test_fewer_samples_are_measured_where_each_is_large(sizes: str, expected: int) -> None:
    text = f"dim s0 = 2 in 1..\nprogram @p stage=canonical {{\n  input %x : f32[s0,{sizes}]\n  return %x\n}}"
    program = parse_program(text)
    shape = [3, *map(int, sizes.split(","))]
    assert samples_to_measure(program, program.outputs, [torch.zeros(shape)]) == expected


@dataclass(frozen=True)
class Look:
    """Does nothing, and remembers what it was given."""

    seen: list[Program]
    edit: bool = False
    name: ClassVar[str] = "look"
    needs: ClassVar[Stage] = Stage.TRACED
    gives: ClassVar[Stage] = Stage.TRACED
    promise: ClassVar[Promise] = Exact()

    def run(self, program: Program, ctx: Context) -> Program:
        """The same program, a redundant operator added when told."""
        self.seen.append(program)
        if self.edit:
            node = program.node("y")
            again = program.after(node).call("aten.relu", node)
            program.redirect(program.node("v"), node, again)
        return program


def test_a_pass_never_edits_the_program_before_it(target: Target) -> None:
    seen: list[Program] = []
    original = parse_program(VIEWED)
    kept = str(original)
    done, steps = run_passes(original, [Look(seen), Look(seen), Look(seen, edit=True)], Context(target))
    assert str(original) == kept
    assert all(program is not original for program in seen)
    assert len(done.nodes) == 3
    assert [step.edits > 0 for step in steps] == [False, False, True]


@pytest.fixture
def target() -> Target:
    from qcompiler.backends.onnx.backend import OnnxBackend

    return Target("test", OnnxBackend(), ())
