"""Style that is checked: sizes, names, docstrings, where `unsafe` may stand, what no file may name. No exceptions."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 40
BANNED_NAMES = re.compile(
    r"(^|_)(utils?|helpers?|managers?|common|misc)(_|$)|(Util|Helper|Manager|Common|Misc)s?(?=[A-Z]|$)"
)
# The mappings, the buffer export, and one line that borrows a descriptor number of Python's (docs/decisions/0002).
UNSAFE_HOMES = {
    "crates/vmbus/src/memory.rs",
    "crates/python/src/buffer.rs",
    "crates/python/src/descriptors.rs",
}
# Put together here, so that this file does not name them itself.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("static", "crates"),
        ("index", "crates"),
        ("registry", "npmjs"),
    )
]
MACHINE_PATHS = ["/" + "work/", "/" + "root/", "/home" + "/"]


def tracked(*patterns: str) -> list[Path]:
    """Return the repository's own files; outside a clone, what lies in its folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [path for line in listed.splitlines() if (path := ROOT / line).is_file()]


PYTHON = tracked("*.py")
RUST = tracked("*.rs")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (name, first line, size in lines) of every function."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1


def rust_functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (name, first line, size in lines): rustfmt ends a function with a brace under its first column."""
    lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        begin = re.match(r"( *)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe |extern \"C\" )*fn (\w+)", line)
        if begin and not line.rstrip().endswith((";", "}")):
            end = next(
                (
                    at
                    for at in range(number + 1, len(lines))
                    if lines[at].startswith((begin[1] + "}", begin[1] + ") -> "))
                ),
                None,
            )
            while end is not None and not lines[end].startswith(begin[1] + "}"):
                end = next(at for at in range(end + 1, len(lines)) if lines[at].startswith(begin[1] + "}"))
            if end is not None:
                yield begin[2], number + 1, end - number + 1


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        name_of(path): count
        for path in PYTHON + RUST
        if (count := path.read_text("utf-8").count("\n")) > FILE_LINES_MAX
    }
    assert not long


def test_no_function_is_longer_than_40_lines() -> None:
    found = [(path, *function) for path in PYTHON for function in python_functions(path)]
    found += [(path, *function) for path in RUST for function in rust_functions(path)]
    assert len(found) > 500, "the functions were not found at all"
    long = {f"{name_of(path)}:{line} {name}": size for path, name, line, size in found if size > FUNCTION_LINES_MAX}
    assert not long


def test_no_module_or_type_has_a_banned_name() -> None:
    names = {name_of(path): path.stem for path in PYTHON + RUST}
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                names[f"{name_of(path)}:{node.lineno} {node.name}"] = node.name
    for path in RUST:
        for match in re.finditer(r"\b(?:struct|enum|trait|mod) (\w+)", path.read_text("utf-8")):
            names[f"{name_of(path)}: {match[1]}"] = match[1]
    assert not [where for where, name in names.items() if BANNED_NAMES.search(name)]


def test_every_module_says_what_it_is() -> None:
    silent = [name_of(path) for path in PYTHON if ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None]
    silent += [name_of(path) for path in RUST if not path.read_text("utf-8").lstrip().startswith(("//!", "#!["))]
    assert not [path for path in silent if path.startswith(("python/", "crates/", "benches/"))]


def test_unsafe_stands_only_where_memory_is_mapped_or_exported() -> None:
    users = {
        name_of(path)
        for path in RUST
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"\bunsafe\b(?!_)", re.sub(r"//.*|\"[^\"]*\"", "", line))
    }
    assert users <= UNSAFE_HOMES


@pytest.mark.parametrize("banned", REGISTRY_HOSTS + MACHINE_PATHS)
def test_no_file_names_a_registry_or_a_machine(banned: str) -> None:
    texts = tracked("*.py", "*.rs", "*.toml", "*.md", "*.pyi", "Makefile", ".ci/*", "*.sh")
    assert not [name_of(path) for path in texts if banned in path.read_text("utf-8")]
