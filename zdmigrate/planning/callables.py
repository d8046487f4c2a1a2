"""References to functions of migration files, for plans, which are data.

A reference is the function's name and a digest of its source: of the function itself, and of whatever else in the same
file it uses. So a stored plan calls what it was made for, or nothing.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from zdmigrate.errors import UsageError

Function = Callable[[Any], Any]


def reference(function: object, what: str, *, takes: str = "the connection") -> str:
    """``name@digest`` of a function of a module, which is called with one argument.

    Raises:
        UsageError: a stored plan could not find it again, or it cannot be called so.
    """
    if not isinstance(function, types.FunctionType):
        raise UsageError(f"{what} must be a function of the migration file, got {function!r:.80}")
    name = function.__name__
    if function.__qualname__ != name or not name.isidentifier():
        raise UsageError(
            f"{what} must be a function at the top level of the file, which a stored plan finds by its name; "
            f"{function.__qualname__} is not",
            hint="def it at the top level",
        )
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(
            f"{what}: {name} is async, and is not called from anything that is", hint="def it without async"
        )
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise UsageError(f"{what}: {name} must take one argument, {takes} ({error})") from error
    return f"{name}@{_digest(function, what)}"


def _digest(function: types.FunctionType, what: str) -> str:
    try:
        lines, _ = inspect.findsource(function)
        tree = ast.parse("".join(lines))
    except (OSError, SyntaxError) as error:
        raise UsageError(f"{what}: the source of {function.__name__} cannot be read: {error}") from error
    texts = [repr(_shape(node)) for node in _used(tree, function.__name__)]
    if not texts:
        raise UsageError(f"{what}: {function.__name__} is not in the file that its code is from (is it decorated?)")
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _used(tree: ast.Module, name: str) -> Iterator[ast.stmt]:
    """The definitions of a name, and of all names of the file that these use, in the file's order."""
    wanted, known = [name], {name}
    while wanted:
        for node in _definitions(tree, wanted.pop()):
            found = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} - known
            known |= found
            wanted += found
    yield from (node for node in tree.body if known & _defined(node))


def _definitions(tree: ast.Module, name: str) -> Iterator[ast.stmt]:
    return (node for node in tree.body if name in _defined(node))


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    inside = list(ast.walk(node))
    stored = {each.id for each in inside if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    return stored | {each.name for each in inside if isinstance(each, ast.FunctionDef | ast.ClassDef)}


def _shape(node: object) -> object:
    """A syntax tree without positions, and without fields that are empty: newer Pythons have more of those."""
    if isinstance(node, ast.AST):
        fields = [(name, _shape(value)) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return type(node).__name__, *fields
    if isinstance(node, list):
        return [_shape(each) for each in node]
    return node
