"""The rules of the house: which room may know which, and what `import ranvier` may cost."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAY_KNOW = {
    "kernels": {"kernels"},
    "layers": {"kernels", "layers"},
    "train": {"kernels", "layers", "train"},
    "profiling": {"kernels", "layers", "train", "profiling"},
}
FILES = [path for room in MAY_KNOW for path in sorted((ROOT / room).rglob("*.py"))]


def rooms_imported(path: Path) -> set[str]:
    """The rooms that a file imports from, by its import statements, lazy ones too."""
    package = ["ranvier", *path.relative_to(ROOT).parent.parts]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            targets = [f"{full}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {target.split(".")[1] for target in targets if target.startswith("ranvier.")}
        rooms |= {"the face" for target in targets if target == "ranvier"}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    allowed = set(MAY_KNOW[room])
    if "recipes" in path.parts:
        allowed.add("the face")  # a recipe is a user's program
    assert rooms_imported(path) <= allowed


def test_the_rule_sees_a_breach(tmp_path):
    breach = ROOT / "kernels" / "_breach_for_a_test.py"
    assert rooms_imported_from("from ..layers import Dense", breach) == {"layers"}
    assert rooms_imported_from("def f():\n    import ranvier.train", breach) == {"train"}


def rooms_imported_from(source: str, path: Path) -> set[str]:
    path.write_text(source)
    try:
        return rooms_imported(path)
    finally:
        path.unlink()


def run_python(code: str) -> str:
    # As a user's Python does, it may keep its bytecode.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def test_import_brings_no_heavy_package():
    loaded = run_python("import sys, ranvier; print(*sys.modules)").split()
    heavy = {"numba", "cupy", "triton", "torch", "matplotlib", "scipy", "sklearn", "onnx"}
    assert not heavy & set(loaded)


def test_no_file_outgrows_a_reader():
    long = {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 550}
    assert not long
