"""Models in generated C whose calls choose sizes: the bits of a model made for each size alone; refusals."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.c.backend import runner
from qcompiler.backends.c.building import Build
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.host import HostRunner
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings
from qcompiler.errors import InputError, SpecError, UnsupportedError
from qcompiler.ir.program import Program
from qcompiler.job import prepare, run_job

QUICK = ("-O0",)
WRONG_SIZE = 9


class Decoder(torch.nn.Module):
    """Rotary positions made while it runs, a causal mask, shared key heads, a gated layer, the last token picked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(40, 16)
        self.norm, self.last = torch.nn.RMSNorm(16), torch.nn.LayerNorm(16)
        self.query, self.both = torch.nn.Linear(16, 16, bias=False), torch.nn.Linear(16, 16)
        self.gate, self.up, self.down = torch.nn.Linear(16, 20), torch.nn.Linear(16, 20), torch.nn.Linear(20, 16)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.arange(x.shape[2])[:, None] * torch.tensor([1.0, 0.1])
        left, right = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embed(tokens)
        y = self.norm(x)
        query = self.query(y).unflatten(-1, (4, 4)).transpose(1, 2)
        key, value = self.both(y).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4).repeat_interleave(2, 2).unbind(0)
        length = tokens.shape[1]
        mixed = torch.nn.functional.scaled_dot_product_attention(
            self.turned(query), self.turned(key), value, is_causal=True
        )
        x = x + mixed.transpose(1, 2).flatten(2)
        x = x + self.down(torch.nn.functional.silu(self.gate(x)) * self.up(x))
        return self.last(x), x[:, -1].mean(-1) / length


