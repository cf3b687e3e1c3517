"""Names in generated C: what may be one, and how text of a model is shown without ever being read as C."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qcompiler.errors import InputError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl concept const consteval "
    "constexpr constinit const_cast continue co_await co_return co_yield decltype default delete do double "
    "dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable namespace "
    "new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires "
    "restrict return short signed sizeof static static_assert static_cast struct switch template this thread_local "
    "throw true try typedef typeid typename typeof union unsigned using virtual void volatile wchar_t while xor xor_eq "
    "NULL INFINITY NAN main model stdin stdout stderr errno"
)
_REAL_FUNCTIONS = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs fdim floor fma "
    "fmax fmin fmod frexp hypot ilogb ldexp lgamma llrint llround log log10 log1p log2 logb lrint lround modf nan "
    "nearbyint nextafter nexttoward pow remainder remquo rint round scalbln scalbn sin sinh sqrt tan tanh tgamma trunc"
)
_FUNCTIONS = (
    "abs labs llabs div exit abort malloc calloc realloc free memchr memcmp memcpy memmove memset strcat strchr strcmp "
    "strcoll strcpy strcspn strerror strlen strncat strncmp strncpy strpbrk strrchr strspn strstr strtok strxfrm "
    "isfinite isinf isnan isnormal signbit fpclassify printf puts putchar index"
)
_KEYWORDS = frozenset(
    [
        *_WORDS.split(),
        *_FUNCTIONS.split(),
        *(f"{name}{end}" for name in _REAL_FUNCTIONS.split() for end in ("", "f", "l")),
    ]
)
"""Of C11, C23 and C++20, what headers define as macros, and functions that compilers know."""


def is_name(text: str) -> bool:
    """Whether generated C may define this name: no word of C, C++ or their library, nothing of the runtime."""
    return bool(_NAME.fullmatch(text)) and text not in _KEYWORDS and not text.lower().startswith("qc_")


def check_names(kind: str, names: Iterable[str]) -> None:
    """Every name may be defined, and none is defined twice.

    Raises:
        InputError: with the name.
    """
    seen: set[str] = set()
    for name in names:
        if not is_name(name) or name in seen:
            fault = "is there twice" if name in seen else "cannot be a name in C"
            raise InputError(f"the {kind} {comment(name)!r} {fault}", step="write_project")
        seen.add(name)


def parameters(names: Iterable[str]) -> list[str]:
    """The names of ports as parameters of a function; those that C keeps for itself get a line behind them.

    Raises:
        InputError: for one that is not letters, digits and lines.
    """
    chosen: list[str] = []
    for name in names:
        while name in chosen or name in _KEYWORDS:
            name = f"{name}_"
        chosen.append(name)
    check_names("port", chosen)
    return chosen


def comment(text: str) -> str:
    """Any text as printable ASCII on one line that a comment of C, a string of CMake and a line of Markdown can hold.

    Nothing in it ends a comment, begins one, joins lines or is replaced by the preprocessor.
    """
    plain = text.encode("unicode_escape").decode("ascii").replace("\\", "/")
    return re.sub(r'[`"$;<>]', "'", re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", plain))


class Names:
    """Identifiers that are given once each."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        """`wanted` as an identifier, with a number behind it when another has it."""
        base = identifier(wanted)
        name, count = base, 1
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        return name


def identifier(text: str) -> str:
    """Letters, digits and single underscores; never a word of C, nor a name of the runtime's."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_") or "value"
    return name if is_name(name) else f"m_{name}"
