"""States in generated C: in place where it can be, correct where it cannot, kept in the arena until they are reset."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler.backends.c.building import Build
from qcompiler.backends.c.emission import check_writable, write_module
from qcompiler.backends.c.host import HostRunner
from qcompiler.backends.c.isa import Isa
from qcompiler.backends.c.module import Module, Recorded
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.selftest import run_emulated, run_selftest
from qcompiler.backends.c.settings import Settings
from qcompiler.backends.c.shared_heads import share_heads
from qcompiler.backends.c.toolchain import find_emulator
from qcompiler.backends.reference import MEANINGS
from qcompiler.errors import UnsupportedError
from qcompiler.ir.interp import evaluate
from qcompiler.ir.program import Program
from qcompiler.ir.states import first_values
from qcompiler.job import prepare, run_job
from qcompiler.passes.recipes import Recipe
from qcompiler.session import HandedOn
from qcompiler.simulate import simulation
from tests.c_programs import FASTEST, QUICK
from tests.cached_models import LENGTH, Decoder, Write, sentence, steps, whole

PLAIN = Recipe.of("plain", ["apply_plan"])
HEAD = """
program @states stage=canonical {{
  input %x : f32[1,4]
  input %at : i64[1]
  state %k : f32[6,4] = {first}
  state %l : f32[6,4] = zeros()
{body}
}}
"""
PUT = "  %p = aten.index_put %k, [%at], %x : f32[6,4]\n"
ROLL = "  %r = aten.slice.Tensor %l, 0, 1, 6 : f32[5,4]\n  %q = aten.cat [%r, %x] : f32[6,4]\n"
CASES: dict[str, str] = {
    "written": f"{PUT}  update %k = %p\n  update %l = %l\n  return %p",
    "read before": f"  %s = aten.sum.dim_IntList %k, [0] : f32[4]\n{PUT}"
    "  update %k = %p\n  update %l = %l\n  return %s",
    "read after": f"{PUT}  %s = aten.mul.Tensor %k, %p : f32[6,4]\n  update %k = %p\n  update %l = %l\n  return %s",
    "read late": f"  %n = aten.neg %k : f32[6,4]\n{PUT}  %s = aten.mul.Tensor %n, %p : f32[6,4]\n"
    "  update %k = %p\n  update %l = %l\n  return %s",
    "returned": f"{PUT}  update %k = %p\n  update %l = %l\n  return %k",
    "of itself": "  %f = aten.slice.Tensor %k, 0, 0, 1 : f32[1,4]\n  %v = aten.add.Tensor %f, %x : f32[1,4]\n"
    "  %p = aten.index_put %k, [%at], %v : f32[6,4]\n  update %k = %p\n  update %l = %l\n  return %p",
    "exchanged": f"{PUT}  update %k = %l\n  update %l = %p\n  return %x",
    "rolled": f"{ROLL}  update %k = %k\n  update %l = %q\n  return %q",
    "shifted into itself": "  %a = aten.slice.Tensor %l, 0, 1, 6 : f32[5,4]\n"
    "  %b = aten.slice.Tensor %k, 0, 0, 1 : f32[1,4]\n"
    "  %c = aten.cat [%a, %b] : f32[6,4]\n  %d = aten.add.Tensor %k, %x : f32[6,4]\n"
    "  update %k = %d\n  update %l = %c\n  return %x",
    "turned": "  %t = aten.permute %k, [1, 0] : f32[4,6]\n  %u = aten.permute %l, [1, 0] : f32[4,6]\n"
    "  %w = aten.reshape %u, [6, 4] : f32[6,4]\n  %z = aten.reshape %t, [6, 4] : f32[6,4]\n"
    "  update %k = %w\n  update %l = %z\n  return %x",
}
PUTS_IN_PLACE = ("written", "read before", "exchanged")


def program_of(case: str) -> Program:
    return qcompiler.parse(HEAD.format(first="normal(seed=3)", body=CASES[case]))


def calls() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, 4, generator=generator), torch.tensor([at])) for at in (2, 0, 5, 2)]


def wanted(program: Program) -> list[Tensor]:
    """The first result of every call, and the states at the end."""
    values, found = first_values(program), []
    for call in calls():
        result, *values = evaluate(program, [*call, *values])
        found.append(result)
    return [*found, *values]


def body(module: Module, layer: str) -> str:
    return next(each.text for each in module.layers if layer in each.name)


@cache
def decoder(write: Write, recipe: str, free: bool = False) -> Program:
    """A lowered decoder of one layer, for calls of one token or of any number of them."""
    text = steps(sentence())
    example = (sentence(5), torch.arange(5)) if free else text[0]
    chosen = PLAIN if recipe == "plain" else recipe
    job = prepare(Decoder(write, 1).eval(), "host", example, text if recipe == "w8a8" else None, chosen)
    return job.target.backend.lower(run_job(job)[1], job.target)


def built(program: Program, folder: Path, isa: Isa = FASTEST, **settings: object) -> HostRunner:
    """Generated C, compiled in little time."""
    write_project(write_module(program, Settings.model_validate({"isa": isa, **settings})), folder)
    return HostRunner(folder, library=Build(flags=QUICK).run(folder))


@pytest.mark.parametrize("case", CASES)
def test_calls_follow_each_other(case: str, tmp_path: Path) -> None:
    program = program_of(case)
    program.verify()
    model = built(program, tmp_path)
    for _ in range(2):
        found = [model(call)[0] for call in calls()]
        torch.testing.assert_close([*found, *model.read_states()], wanted(program), rtol=1e-6, atol=1e-6)
        model.reset()
    model.close()


@pytest.mark.parametrize("case", [case for case, text in CASES.items() if PUT in text])
def test_a_row_is_written_in_place_where_nobody_reads_the_old_one(case: str) -> None:
    text = body(write_module(program_of(case), Settings(isa=FASTEST)), "p")
    assert ("memcpy" in text or "< 24" in text) is (case not in PUTS_IN_PLACE)


@pytest.mark.parametrize("write", ["index_copy", "index_put"])
def test_a_token_of_a_decoder_writes_its_row(write: Write) -> None:
    module = write_module(decoder(write, "plain"), Settings(isa=FASTEST))
    assert not any(layer.name.startswith(("keep_", "state_")) for layer in module.layers)
    bounds = re.findall(r"< (\d+);", body(module, "index_put"))
    assert max(map(int, bounds)) == 8


def test_states_are_not_shared_with_anything() -> None:
    module = write_module(decoder("index_copy", "plain"), Settings(isa=FASTEST))
    ends = [state.place + state.size for state in module.states]
    assert len({state.place for state in module.states}) == len(module.states) == 2
    text = "".join(layer.text for layer in module.layers)
    inside = {int(place or 0) for place in re.findall(r"c->arena(?: \+ (\d+))?\)", text)}
    assert not [at for at in inside if any(s.place < at < end for s, end in zip(module.states, ends, strict=True))]


@pytest.mark.parametrize("recipe", ["plain", "w8a8", "w4a16g32"])
def test_a_decoder_token_by_token(recipe: str, tmp_path: Path) -> None:
    program = decoder("index_copy", recipe)
    model, exact = built(program, tmp_path), whole(sentence(), 1)
    simulated = HandedOn(simulation(program, MEANINGS), lambda: first_values(program))
    found = torch.cat([model(call)[0] for call in steps(sentence())], 1)
    limit = {"plain": 1e-6, "w8a8": 0.05, "w4a16g32": 0.2}[recipe]
    assert float((found - exact).norm() / exact.norm()) < limit
    same = torch.cat([simulated(call)[0] for call in steps(sentence())], 1)
    torch.testing.assert_close(found, same, rtol=1e-4, atol=1e-4)


def test_a_text_at_once_and_its_end_token_by_token(tmp_path: Path) -> None:
    tokens, places = sentence(), torch.arange(LENGTH)
    model = built(decoder("index_copy", "plain", free=True), tmp_path, sizes=(f"s0<={LENGTH}",))
    parts = [model((tokens[:, a:b], places[a:b]))[0] for a, b in ((0, 7), (7, 8), (8, LENGTH))]
    torch.testing.assert_close(torch.cat(parts, 1), whole(tokens, 1), rtol=1e-5, atol=1e-5)


def test_processors_agree_to_the_bit(tmp_path: Path) -> None:
    try:
        find_emulator("arm64")
    except UnsupportedError as error:
        pytest.skip(str(error))
    program = decoder("index_copy", "w8a8")
    (tmp_path / "arm").mkdir()
    (tmp_path / "here").mkdir()
    here, values = built(program, tmp_path / "here"), first_values(program)
    write_project(write_module(program, Settings(isa=Isa.DOTPROD)), tmp_path / "arm")
    for call in steps(sentence())[:2]:
        there, *values = run_emulated(tmp_path / "arm", None, [*call, *values])
        assert torch.equal(here(call)[0], there)
    assert all(map(torch.equal, here.read_states(), values))


@pytest.mark.parametrize("case", ["written", "exchanged"])
def test_sanitizers_find_nothing(case: str, tmp_path: Path) -> None:
    program = program_of(case)
    module = write_module(program, Settings(isa=FASTEST))
    values, given, found = first_values(program), [], []
    for call in calls()[:3]:
        result, *values = evaluate(program, [*call, *values])
        given.append(call)
        found.append(result)
    inputs = [torch.stack(parts).numpy() for parts in zip(*given, strict=True)]
    write_project(module, tmp_path, Recorded(inputs, [torch.stack(found).numpy()]))
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    Build("program", flags=flags).run(tmp_path)
    assert run_selftest(tmp_path).equal


def test_elements_that_cannot_be_kept_are_named_before_any_work() -> None:
    program = qcompiler.parse("""
