"""Layers of a library against a device, by counting: bytes, products, and what they are reported as."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcompiler.backends.cuda.layer import Input, Launch, Layer, Output, Part, Port, Rows, Scratch, Variant, Weight
from qcompiler.backends.cuda.layer import WeightRecord as Record
from qcompiler.backends.cuda.library import Code, Library
from qcompiler.backends.cuda.prediction import predict, read_roofs, work_of, write_roofs
from qcompiler.cost import Roofline

INSTANCE = "qc_gemm_i8_64x64x64"
DEVICE = Roofline(operations={8: 1e12, 16: 5e11}, bandwidth=1e11, overhead=1e-6, source="made up")


def layer() -> Layer:
    """Codes come from the first scratch; 96 columns of 128 inputs."""
    launch = Launch(
        kernel="gemm_i8",
        instance=INSTANCE,
        arguments={
            "input": Scratch(scratch=0),
            "weight": Weight(weight="codes"),
            "bias": Weight(weight="bias"),
            "residual": Input(input=0),
            "low": Input(input=0),
            "out": Output(output=0),
            "rows": Rows(rows=1),
            "columns": 96,
            "depth": 128,
            "splits": 1,
        },
    )
    return Layer(
        name="linear",
        node="linear",
        module="linear",
        meaning="",
        inputs=(Port(width=96, element="float16"),),
        outputs=(Port(width=96, element="float16"),),
        weights={"codes": Record(element="int8", shape=(96, 128)), "bias": Record(element="float32", shape=(96,))},
        variants={87: (Variant(most=None, launches=(launch,), workspace=(Part(per_row=128),)),)},
    )


def library(registers: dict[str, int]) -> Library:
    code = Code(instances=(INSTANCE,), source="", cubin="x.cubin", registers=registers)
    return Library(name="x", compute="float16", device="cuda", layers=(layer(),), code={87: code}, weights_bytes=0)


def test_work_counts_every_byte_once_and_whole_tiles() -> None:
    one = layer()
    variant = one.variant(87, 65)
    work = work_of(one, variant, variant.launches[0], 65)
    assert work.blocks == 2 * 2
    assert work.operations == 2 * 128 * 128 * 128
    assert work.size == 65 * 128 + 96 * 128 + 96 * 4 + 2 * (65 * 96 * 2)
    assert work.bits == 8


def test_more_rows_take_longer_and_launches_add_up() -> None:
    few, many = predict(library({INSTANCE: 96}), 87, DEVICE, 16, (1, 100_000))
    # Two tiles on sixteen multiprocessors: an eighth of the peak.
    assert few.seconds == pytest.approx(1e-6 + 2 * 64 * 128 * 128 / (1e12 / 8))
    assert many.seconds > 100 * few.seconds
    assert many.longest[1].waves > 1


def test_nothing_is_predicted_without_compiled_code(tmp_path: Path) -> None:
    write_roofs(library({}), DEVICE, tmp_path)
    assert read_roofs(tmp_path) == ()


def test_roofs_are_read_back_and_say_that_they_are_modelled(tmp_path: Path) -> None:
    write_roofs(library({INSTANCE: 96}), DEVICE, tmp_path)
    (roof,) = read_roofs(tmp_path)
    assert [one.rows for one in roof.layers] == [1, 16, 128, 1024]
    assert str(roof).startswith("sm_87 at best, all layers, modelled: 1 row 18 us")
    assert str(roof).endswith("(made up)")
