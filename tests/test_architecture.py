"""Imports run one way, and the public surface stays small."""

import ast
from pathlib import Path

import pytest

import rasura

SOURCE = Path(rasura.__file__).parent

FLOORS = [
    {"errors"},
    {"exits", "progress", "files", "kinds", "memory", "user_code", "randomness"},
    {"identity", "sealed", "checkpoints"},
    {"data"},
    {"models"},
    {"training"},
    {"activations", "class_order"},
    {"methods", "auditing"},
    {"trials"},
    {"recipes", "report", "strength"},
    {"contents"},
    {"finding"},
    {"audits"},
    {"runs", "testing"},
    {"bench", "compare", "demo", "listing", "tables"},
    {"public"},
    {"options", "parsing"},
    {"given"},
    {"cli"},
    {"__main__"},
]
"""From the ground up: a module imports from floors below its own, or from its own package."""

LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}
LAZY_UPWARD = {("contents", "rasura"), ("cli", "rasura")}
"""The package itself, for its version and public names."""


def _part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """The parts of rasura that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if node.module == "rasura" else node.module for alias in node.names}
    return {name.split(".")[1] if "." in name else name for name in found if name.split(".")[0] == "rasura"}


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_come_from_lower_floors(path: Path) -> None:
    part = _part(path)
    assert part in LEVEL, f"{part} has no floor: add it to FLOORS"
    for imported in _imports(path) - {part}:
        if (part, imported) in LAZY_UPWARD:
            continue
        assert imported in LEVEL, f"{path.name} imports rasura.{imported}, which has no floor"
        assert LEVEL[imported] < LEVEL[part], f"{path.name} imports upwards: {part} → {imported}"


def test_no_two_methods_import_each_other() -> None:
    methods = {path.stem for path in (SOURCE / "methods").glob("[a-z]*.py")} - {"contract"}
    for name in methods:
        text = (SOURCE / "methods" / f"{name}.py").read_text(encoding="utf-8")
        others = {f"rasura.methods.{other}" for other in methods - {name}}
        assert not any(f"from {other} import" in text for other in others)


def test_the_public_surface_is_small_and_real() -> None:
    assert len(rasura.__all__) <= 25
    for name in rasura.__all__:
        assert getattr(rasura, name) is not None
    assert callable(rasura.audit)


def test_hooks_live_in_one_module() -> None:
    users = {path for path in FILES if "register_forward" in path.read_text(encoding="utf-8")}
    assert {path.name for path in users} == {"taps.py"}


def test_nothing_is_unpickled() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert "allow_pickle=False" in ast.unparse(node), path
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in ("pickle.load", "pickle.loads")), path
