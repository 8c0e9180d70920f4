"""The package's imports, read from its source: which module names which, at its top or inside a function."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ptl_prefix"


@dataclass(frozen=True)
class Imported:
    """One import.

    Args:
        importer: The module that imports, as a dotted path.
        name: The module that is imported, as a dotted path.
        is_lazy: Whether it is imported inside a function or for type checkers alone.
    """

    importer: str
    name: str
    is_lazy: bool

    @property
    def library(self) -> str | None:
        """The third-party library; `None` for the standard library and this package."""
        top = self.name.partition(".")[0]
        return None if top in sys.stdlib_module_names or top in ("ptl_prefix", "hydra_plugins") else top


@cache
def modules() -> Mapping[str, Path]:
    """Every module of the package, by dotted path."""
    paths = sorted(PACKAGE.rglob("*.py"))
    dotted = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in dotted.items()}


@cache
def imports() -> tuple[Imported, ...]:
    """Every import of the package."""
    return tuple(one for module, path in modules().items() for one in _imports_of(module, path))


def edges(within: str = "ptl_prefix", *, lazy: bool = False) -> dict[str, set[str]]:
    """Which modules of a package import which others of it.

    Args:
        within: Dotted path of the package.
        lazy: Whether imports inside functions count, too.
    """
    inside = {name for name in modules() if name == within or name.startswith(f"{within}.")}
    graph: dict[str, set[str]] = {name: set() for name in inside}
    for one in imports():
        if one.importer in inside and one.name in inside and one.name != one.importer and (lazy or not one.is_lazy):
            graph[one.importer].add(one.name)
    return graph


def reached(start: str) -> set[str]:
    """What is imported when a module is: modules and libraries, however indirectly."""
    found, waiting = set(), [start]
    by_importer: dict[str, list[str]] = {}
    for one in imports():
        if not one.is_lazy:
            by_importer.setdefault(one.importer, []).append(one.library or one.name)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        parents = [name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)]
        waiting += [*by_importer.get(name, []), *(parent for parent in parents if parent in modules())]
    return found


def levels(graph: Mapping[str, set[str]]) -> int:
    """The number of modules on the longest chain of imports; the graph must have no circles."""

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(other) for other in graph[name]), default=0)

    return max(map(depth, graph), default=0)


def _imports_of(module: str, path: Path) -> Iterator[Imported]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_top = {id(node) for statement in tree.body for node in _run_at_import(statement)}
    for node in ast.walk(tree):
        is_lazy = id(node) not in at_top
        if isinstance(node, ast.Import):
            yield from (Imported(module, alias.name, is_lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"imports are absolute, but {module} has a relative one"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [name for name in submodules if name in modules()]
            yield from (Imported(module, name, is_lazy) for name in known)
            if len(known) < len(submodules):
                yield Imported(module, node.module, is_lazy)


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _run_at_import(child)
