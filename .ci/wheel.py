"""Builds the wheel and tries it in a fresh environment outside the checkout.

The environment borrows torch and the other dependencies of the interpreter that runs this script, so nothing
large is installed twice. Run by `make wheel`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
TRY = """
import sys
import qcompiler
assert qcompiler.__file__.startswith(sys.prefix), qcompiler.__file__
assert "torch" not in sys.modules

import torch
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
batches = list(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)).split(16))
artifact = qcompiler.compile(model, calibration=batches, recipe="w8a8", output="artifact")
again = qcompiler.load("artifact")
assert torch.equal(artifact(batches[1]), again(batches[1]))
assert artifact.report.sqnr_db > 20, artifact.report.sqnr_db
print(f"compiled, saved, loaded and ran: {artifact.report.sqnr_db:.1f} dB")
"""


def main() -> None:
    """Build, install, try."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-wheel-") as name:
        folder = Path(name)
        wheel = build(folder / "dist")
        environment = folder / "venv"
        venv.create(environment, with_pip=True)
        run(environment / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", wheel, at=folder)
        borrow_dependencies(environment)
        run(environment / "bin/qcompiler", "--help", at=folder)
        run(environment / "bin/qcompiler", "targets", at=folder)
        run(environment / "bin/python", "-c", TRY, at=folder)
        run(environment / "bin/qcompiler", "dump", "artifact", at=folder)


def build(folder: Path) -> Path:
    """The wheel of the checkout, built into `folder`."""
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, CHECKOUT, at=CHECKOUT)
    return next(folder.glob("*.whl"))


def borrow_dependencies(environment: Path) -> None:
    """Makes this interpreter's packages visible to `environment`, behind its own."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")


def run(*command: object, at: Path) -> None:
    """Runs a command outside the checkout's Python path; its failure is ours."""
    words = [str(word) for word in command]
    print("+", *(word if "\n" not in word else "..." for word in words), flush=True)
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(words, cwd=at, env=clean, check=True)


if __name__ == "__main__":
    main()
