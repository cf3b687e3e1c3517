"""The error kinds of qcompiler and the one shape of their message: what, where, which pass, what to do."""

from __future__ import annotations


class QCompilerError(Exception):
    """Base of every error that qcompiler raises on purpose.

    Args:
        what: one sentence that says what is wrong.
        where: text of the node, file or input at fault.
        step: name of the pass or stage that found it.
        mend: what the user can do about it.
    """

    def __init__(self, what: str, *, where: str = "", step: str = "", mend: str = "") -> None:
        self.what, self.where, self.step, self.mend = what, where, step, mend
        lines = [what]
        lines += [f"  where: {where}"] if where else []
        lines += [f"  in:    {step}"] if step else []
        lines += [f"  mend:  {mend}"] if mend else []
        super().__init__("\n".join(lines))


class SpecError(QCompilerError):
    """A format, spec, scheme, recipe or budget text that cannot be read or makes no sense."""


class ParseError(QCompilerError):
    """A `.qir` text that cannot be parsed; `where` holds the line."""


class VerifyError(QCompilerError):
    """A Program that breaks a rule of its stage."""


class PassError(QCompilerError):
    """A pass that failed or broke its promise."""


class UnsupportedError(QCompilerError):
    """A model, operator or request that qcompiler or the target cannot handle."""


class InputError(QCompilerError):
    """Bad input from the user: files, data, shapes, names, paths."""


class AuditError(QCompilerError):
    """A strict compilation in which a layer does not run as it was asked to."""
