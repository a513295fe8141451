"""Who may import whom: the table of the architecture, enforced over the whole tree."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"shards", "dali_pipes", "tsn", "launch", "train", "scripts"}

FORBIDDEN = {
    "shards": {"torch", "torchvision", "nvidia", "dali_pipes", "tsn", "launch", "train", "scripts"},
    "dali_pipes": {"torchvision", "timm", "tsn", "launch", "train", "scripts"},
    "tsn": {"nvidia", "dali_pipes", "shards", "launch", "train", "scripts"},
    "launch.py": {"nvidia", "train", "scripts"},
}
ALLOWED_LEAF = "tsn.config"
"""The dataclasses of the config, which every package may import."""


def sources(name: str) -> list[Path]:
    path = ROOT / name
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_package_imports_what_it_must_not_know(package):
    assert sources(package)
    for path in sources(package):
        for module in imported_modules(path):
            if module != ALLOWED_LEAF:
                assert module.split(".")[0] not in FORBIDDEN[package], (
                    f"{path.relative_to(ROOT)} imports {module}"
                )


def test_only_launch_builds_loaders_and_only_when_asked():
    tree = ast.parse((ROOT / "launch.py").read_text())
    at_import = {module for node in tree.body if isinstance(node, ast.ImportFrom) for module in [node.module]}
    assert not any(module.startswith("dali_pipes") for module in at_import)


def test_the_config_leaf_imports_nothing_of_ours():
    assert not {module.split(".")[0] for module in imported_modules(ROOT / "tsn" / "config.py")} & OURS


@pytest.mark.parametrize("package", ["shards", "dali_pipes", "tsn"])
def test_package_files_define_nothing(package):
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    assert all(isinstance(node, ast.Expr) for node in tree.body), "a docstring at most"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tsn.model, tsn.engine, tsn.run", ["nvidia.dali", "dali_pipes", "shards", "tensorboard"]),
        ("import launch", ["nvidia.dali", "dali_pipes", "tensorboard"]),
        ("import shards.reading, shards.packing", ["torch", "nvidia.dali", "tsn"]),
    ],
)
def test_importing_loads_nothing_heavy(statement, absent):
    code = f"{statement}; import sys; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
