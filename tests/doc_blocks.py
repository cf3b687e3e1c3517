"""The code blocks of the documentation: found, run, compared with what the page shows, and written anew.

`python` runs, `console` runs its `$` lines, a `text` block right behind either kind of `python` block is what that
printed, `qir` is parsed and verified, a block with a `title` is written to that file, and `sh` holds commands of the
reader's own shell, which must name things that exist.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner

from qcompiler.cli.app import app
from qcompiler.errors import exit_code_of
from qcompiler.ir.parse import parse_program
from qcompiler.ir.verify import verify

LANGUAGES = frozenset({"console", "python", "qir", "sh", "text", "yaml"})
