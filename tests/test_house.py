"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOMES = {"qcompiler": "qcompiler", "passes": "qcompiler.passes", "backends": "qcompiler.backends"}
FAMILIES = ("canonical", "allocate", "transform", "lower", "calibrate", "solve")
LONGEST_FILE = 400
ARCHITECTURES = ("resnet", "mobilenet", "efficientnet", "llama", "mistral", "gemma", "qwen", "bert", "gpt", "whisper")
METHODS_NAMED_LIKE_THEM = ("gptq", "gptaq", "slicegpt")
MARKS = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")


def product_files() -> list[Path]:
    """Every Python file of the product; the links inside qcompiler/ are not followed."""
    found = [path for home in HOMES for path in (ROOT / home).rglob("*.py")]
    return sorted(path for path in found if not _through_link(path))


def module_name(path: Path) -> str:
    """Dotted name under which a product file is imported."""
    home, *rest = path.relative_to(ROOT).with_suffix("").parts
    parts = [HOMES[home], *rest]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _through_link(path: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents)


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in product_files():
        yield path, ast.parse(path.read_text(), filename=str(path))


def _where(path: Path, node: ast.AST) -> str:
    return f"{_id(path)}:{getattr(node, 'lineno', 1)}"


def test_the_package_list_is_the_tree() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in product_files()}
    tree = {module_name(folder / "__init__.py") for folder in folders}
    assert sorted(settings["packages"]) == sorted(tree)


def test_every_package_says_what_it_is() -> None:
    folders = {path.parent for path in product_files()}
    assert [_id(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_every_data_file_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    others = [path for home in HOMES for path in (ROOT / home).rglob("*") if path.is_file() and path.suffix != ".py"]
    kept = [
        path for path in others if not _through_link(path) and "__pycache__" not in path.parts and path.suffix != ".md"
    ]
    assert [_id(path) for path in kept if not any(path.match(pattern) for pattern in patterns)] == []


def test_every_module_stands_on_a_floor() -> None:
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = [name.strip() for layer in contract["layers"] for name in layer.split("|")]
    modules = [module_name(path) for path in product_files()]
    placed = {name for name in modules if any(name == floor or name.startswith(f"{floor}.") for floor in floors)}
    packages = {"qcompiler", "qcompiler.__main__", "qcompiler.ir", "qcompiler.passes", "qcompiler.backends"}
    assert sorted(set(modules) - placed - packages) == []


def test_files_stay_short() -> None:
    lengths = {_id(path): len(path.read_text().splitlines()) for path in product_files()}
    assert {name: lines for name, lines in lengths.items() if lines >= LONGEST_FILE} == {}


def test_no_unfinished_marks() -> None:
    found = []
    for path in product_files():
        with path.open("rb") as file:
            comments = [token for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
        found += [f"{_id(path)}:{token.start[0]}" for token in comments if any(mark in token.string for mark in MARKS)]
    assert found == []


def test_no_environment_and_no_globals() -> None:
    found = []
    for path, tree in _trees():
        for node in ast.walk(tree):
            reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
            if reads or isinstance(node, ast.Global):
                found.append(_where(path, node))
    assert found == []


def test_no_bare_except_and_no_swallowed_error() -> None:
    found = []
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                silent = all(isinstance(line, ast.Pass) for line in node.body)
                broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
                if node.type is None or (broad and silent):
                    found.append(_where(path, node))
    assert found == []


def test_no_asserts_in_the_product() -> None:
    asserts = [_where(path, node) for path, tree in _trees() for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert asserts == []


def test_passes_and_backends_know_no_architecture() -> None:
    found = []
    for path in product_files():
        if path.relative_to(ROOT).parts[0] in ("passes", "backends"):
            text = path.read_text().lower()
            for method in METHODS_NAMED_LIKE_THEM:
                text = text.replace(method, "")
            found += [f"{_id(path)}: {name}" for name in ARCHITECTURES if name in text]
    assert found == []


def test_public_things_have_docstrings() -> None:
    found = []
    for path, tree in _trees():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                found += [] if ast.get_docstring(node) else [_where(path, node)]
    assert found == []


def test_every_package_and_module_has_a_docstring() -> None:
    empty = [path for path, tree in _trees() if not ast.get_docstring(tree)]
    allowed = {ROOT / "passes/__init__.py", ROOT / "backends/__init__.py"}
    assert [_id(path) for path in empty if path not in allowed] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pass_is_in_its_family_tuple(family: str) -> None:
    package = importlib.import_module(f"qcompiler.passes.{family}")
    written = {f"{name}" for path in sorted((ROOT / "passes" / family).rglob("*.py")) for name in _pass_classes(path)}
    assert {cls.__name__ for cls in package.PASSES} == written


def _pass_classes(path: Path) -> list[str]:
    """Classes that have a pass's face: a stage they need and a run method."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            fields = {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
            methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            found += [node.name] if "needs" in fields and "run" in methods else []
    return found


def test_every_family_is_in_the_catalogue() -> None:
    from qcompiler.passes.recipes import catalogue

    folders = [path.parent.name for path in (ROOT / "passes").glob("*/__init__.py")]
    assert sorted(FAMILIES) == sorted(set(folders) - {"recipes"})
    names = [cls.name for cls in catalogue()]
    assert len(names) == len(set(names))
    for family in FAMILIES:
        assert set(importlib.import_module(f"qcompiler.passes.{family}").PASSES) <= set(catalogue())


def _python(code: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, qcompiler; print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    assert _python(code).stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, qcompiler.cli.app as app; app.run(['--help']); app.run(['compile', '--help']);"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules)))"
    )
    assert _python(code).stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("folder", ["passes", "backends"])
def test_the_top_folders_refuse_other_names(folder: str) -> None:
    answer = _python(f"import {folder}")
    assert answer.returncode == 1
    assert f"import this package as 'qcompiler.{folder}'" in answer.stderr


def test_every_public_name_is_there() -> None:
    import qcompiler

    for name in qcompiler.__all__:
        assert getattr(qcompiler, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qcompiler.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_the_package_face_survives_importing_its_modules() -> None:
    modules = [module_name(path) for path in product_files() if not path.name.startswith("__")]
    code = (
        f"import importlib, types\nfor name in {[name for name in modules if name.count('.') == 1]}:\n"
        "    importlib.import_module(name)\n"
        "import qcompiler\n"
        "modules = [n for n in qcompiler.__all__ if isinstance(getattr(qcompiler, n), types.ModuleType)]\n"
        "print(modules, callable(qcompiler.compile))"
    )
    assert _python(code).stdout.strip() == "['errors'] True"
