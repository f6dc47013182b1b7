"""The rules of the layout, read from the source: who may import whom, no drawers, nothing undocumented."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, SHARED

OURS = ("benchmark", "methods", "dynconf", "leaderboard", "slurm")
SOURCES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))
DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
LIBRARIES = {
    "torch",
    "torchvision",
    "timm",
    "datasets",
    "pandas",
    "tabulate",
    "submitit",
    "click",
    "pydantic",
    "scipy",
    "numpy",
    "tqdm",
    "safetensors",
    "sklearn",
    "matplotlib",
    "PIL",
    "pytest",
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def names_of(paths):
    return [path.relative_to(ROOT).as_posix() for path in paths]


@dataclass(frozen=True)
class Import:
    """`module` is what is imported; for `from a import b` it is a.b if that is a module of ours."""

    module: str
    line: int
    inside_function: bool


def imports(source, name="", is_package=False):
    """Every import of a module, also inside functions and under TYPE_CHECKING."""
    found = []

    def visit(node, inside):
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".") if node.level else []
            up = node.level - (1 if is_package else 0)
            base = base[: len(base) - up] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            found.extend(
                Import(full if is_module(full := f"{start}.{alias.name}") else start, node.lineno, inside)
                for alias in node.names
            )
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


def is_module(dotted):
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports_of_ours(path):
    name, package = module_name(path), path.name == "__init__.py"
    return [found for found in imports(path.read_text(), name, package) if found.module.split(".")[0] in OURS]


def within(module, *allowed):
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


ALLOWED = {
    "methods": ("methods",),
    "dynconf": ("dynconf",),
    "leaderboard": ("leaderboard", "benchmark.records"),
    "slurm": (
        "slurm",
        "benchmark.spec",
        "benchmark.runner",
        "benchmark.records",
        "benchmark.training",
        "benchmark.sweeps",
        "benchmark.errors",
        "benchmark.provenance",
        "benchmark.store",
    ),
    "benchmark": ("benchmark", "methods", "dynconf"),
}
ALLOWED_IN_CLI = (*ALLOWED["benchmark"], "leaderboard", "slurm")


@pytest.mark.parametrize("path", SOURCES, ids=names_of(SOURCES))
def test_imports_go_one_way(path):
    package = module_name(path).split(".")[0]
    in_cli = within(module_name(path), "benchmark.cli")
    allowed = ALLOWED_IN_CLI if in_cli else ALLOWED[package]
    for found in imports_of_ours(path):
        where = f"{path.relative_to(ROOT)}:{found.line} imports {found.module}"
        assert within(found.module, *allowed), where
        if in_cli and within(found.module, "leaderboard", "slurm"):
            assert found.inside_function, f"{where} outside a handler"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import benchmark.records", [("benchmark.records", False)]),
        ("from benchmark import records", [("benchmark.records", False)]),
        ("from benchmark.records import Curve", [("benchmark.records", False)]),
        ("import torch, slurm as s", [("torch", False), ("slurm", False)]),
        ("def f():\n    from leaderboard import Leaderboard", [("leaderboard", True)]),
        ("class A:\n    import slurm\n    def f(self):\n        import slurm", [("slurm", False), ("slurm", True)]),
        ("if TYPE_CHECKING:\n    from methods.base import X", [("methods.base", False)]),
        ("from . import store", [("benchmark.store", False)]),
        ("from ..methods import qcfs", [("methods.qcfs", False)]),
        ("try:\n    import slurm\nexcept ImportError:\n    slurm = None", [("slurm", False)]),
    ],
)
def test_the_reader_of_imports_sees_all(source, expected):
    assert [(found.module, found.inside_function) for found in imports(source, "benchmark.x")] == expected


def test_every_source_is_read():
    assert {module_name(path).split(".")[0] for path in SOURCES} == set(OURS)
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=names_of(SOURCES))
def test_no_file_is_a_drawer_or_shadows_a_library(path):
    name = path.parent.name if path.stem == "__init__" else path.stem
    assert name not in DRAWERS
    if path.stem != "__init__":
        assert name not in LIBRARIES
        assert name.startswith("__") or name not in sys.stdlib_module_names


def test_the_listed_packages_are_those_that_exist():
    setuptools = (ROOT / "pyproject.toml").read_text().partition("[tool.setuptools]\n")[2]
    listed = re.findall('"(.+?)"', setuptools.partition("packages = [")[2].partition("]")[0])
    found = {module_name(path) for path in SOURCES if path.name == "__init__.py"}
    assert sorted(listed) == sorted(found)
    without = {path.parent for path in SOURCES} - {path.parent for path in SOURCES if path.name == "__init__.py"}
    assert not without, "folders of modules without __init__.py"
    at_top = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert at_top == set(OURS)


def does_nothing(statement):
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


@pytest.mark.parametrize("path", SOURCES, ids=names_of(SOURCES))
def test_no_error_is_swallowed_and_nothing_is_printed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: bare except"
            assert not all(map(does_nothing, node.body)), f"{where}: an error is swallowed"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{where}: print()"


DOCUMENTED = [path for path in SOURCES if module_name(path).split(".")[0] in ("methods", "dynconf")]


@pytest.mark.parametrize("path", DOCUMENTED, ids=names_of(DOCUMENTED))
def test_everything_public_says_what_it_does(path):
    """A method that overrides a documented one needs no words of its own."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module itself"
    module = importlib.import_module(module_name(path))
    missing = []
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            missing.append(node.name)
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and not ast.get_docstring(part):
                inherited = inspect.getdoc(getattr(getattr(module, node.name), part.name))
                missing += [] if inherited else [f"{node.name}.{part.name}"]
    assert not missing


def test_importing_dynconf_or_the_tables_needs_no_torch():
    program = (
        "import sys, methods, dynconf, dynconf.names, benchmark.data, benchmark.backbones, benchmark.registry;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60).returncode == 0


def test_no_test_depends_on_this_machine():
    for path in Path(__file__).parent.rglob("*.py"):
        assert str(ROOT) not in path.read_text() and str(SHARED) not in path.read_text(), path
