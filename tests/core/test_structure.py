"""The imports of the package: where each room may look, no circle, and the host's modules behind the ports alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import alignit

ROOT = Path(alignit.__file__).parent

# Room by room, which others it may import from; the longest name that fits counts. Nobody else may be imported from.
ARROWS: Mapping[str, frozenset[str]] = {
    room: frozenset(others.split())
    for room, others in {
        "alignit": "",
        "alignit.patches": "",
        "alignit.prompt": "alignit",
        "alignit.concepts": "alignit alignit.patches alignit.prompt",
        "alignit.algorithm": "alignit alignit.patches alignit.prompt alignit.concepts",
        "alignit.maps": "alignit alignit.patches alignit.prompt alignit.concepts alignit.algorithm",
        "alignit.diffusers": ("alignit alignit.patches alignit.prompt alignit.concepts alignit.algorithm alignit.maps"),
        "alignit.webui": "alignit",
        "alignit.webui.host": "alignit alignit.patches alignit.concepts",
        "alignit.webui.settings": "alignit.webui.host",
        "alignit.webui.networks": (
            "alignit alignit.patches alignit.prompt alignit.concepts alignit.algorithm "
            "alignit.webui.host alignit.webui.settings"
        ),
        "alignit.webui.generation": (
            "alignit alignit.patches alignit.prompt alignit.concepts alignit.algorithm alignit.maps "
            "alignit.webui.host alignit.webui.settings alignit.webui.networks"
        ),
        "alignit.webui.ui": (
            "alignit alignit.patches alignit.prompt alignit.concepts alignit.algorithm alignit.maps "
            "alignit.webui.host alignit.webui.settings alignit.webui.networks alignit.webui.generation"
        ),
    }.items()
}

HOST = "alignit.webui.host"

# Of the host's modules, those that hold the base classes and the pieces of its page; all others are the ports' own.
PAGE = {
    "alignit.webui.ui.axes": {"modules.scripts"},
    "alignit.webui.ui.metadata_editor": {"modules.ui_extra_networks_user_metadata"},
    "alignit.webui.ui.pages": {"modules.ui_extra_networks"},
    "alignit.webui.ui.panel": {"modules.ui_components"},
    "alignit.webui.ui.script": {"modules.scripts"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def imported(path: Path) -> tuple[tuple[str, bool], ...]:
    """Return each module that a file imports, and whether it does so as it is loaded, not in a function."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    late = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        at_once = id(node) not in late
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: a relative import"
            assert node.level == 0, f"{path}: a relative import"
            yield from ((f"{node.module}.{alias.name}", at_once) for alias in node.names)


def own(name: str) -> str | None:
    """Return the module of the package that an imported name is, or is in."""
    while name:
        if name in MODULES:
            return name
        name = name.rpartition(".")[0]
    return None


def imports_of(module: str) -> dict[str, bool]:
    """Return the package's modules that a module imports, and whether as it is loaded."""
    found: dict[str, bool] = {}
    for name, at_once in imported(MODULES[module]):
        target = own(name)
        if target is not None and target != module:
            found[target] = found.get(target, False) or at_once
    return found


def room_of(module: str) -> str:
    return max((room for room in ARROWS if f"{module}.".startswith(f"{room}.")), key=len)


def test_the_rooms_follow_the_arrows() -> None:
    wrong = [
        f"{module} -> {target}"
        for module in MODULES
        for target in imports_of(module)
        if room_of(target) not in ARROWS[room_of(module)] | {room_of(module)}
    ]
    assert wrong == []


def test_the_arrows_themselves_have_no_circle() -> None:
    assert circle({room: sorted(others) for room, others in ARROWS.items()}) is None


def test_no_modules_import_each_other_in_a_circle() -> None:
    # An import in a function, too: it would be a circle for whoever reads.
    assert circle({module: list(imports_of(module)) for module in MODULES}) is None


def circle(graph: Mapping[str, list[str]]) -> list[str] | None:
    """Return the names along a circle, or None."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in graph[name]:
            found = visit(target, [*path, name])
            if found:
                return found
        done.add(name)
        return None

    return next((found for name in graph if (found := visit(name, []))), None)


def test_a_circle_is_found() -> None:
    assert circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": []}) is None


def host_modules(module: str) -> dict[str, bool]:
    return {name: at_once for name, at_once in imported(MODULES[module]) if f"{name}.".startswith("modules.")}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith(HOST)])
def test_the_hosts_modules_are_behind_the_ports(module: str) -> None:
    assert set(host_modules(module)) <= PAGE.get(module, set())


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(HOST)])
def test_the_ports_import_the_hosts_modules_late(module: str) -> None:
    assert not [name for name, at_once in host_modules(module).items() if at_once]


def test_the_table_of_the_page_is_no_longer_than_what_is_used() -> None:
    assert {module: set(host_modules(module)) for module in PAGE} == PAGE
