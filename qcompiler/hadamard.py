"""Hadamard matrices: square, of plus and minus one, with orthogonal rows.

Formula   H Hᵀ = n I. Sylvester: [[H, H], [H, -H]]. Paley I, order q + 1, q = 3 mod 4 a prime power:
          I + [[0, 1], [-1ᵀ, Q]], Q[i, j] = chi(i - j) over the field of q elements. Paley II, order 2 (q + 1),
          q = 1 mod 4: C x [[1, 1], [1, -1]] + I x [[1, -1], [-1, -1]] with C = [[0, 1], [1ᵀ, Q]]. Williamson: four
          symmetric circulants in a 4 x 4 block pattern
Source    Paley 1933, "On Orthogonal Matrices"; Williamson 1944, "Hadamard's determinant theorem and the sum of four
          squares"; the rows of order 92 are Baumert, Golomb and Hall's (1962)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor

from qcompiler.errors import SpecError

_SMALL = 64
# Bit k - 1 of a code says whether entry k (and n - k) of the first row of a circulant is plus one; entry 0 is.
_WILLIAMSON = {
    92: (0xBB, 0x563, 0x511, 0x736),
    116: (0x4F5, 0x2435, 0x27D2, 0x38ED),
    156: (0x19053, 0x28647, 0x128B3, 0x5C158),
    172: (0xDD798, 0x1650FD, 0x5EA6B, 0x192F1),
}


def hadamard(order: int) -> Tensor:
    """A Hadamard matrix, int8 [order, order]; the same one every time.

    Raises:
        SpecError: for an order that none of the constructions reaches.
    """
    found = torch.ones(1, 1, dtype=torch.int8)
    for factor in factors(order):
        found = torch.kron(found, factor)
    return found


def factors(order: int) -> tuple[Tensor, ...]:
    """Hadamard matrices whose Kronecker product is `hadamard(order)`: few and small, for cheap products.

    Raises:
        SpecError: as for `hadamard`.
    """
    size = core(order)
    if size == 0:
        raise SpecError(
            f"no Hadamard matrix of order {order} is known here",
            mend=f"work on blocks of {block_of(order)}" if order > 0 else "orders are positive",
        )
    doublings = (order // size).bit_length() - 1
    if order <= _SMALL:
        return (_kron(_core_matrix(size), _sylvester(1 << doublings)),)
    count = math.ceil(doublings / (_SMALL.bit_length() - 1))
    parts = [doublings // count + (index < doublings % count) for index in range(count)]
    head = () if size == 1 else (_core_matrix(size),)
    return (*head, *(_sylvester(1 << part) for part in parts))


def core(order: int) -> int:
    """The smallest size K such that order = K 2^a and a Hadamard matrix of order K is built without doubling; 0: none.

    Zero too when the order is not positive. K is 1 for powers of two.
    """
    if order < 1:
        return 0
    size = order
    while size % 2 == 0:
        size //= 2
    while size <= order:
        if size == 1 or _kind(size):
            return size
        size *= 2
    return 0


def block_of(width: int, most: int = 256) -> int:
    """The block on which consecutive coordinates are mixed: all of them, else a power of two, else what divides.

    Args:
        width: number of coordinates.
        most: largest size of the part that is multiplied as a dense matrix.
    """
    power = width & -width
    if 0 < core(width) <= most or power >= _SMALL:
        return width if 0 < core(width) <= most else power
    return max(block for block in range(1, width + 1) if width % block == 0 and 0 < core(block) <= most)


def additions(block: int) -> int:
    """Additions per element of a product with a Hadamard matrix of this order, with the butterflies of Sylvester."""
    size = core(block)
    return (block // size).bit_length() - 1 + size - 1 if size else 0


def multiply(x: Tensor, block: int) -> Tensor:
    """`x H / sqrt(block)` on consecutive blocks of the last axis.

    Shapes: [..., n blocks of `block`] -> the same; half precision is summed in float32.

    Raises:
        SpecError: when the block does not divide the last axis, or there is no such matrix.
    """
    if block < 1 or x.shape[-1] % block:
        raise SpecError(f"blocks of {block} do not divide an axis of {x.shape[-1]}")
    wide = torch.promote_types(x.dtype, torch.float32)
    value, done = x.to(wide), 1
    for factor in factors(block):
        size = len(factor)
        matrix, rest = factor.to(wide), block // (done * size)
        if rest == 1:
            value = value.reshape(-1, size) @ matrix
        else:
            value = matrix.T @ value.reshape(-1, size, rest)
        done *= size
    return (value.reshape(x.shape) / math.sqrt(block)).to(x.dtype)


def random_signs(count: int, seed: int) -> Tensor:
    """Plus and minus one at random, float64 [count]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (count,), generator=generator).double() * 2 - 1


