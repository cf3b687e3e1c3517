"""Codes and bytes: the bit order by example, and pack and unpack as inverses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import InputError, SpecError
from qcompiler.formats import FORMATS, Format
from qcompiler.formats.pack import pack, packed_size, unpack

WIDTHS = (*range(1, 17), 32)


def random_codes(shape: tuple[int, ...], bits: int, seed: int = 0) -> torch.Tensor:
    low, high = (-(1 << 31), 1 << 31) if bits == 32 else (0, 1 << bits)
    codes = torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))
    return codes.to(torch.int32)


@pytest.mark.parametrize("bits", WIDTHS)
@given(rows=st.integers(1, 3), count=st.integers(0, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_unpack_inverts_pack(bits: int, rows: int, count: int, seed: int) -> None:
    codes = random_codes((rows, count), bits, seed)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, packed_size(count, bits))
    unpacked = unpack(packed, bits, count)
    assert unpacked.dtype == torch.int32
    assert torch.equal(unpacked, codes)
    if bits <= 8:
        assert torch.equal(unpack(packed, bits, count, "uint8"), codes.to(torch.uint8))


@pytest.mark.parametrize("bits", WIDTHS)
def test_rows_are_little_endian_bit_streams(bits: int) -> None:
    codes = random_codes((13,), bits)
    stream = sum((int(code) & ((1 << bits) - 1)) << (bits * place) for place, code in enumerate(codes))
    expected = stream.to_bytes(packed_size(13, bits), "little")
    assert bytes(pack(codes, bits).tolist()) == expected


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        (1, [1, 0, 0, 0, 0, 0, 0, 1, 1], [0b10000001, 0b1]),
        (2, [0, 1, 2, 3, 1], [0b11100100, 0b01]),
        (3, [1, 2, 3, 4], [0b11010001, 0b1000]),
        (4, [1, 2, 15], [0x21, 0x0F]),
        (5, [31, 0, 31], [0b00011111, 0b01111100]),
        (6, [63, 0, 1, 2], [0b00111111, 0b00010000, 0b00001000]),
        (7, [127, 1], [0xFF, 0x00]),
        (8, [1, 255], [1, 255]),
        (16, [0x1234, 0xFFFE], [0x34, 0x12, 0xFE, 0xFF]),
        (32, [-2, 1], [0xFE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0]),
    ],
)
def test_golden_bytes(bits: int, codes: list[int], expected: list[int]) -> None:
    assert pack(torch.tensor(codes), bits).tolist() == expected


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 7])
def test_rows_longer_than_one_working_chunk(bits: int) -> None:
    codes = random_codes((2, 600_001), bits).to(torch.uint8)
    assert torch.equal(unpack(pack(codes, bits), bits, 600_001), codes.int())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 12, 16, 32])
def test_packing_leaves_the_codes_alone(bits: int) -> None:
    codes = random_codes((3, 16), bits)
    before = codes.clone()
    pack(codes, bits)
    pack(codes.to(torch.uint8) if bits <= 8 else codes, bits)
    assert torch.equal(codes, before)
    narrow = before.to(torch.uint8)
    if bits <= 8:
        packed = pack(narrow, bits)
        kept = packed.clone()
        unpack(packed, bits, 16)
        assert torch.equal(packed, kept)
        assert torch.equal(narrow, before.to(torch.uint8))


@pytest.mark.parametrize("bits", WIDTHS)
def test_strided_codes_are_read_in_their_own_order(bits: int) -> None:
    codes = random_codes((9, 4), bits)
    assert torch.equal(pack(codes.T, bits), pack(codes.T.contiguous(), bits))
    packed = pack(codes, bits)
    strided = packed.T.contiguous().T
    assert torch.equal(unpack(strided, bits, 4), codes)


@pytest.mark.parametrize("number", FORMATS, ids=str)
def test_every_format_survives_storage(number: Format) -> None:
    x = torch.linspace(-9, 9, 101)
    rounded = number.round(x)
    stored = pack(number.encode(rounded), number.storage_bits)
    assert torch.equal(number.decode(unpack(stored, number.storage_bits, 101)), rounded)


def test_truth_values_pack_as_one_bit() -> None:
    assert pack(torch.tensor([True, False, True]), 1).tolist() == [0b101]


@pytest.mark.parametrize(
    ("codes", "bits"),
    [
        (torch.tensor([16]), 4),
        (torch.tensor([-1]), 8),
        (torch.tensor([1.0]), 4),
        (torch.tensor(3), 4),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes: torch.Tensor, bits: int) -> None:
    with pytest.raises(InputError):
        pack(codes, bits)


def test_wrong_sizes_and_widths_are_refused() -> None:
    with pytest.raises(SpecError, match="17 bits"):
        packed_size(4, 17)
    with pytest.raises(SpecError, match="do not fit uint8"):
        unpack(torch.zeros(2, dtype=torch.uint8), 9, 1, "uint8")
    with pytest.raises(InputError, match="5 codes of 4 bits are 3 bytes"):
        unpack(torch.zeros(2, dtype=torch.uint8), 4, 5)