program @half stage=canonical {
  input %x : f16[2]
  state %k : f16[2] = zeros()
  update %k = %x
  return %k
}""")
    with pytest.raises(UnsupportedError, match=r"no torch\.float16 from call to call"):
        check_writable(program)


class Adds(nn.Module):
    """Adds up what it is called with."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.linspace(-1, 1, 12))

    def forward(self, x: Tensor) -> Tensor:
        self.total += x
        return self.total * 2


def test_an_artefact_goes_on_until_it_is_reset(tmp_path: Path) -> None:
    artifact, x = qcompiler.compile(Adds(), "host", inputs=(torch.ones(12),), recipe=PLAIN), torch.ones(12)
    start = torch.linspace(-1, 1, 12)
    for _ in range(2):
        for count in (1, 2, 3):
            torch.testing.assert_close(artifact(x), 2 * (start + count))
        saved = artifact.save(tmp_path / "saved", force=True)
        torch.testing.assert_close(saved(x), 2 * (start + 1))
        artifact.reset()


@pytest.mark.parametrize("copies", [2, 3])
def test_repeated_heads_are_read_where_they_lie(copies: int) -> None:
    heads = 2 * copies
    program = qcompiler.parse(f"""
program @heads stage=canonical {{
  input %q : f32[1,{heads},3,8]
  input %k : f32[1,2,5,8]
  %one = aten.unsqueeze %k, 2 : f32[1,2,1,5,8]
  %many = aten.expand %one, [-1, -1, {copies}, -1, -1] : f32[1,2,{copies},5,8]
  %all = aten.reshape %many, [1, {heads}, 5, 8] : f32[1,{heads},5,8]
  %y = aten.scaled_dot_product_attention %q, %all, %all, none, 0.0, false {{scale=0.5}} : f32[1,{heads},3,8]
  return %y
}}""")
    inputs = [torch.randn(1, heads, 3, 8), torch.randn(1, 2, 5, 8)]
    before = evaluate(program, inputs)
    share_heads(program)
    assert [program.op(node) for node in program.nodes] == ["aten.scaled_dot_product_attention"]
    torch.testing.assert_close(evaluate(program, inputs), before)


