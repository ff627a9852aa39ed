"""Where in a configuration file a setting stands.

Not for the master: parsing takes time and memory, and only people ask.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["line_of"]

# What stands in one of these is a name of its own.
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# An assignment in one of these is not one of the module's.
INNER = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
# Where one stands in a module, it is run.
STATEMENTS = (
    ast.Assign, ast.AnnAssign, ast.AugAssign, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef,
    ast.Import, ast.ImportFrom,
)  # fmt: skip


def line_of(path: str | None, name: str) -> int | None:
    """Return the line of the assignment by which `name` has its value in a file of Python.

    Args:
        path: of the file, None: there is none.

    Returns:
        None where that is not certain: there are several, and the last one may not have been
        run; the file has the name by `from module import *`; or it cannot be read.
    """
    try:
        tree = ast.parse(Path(path or "").read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    lines = [line for bound, line in _bound(tree) if bound == name]
    stars = [line for bound, line in _bound(tree) if bound == "*"]
    always = [
        line
        for node in tree.body
        if isinstance(node, STATEMENTS)
        for bound, line in _bound(ast.Module([node], []))
        if bound == name
    ]
    if not lines or max(stars, default=0) > max(lines):
        return None
    return max(lines) if len(lines) == 1 or max(lines) in always else None


def _bound(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Give each name that `node` binds in its module, with the line."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Name(id=name, ctx=ast.Store()):
                yield name, child.lineno
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from ((a.asname or a.name.partition(".")[0], a.lineno) for a in aliases)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, child.lineno
            case ast.ClassDef(name=name):
                yield name, child.lineno
        if not isinstance(child, SCOPES + INNER):
            yield from _bound(child)