def random_orthogonal(count: int, seed: int) -> Tensor:
    """A rotation out of all, float64 [count, count]: the orthogonal factor of a normal matrix, its signs settled."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, count, generator=generator, dtype=torch.float64)
    orthogonal, triangle = torch.linalg.qr(normal)
    return orthogonal * triangle.diagonal().sign()


def _kind(size: int) -> str:
    """Which construction gives this order; empty when none does."""
    if size % 4:
        return ""
    if _prime_power(size - 1):
        return "paley_i"
    if _prime_power(size // 2 - 1) and (size // 2 - 1) % 4 == 1:
        return "paley_ii"
    return "williamson" if size in _WILLIAMSON else ""


@cache
def _core_matrix(size: int) -> Tensor:
    kind = _kind(size)
    if kind == "paley_i":
        return _paley_i(size - 1)
    if kind == "paley_ii":
        return _paley_ii(size // 2 - 1)
    return _williamson(size // 4, _WILLIAMSON[size]) if kind else torch.ones(1, 1, dtype=torch.int8)


@cache
def _sylvester(size: int) -> Tensor:
    found = torch.ones(1, 1, dtype=torch.int8)
    step = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    while len(found) < size:
        found = torch.kron(step, found)
    return found


def _kron(left: Tensor, right: Tensor) -> Tensor:
    return torch.kron(left.contiguous(), right.contiguous())


def _paley_i(q: int) -> Tensor:
    matrix = torch.eye(q + 1, dtype=torch.int8)
    matrix[0, 1:] = 1
    matrix[1:, 0] = -1
    matrix[1:, 1:] += _jacobsthal(q)
    return matrix


def _paley_ii(q: int) -> Tensor:
    conference = torch.zeros(q + 1, q + 1, dtype=torch.int8)
    conference[0, 1:] = 1
    conference[1:, 0] = 1
    conference[1:, 1:] = _jacobsthal(q)
    pair = torch.tensor([[1, 1], [1, -1]], dtype=torch.int8)
    corner = torch.tensor([[1, -1], [-1, -1]], dtype=torch.int8)
    return _kron(conference, pair) + _kron(torch.eye(q + 1, dtype=torch.int8), corner)


def _williamson(size: int, codes: Sequence[int]) -> Tensor:
    a, b, c, d = (_circulant(size, code) for code in codes)
    rows = ((a, b, c, d), (-b, a, -d, c), (-c, d, a, -b), (-d, -c, b, a))
    return torch.cat([torch.cat(row, 1) for row in rows])


def _circulant(size: int, code: int) -> Tensor:
    row = torch.full((size,), -1, dtype=torch.int8)
    row[0] = 1
    for place in range(1, (size - 1) // 2 + 1):
        if code >> (place - 1) & 1:
            row[place] = row[size - place] = 1
    places = torch.arange(size)
    return row[(places[None] - places[:, None]) % size]


def _jacobsthal(q: int) -> Tensor:
    """Q[i, j] = chi(i - j): one for a square of the field of q elements, minus one for no square, zero for zero."""
    base, degree = _prime_power(q) or (q, 1)
    modulus = _irreducible(base, degree)
    elements = list(product(range(base), repeat=degree))
    weights = torch.tensor([base**place for place in range(degree)])
    character = torch.full((q,), -1, dtype=torch.int8)
    for element in elements:
        square = _remainder(_product(element, element, base), modulus, base)
        character[sum(digit * base**place for place, digit in enumerate(square))] = 1
    character[0] = 0
    digits = torch.tensor(elements)
    differences = (digits[:, None] - digits[None]) % base
    return character[(differences * weights).sum(-1)]


def _prime_power(number: int) -> tuple[int, int] | None:
    """Prime and exponent of an odd prime power; None for anything else."""
    if number < 3 or number % 2 == 0:
        return None
    base = next((d for d in range(3, math.isqrt(number) + 1, 2) if number % d == 0), number)
    exponent = 0
    while number % base == 0:
        number, exponent = number // base, exponent + 1
    return (base, exponent) if number == 1 else None


def _irreducible(base: int, degree: int) -> tuple[int, ...]:
    """Coefficients of a monic polynomial without divisors, lowest first."""
    for low in product(range(base), repeat=degree):
        candidate = (*low, 1)
        divisors = (
            (*coefficients, 1)
            for size in range(1, degree // 2 + 1)
            for coefficients in product(range(base), repeat=size)
        )
        if all(any(_remainder(candidate, divisor, base)) for divisor in divisors):
            return candidate
    raise SpecError(f"there is no field of {base}^{degree} elements")


def _product(left: Sequence[int], right: Sequence[int], base: int) -> list[int]:
    found = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            found[i + j] = (found[i + j] + a * b) % base
    return found


def _remainder(value: Sequence[int], divisor: Sequence[int], base: int) -> list[int]:
    """Remainder by a monic polynomial, as long as the divisor's degree."""
    rest, degree = list(value), len(divisor) - 1
    while len(rest) > degree:
        lead = rest.pop()
        for place in range(degree):
            rest[len(rest) - degree + place] = (rest[len(rest) - degree + place] - lead * divisor[place]) % base
    return rest + [0] * (degree - len(rest))
