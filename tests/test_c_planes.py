"""Layers of few bits on both sides as products of bit planes: the numbers of the same layers in bytes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qcompiler
from qcompiler.artifact import Artifact
from qcompiler.backends.c.backend import runner
from qcompiler.backends.c.building import Build
from qcompiler.backends.c.emission import write_module
from qcompiler.backends.c.host import HostRunner
from qcompiler.backends.c.isa import LEVELS, Isa
from qcompiler.backends.c.kernels import MICRO_KERNELS
from qcompiler.backends.c.project import write_project
from qcompiler.backends.c.settings import Settings, settings_of
from qcompiler.backends.c.toolchain import is_native
from qcompiler.errors import SpecError
from qcompiler.job import backends
from qcompiler.passes.recipes import Recipe
from qcompiler.targets import load_target
from tests.c_harness import run_kernel
from tests.c_programs import QUICK
from tests.test_c_binary_model import kernels_of, skip_without

RECIPE = Recipe.of(
    "few", ["assign{scheme=w3a4}", "apply_plan", "calibrate{method=mse}", "weight_ranges{search=mse}", "nearest"]
)


class Few(nn.Module):
    """Convolutions with borders, strides and dilation, one in groups, and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, padding=1, stride=2)
        self.wide = nn.Conv2d(20, 70, 3, padding=1)
        self.tall = nn.Conv2d(70, 20, (3, 1), padding=(2, 0), dilation=2)
        self.grouped = nn.Conv2d(20, 20, 3, groups=4)
        self.token, self.head = nn.Linear(20, 33), nn.Linear(33, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.tall(torch.relu(self.wide(torch.relu(self.stem(x))))))
        return self.head(torch.relu(self.token(torch.relu(self.grouped(x)).mean((2, 3)))))


def images() -> torch.Tensor:
    return torch.randn(2, 3, 17, 19, generator=torch.Generator().manual_seed(0))


@cache
def compiled() -> Artifact:
    torch.manual_seed(3)
    target = "host{few_bits=planes,isa=portable}"
    return qcompiler.compile(Few().eval(), target, calibration=[images()], recipe=RECIPE)


def test_an_artefact_equals_its_simulation() -> None:
    artifact = compiled()
    assert kernels_of(artifact) == ["conv_bits"] * 3 + ["conv"] + ["linear_bits"] * 2
    found, foretold = artifact(images()), artifact.simulate(images())
    assert isinstance(found, torch.Tensor)
    assert isinstance(foretold, torch.Tensor)
    assert torch.equal(found, foretold)


def test_without_the_setting_codes_are_bytes() -> None:
    assert Settings().few_bits == "bytes"
    with pytest.raises(SpecError, match="few_bits"):
        settings_of(load_target("host{few_bits=nibbles}", backends()))


@pytest.mark.parametrize("isa", [Isa.AVX2, Isa.NEON], ids=lambda isa: isa.value)
def test_levels_give_the_same_bits(isa: Isa, tmp_path: Path) -> None:
    skip_without(isa)
    artifact = compiled()
    write_project(write_module(artifact.program, Settings(isa=isa)), tmp_path)
    native = is_native(LEVELS[isa].architecture)
    run = HostRunner(tmp_path, library=Build(flags=QUICK).run(tmp_path)) if native else runner(tmp_path)
    (found,) = run([images()[:1]])
    wanted = artifact(images()[:1])
    assert isinstance(wanted, torch.Tensor)
    assert torch.equal(found, wanted)


@given(
    width=st.integers(1, 5),
    lines=st.integers(1, 3),
    channels=st.integers(1, 150),
    planes=st.integers(1, 4),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=20)
def test_planes_are_bits_of_codes(width: int, lines: int, channels: int, planes: int, seed: int) -> None:
    isa = Isa.AVX2
    codes = np.random.default_rng(seed).integers(0, 256, (lines, width + 1, channels + 3), dtype=np.uint8)
    row = -(-channels // 64) * 8
    case = {
        "input": codes,
        "width": width,
        "inner_stride": channels + 3,
        "outer_stride": (width + 1) * (channels + 3),
        "channels": channels,
        "planes": planes,
        "out": np.full((planes, lines * width, row), 7, np.uint8),
        "out_stride": row,
        "plane_stride": lines * width * row,
    }
    (found,) = run_kernel("pack_planes", isa, [case], [(0, lines * width)])
    bits = np.unpackbits(found, axis=-1, bitorder="little")
    kept = codes[:, :width, :channels].reshape(-1, channels)
    for plane in range(planes):
        np.testing.assert_array_equal(bits[plane, :, :channels], kept >> plane & 1)
    assert not bits[..., channels:].any()


def test_packing_stays_inside_its_memory() -> None:
    case = {
        "input": np.zeros((3, 13), np.uint8),
        "width": 3,
        "inner_stride": 13,
        "channels": 13,
        "planes": 2,
        "out": np.full((2, 3, 8), 7, np.uint8),
        "out_stride": 8,
        "plane_stride": 24,
    }
    (found,) = run_kernel("pack_planes", Isa.AVX2, [case], [(0, 3)], sanitize=True)
    assert not found.any()


def test_levels_without_products_of_planes_have_portable_ones() -> None:
    assert all(MICRO_KERNELS["gemm_bits"].versions(isa) for isa in LEVELS)