class Vision(torch.nn.Module):
    """Patches with a token in front, attention by hand, beside convolutions with borders, strides and pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(2, 8, 3, padding=1)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8)
        self.patches = torch.nn.Conv2d(8, 12, 2, stride=2)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 12))
        self.norm, self.mix, self.head = torch.nn.LayerNorm(12), torch.nn.Linear(12, 12), torch.nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1) + torch.relu(self.depthwise(x))
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1)
        y = self.mix(self.norm(tokens))
        scores = torch.softmax(y @ y.transpose(1, 2) / 3, -1)
        tokens = tokens + scores @ y
        return self.head(torch.cat([tokens[:, 0], x.mean((2, 3))], 1))


@dataclass(frozen=True)
class Made:
    """A model, how inputs of its sizes are made, and which sizes its calls choose.

    Args:
        module: makes it.
        make: inputs of the sizes.
        examples: sizes of the examples.
        bounds: as the setting has them.
        points: sizes that are tried: the least, the most, and others.
    """

    module: Callable[[], torch.nn.Module]
    make: Callable[..., torch.Tensor]
    examples: tuple[tuple[int, ...], tuple[int, ...]]
    bounds: Mapping[str, int]
    points: tuple[tuple[int, ...], ...]


def pictures(batch: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(batch, 2, height, width, generator=torch.Generator().manual_seed(height * width))


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(length))


MADE = {
    "decoder": Made(Decoder, tokens, ((2, 9), (1, 6)), {"batch": 3, "s1": 12}, ((1, 1), (3, 12), (2, 5))),
    "vision": Made(
        Vision,
        pictures,
        ((1, 12, 10), (2, 8, 16)),
        {"batch": 2, "s1": 18, "s2": 16},
        ((2, 18, 16), (1, 5, 4)),
    ),
}


@cache
def lowered(name: str, recipe: str) -> Program:
    torch.manual_seed(3)
    made = MADE[name]
    calibration = [made.make(*sizes) for sizes in made.examples]
    job = prepare(made.module().eval(), "host{isa=portable}", calibration=calibration, recipe=recipe)
    return job.target.backend.lower(run_job(job)[1], job.target)


def bounds_of(made: Made) -> tuple[str, ...]:
    return tuple(f"{name}<={most}" for name, most in made.bounds.items())


def written(program: Program, settings: Settings, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    write_project(write_module(program, settings), folder)
    return folder


def built(folder: Path) -> HostRunner:
    try:
        return HostRunner(folder, library=Build(flags=QUICK).run(folder))
    except UnsupportedError as error:
        pytest.skip(error.what)


def alone(program: Program, sizes: Mapping[str, int], folder: Path) -> HostRunner:
    """The model for these sizes only."""
    fixed = program.copy()
    symbols = fixed.dimensions.symbols
    symbols |= {name: replace(symbols[name], hint=size) for name, size in sizes.items() if name in symbols}
    return built(written(fixed, Settings(batch=sizes["batch"]), folder))


@pytest.mark.parametrize(
    ("name", "recipe", "count"), [("decoder", "w8a8", 3), ("decoder", "w4a16g32", 1), ("vision", "w8a8", 2)]
)
def test_every_choice_gives_the_bits_of_a_model_of_that_size(
    name: str, recipe: str, count: int, tmp_path: Path
) -> None:
    made, program = MADE[name], lowered(name, recipe)
    run = built(written(program, Settings(sizes=bounds_of(made)), tmp_path / "all"))
    for number, point in enumerate(made.points[:count]):
        x = made.make(*point)
        wanted = alone(program, dict(zip(made.bounds, point, strict=True)), tmp_path / str(number))([x])
        for one, other in zip(run([x]), wanted, strict=True):
            assert one.shape == other.shape
            assert torch.equal(one, other), point


@cache
def compiled() -> Artifact:
    torch.manual_seed(3)
    made = MADE["decoder"]
    calibration = [made.make(*sizes) for sizes in made.examples]
    text = f"host{{isa=portable, sizes=[{', '.join(bounds_of(made))}]}}"
    return qcompiler.compile(made.module().eval(), text, calibration=calibration, recipe="w8a8")


def test_compiled_models_take_every_size_and_larger_batches_in_pieces() -> None:
    artifact = compiled()
    for batch, length in ((1, 4), (7, 12)):
        found, wanted = artifact(tokens(batch, length)), artifact.simulate(tokens(batch, length))
        assert isinstance(found, tuple)
        assert isinstance(wanted, tuple)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def status(run: HostRunner, sizes: Mapping[str, int]) -> int:
    """What a call with these sizes returns, of a model of one or two results."""
    memory = torch.zeros(4096)
    places = [memory.data_ptr()] * (len(run._inputs) + len(run._outputs))  # pyright: ignore[reportPrivateUsage]
    return run._run(run._model, *run._choice(sizes), *places)  # pyright: ignore[reportPrivateUsage]


def test_sizes_that_the_model_does_not_take_are_refused() -> None:
    artifact = compiled()
    with pytest.raises(InputError, match="s1 is 13"):
        artifact(tokens(1, 13))
    folder = artifact.folder / "c"
    run = built(folder)
    for batch, length in ((0, 1), (4, 1), (1, 0), (1, 13)):
        assert status(run, {"batch": batch, "s1": length}) == WRONG_SIZE
    assert status(run, {"batch": 3, "s1": 12}) == 0


def test_an_image_that_is_smaller_than_a_window_is_refused(tmp_path: Path) -> None:
    module = torch.nn.Conv2d(1, 2, 5)
    job = prepare(module.eval(), "host{isa=portable}", calibration=[torch.randn(1, 1, 8, 9), torch.randn(1, 1, 9, 8)])
    program = job.target.backend.lower(run_job(job)[1], job.target)
    symbols = program.dimensions.symbols
    names = sorted(symbols)
    symbols |= {name: replace(symbol, low=1) for name, symbol in symbols.items()}
    run = built(written(program, Settings(sizes=tuple(f"{name}<=9" for name in names)), tmp_path / "model"))
    assert run([torch.zeros(1, 1, 5, 6)])[0].shape == (1, 2, 1, 2)
    with pytest.raises(InputError, match=r"would be of shape \[1, 2, -2, 2\]"):
        run([torch.zeros(1, 1, 2, 6)])
    assert status(run, dict(zip(names, (1, 2, 6), strict=True))) == WRONG_SIZE


def test_the_recorded_calls_have_two_sizes_and_pass_the_sanitizers() -> None:
    folder = compiled().folder / "c"
    assert "recorded[CALLS] = {\n    {2, 9},\n    {1, 1},\n" in (folder / "selftest.c").read_text()
    flags = (*QUICK, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    try:
        program = Build("program", flags=flags).run(folder)
    except InputError as error:
        pytest.skip(error.what)
    done = subprocess.run([program, "check", folder, "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_program_runs_files_of_every_size(tmp_path: Path) -> None:
    folder = compiled().folder / "c"
    program = Build("program", flags=QUICK).run(folder)
    x = tokens(2, 5)
    (tmp_path / "x").write_bytes(x.numpy().tobytes())
    words = [program, "run", folder, "2", "5", *(tmp_path / name for name in ("x", "y", "z"))]
    subprocess.run(words, check=True)
    wanted = runner(folder)([x])
    for name, value in zip(("y", "z"), wanted, strict=True):
        assert (tmp_path / name).read_bytes() == value.numpy().tobytes()


def test_an_operator_that_is_not_written_for_it_is_named() -> None:
    class Mirrored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(self.layer(x).transpose(1, 2), (1, 1), mode="reflect")

    with pytest.raises(UnsupportedError, match=r"reflection_pad1d cannot be written: it is not written for") as caught:
        qcompiler.compile(
            Mirrored(), "host{sizes=[s1<=9]}", calibration=[torch.randn(1, 5, 4), torch.randn(2, 7, 4)], recipe="w8a8"
        )
    assert "leave s1 out of the setting" in caught.value.mend


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sizes=[s7<=9]", "no size 's7' that an input tells"),
        ("sizes=[s1<=3]", "'s1' is 9 in the examples, more than 3"),
        ("sizes=[s1]", "setting sizes cannot be"),
    ],
)
def test_sizes_that_the_program_has_not_are_named(text: str, told: str) -> None:
    made = MADE["decoder"]
    calibration = [made.make(*sizes) for sizes in made.examples]
    with pytest.raises(SpecError, match=told):
        qcompiler.compile(made.module().eval(), f"host{{{text}}}", calibration=calibration)


def test_models_of_fixed_sizes_say_nothing_of_choices(tmp_path: Path) -> None:
    folder = written(lowered("decoder", "w8a8"), Settings(), tmp_path / "model")
    assert "sizes" not in (folder / "model.h").read_text()
    assert "size_" not in re.sub(r"size_t", "", (folder / "model.c").read_text().split("qc_run_layers")[0])