def test_heads_that_are_repeated_in_turn_stay_repeated() -> None:
    program = qcompiler.parse("""
program @heads stage=canonical {
  input %q : f32[1,4,3,8]
  input %k : f32[1,2,5,8]
  %turns = aten.cat [%k, %k], 1 : f32[1,4,5,8]
  %y = aten.scaled_dot_product_attention %q, %turns, %turns, none, 0.0, false {scale=0.5} : f32[1,4,3,8]
  return %y
}""")
    share_heads(program)
    assert len(program.nodes) == 2


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        (
            "[1,1,3,8]",
            """%one = aten.unsqueeze %k, 2 : f32[1,2,1,4,8]
  %many = aten.expand %one, [-1, -1, 2, -1, -1] : f32[1,2,2,4,8]""",
        ),
        (
            "[1,4,3,8]",
            """%flat = aten.reshape %k, [64] : f32[64]
  %one = aten.unsqueeze %flat, 0 : f32[1,64]
  %many = aten.expand %one, [2, -1] : f32[2,64]""",
        ),
    ],
)
def test_other_repetitions_are_left_alone(query: str, lines: str) -> None:
    program = qcompiler.parse(f"""
program @heads stage=canonical {{
  input %q : f32{query}
  input %k : f32[1,2,4,8]
  {lines}
  %all = aten.reshape %many, [1, 4, 4, 8] : f32[1,4,4,8]
  %y = aten.scaled_dot_product_attention %q, %all, %all, none, 0.0, false {{scale=0.5}} : f32[1,4,3,8]
  return %y
}}""")
    before = str(program)
    share_heads(program)
    assert str(program) == before
