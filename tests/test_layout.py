"""The house: imports go one way, and ESC can be read from its network file."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import esc_arch

ROOT = Path(esc_arch.__file__).parent
# From the bottom to the top: a folder imports from those before it alone.
ORDER = ("ops", "fast", "layers", "archs")


def module_name(path: Path) -> str:
    parts = ("esc_arch", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, inside functions too, for typing alone not."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for_typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in set(ast.walk(tree)) - for_typing:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen, todo = set(), list(graph.get(start, ()))
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph.get(name, ())
    return seen


def package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_no_circles_between_modules():
    assert [name for name in IMPORTS if name in reachable(IMPORTS, name)] == []


def test_no_circles_between_packages():
    graph = defaultdict(set)
    for name, found in IMPORTS.items():
        graph[package(name)] |= {package(other) for other in found} - {package(name)}
    assert [name for name in graph if name in reachable(graph, name)] == []


def test_the_networks_stand_on_what_is_below_them():
    for i, folder in enumerate(ORDER):
        below = {f"esc_arch.{name}" for name in ORDER[: i + 1]}
        for name, found in IMPORTS.items():
            if package(name) == f"esc_arch.{folder}":
                others = {package(other) for other in found} & {f"esc_arch.{o}" for o in ORDER}
                assert others <= below, name


def test_pixels_and_files_stand_on_errors_and_files_alone():
    below = {"esc_arch.errors", "esc_arch.files", "esc_arch.imaging", "esc_arch.machine"}
    for name, found in IMPORTS.items():
        if package(name) == "esc_arch.imaging":
            assert {package(other) for other in found} <= below, name


def test_the_network_file_needs_few_others():
    """Beside what only builds, registers and loads, for every line that runs in inference."""
    start = "esc_arch.archs.esc_arch"
    aside = {
        "esc_arch.archs.config",
        "esc_arch.layers.scale_transfer",
        "esc_arch.plugin.registration",
        "esc_arch.fast",  # names alone
    }
    others = {name for name in reachable(IMPORTS, start) if name.count(".") > 1} - aside
    others -= {"esc_arch.archs", "esc_arch.ops", "esc_arch.layers"}
    assert len(others) <= 8, sorted(others)


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


DIALECT = re.compile(r"\b(?:anew|mend(?:s|ed|ing)?|told)\b", re.IGNORECASE)


def docstrings(tree: ast.Module) -> list[ast.Constant]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = (n for n in ast.walk(tree) if isinstance(n, kinds) and ast.get_docstring(n))
    return [node.body[0].value for node in documented]


def test_locks_are_those_of_files():
    """fcntl is Unix's alone; esc_arch.files knows another way where it is not."""
    found = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in getattr(node, "names", ()) if hasattr(alias, "name")]
            module = getattr(node, "module", None)
            if isinstance(node, ast.Import | ast.ImportFrom) and "fcntl" in (*names, module):
                found.append(name)
    assert found in ([], ["esc_arch.files"])


def test_no_two_modules_of_one_name():
    """A module of esc_arch.cli bears the name of its command, whatever does the work."""
    paths = defaultdict(list)
    for path in MODULES.values():
        if path.stem != "__init__" and path.parent.name != "cli":
            paths[path.stem].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in paths.items() if len(found) > 1} == {}


def test_a_docstring_says_what_a_thing_is_without_asking():
    found = [
        f"{name}:{text.lineno}: {text.value.strip().splitlines()[0]}"
        for name, tree in TREES.items()
        for text in docstrings(tree)
        if re.match(r"\s*(What|Who)\s", text.value)
    ]
    assert found == []


def test_messages_and_docstrings_are_in_plain_words():
    found = [
        f"{name}:{node.lineno}: {', '.join(words)}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (words := DIALECT.findall(node.value))
    ]
    assert found == []
