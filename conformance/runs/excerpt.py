"""The code of one method of an adapter, without the suite: everything in its file that the method reaches."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import resolve_name

from conformance.adapter import Adapter, Declined

Function = ast.FunctionDef | ast.AsyncFunctionDef
STUB = 'class Declined(Exception):\n    """Raised for a call that is not offered."""\n\n\n'


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Source text, the expression in it that is called, and the packages besides torch that it imports.

    ``future``: annotations must not be evaluated.
    """

    code: str
    called: str
    packages: tuple[str, ...] = ()
    future: bool = False


def excerpt(adapter: Adapter, method: str) -> Excerpt:
    """Return the code of a method and of everything that it reaches in its file, or a place for a call."""
    kind = type(adapter)
    module = sys.modules[kind.__module__]
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return _place(method, "the adapter's source cannot be read")
    imports = _Imports(module.__package__ or "")
    imports.visit(tree)
    _prune(tree, {kind.__name__, method}, imports.suite, vars(module))
    stub = "Declined" in imports.suite and vars(module).get("Declined") is Declined
    lacking = _read([tree]) & imports.suite - ({"Declined"} if stub else set())
    defined = {name for node in tree.body if isinstance(node, ast.ClassDef) for name in _bound_by(node.body)}
    if lacking or method not in defined:
        return _place(method, f"its code needs {', '.join(sorted(lacking)) or 'a class of another file'}")
    called = f"{kind.__name__}().{method}"
    for place, node in enumerate(tree.body):
        function = _free(node) if isinstance(node, ast.ClassDef) and node.name == kind.__name__ else None
        if function is not None:
            tree.body[place], called = function, method
    code = ast.unparse(ast.fix_missing_locations(tree))
    code = STUB * (stub and "Declined" in _read([tree])) + code
    packages = sorted(imports.packages - sys.stdlib_module_names - {"torch"})
    return Excerpt(code, called, tuple(packages), imports.future)


def _place(method: str, why: str) -> Excerpt:
    """Return a function whose body asks for a direct call."""
    said = f"{why}: call the implementation here, in place of these lines"
    return Excerpt(
        f"def {method}(*tensors, **named):\n    print({said!r}, file=sys.stderr)\n    sys.exit(2)", method
    )


class _Imports(ast.NodeTransformer):
    """A transformer that removes imports of the suite and of the future, and makes other imports absolute."""

    def __init__(self, package: str) -> None:
        self.suite: set[str] = set()  # names bound by imports of the suite
        self.packages: set[str] = set()
        self.future = False
        self._package = package

    def visit_Import(self, node: ast.Import) -> ast.stmt:
        theirs = [alias for alias in node.names if _is_the_suite(alias.name)]
        self.suite |= _bound(ast.Import(theirs))
        # a script has torch already
        node.names = [alias for alias in node.names if alias not in theirs and ast.unparse(alias) != "torch"]
        self.packages |= {alias.name.partition(".")[0] for alias in node.names}
        return node if node.names else ast.Pass()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if node.level:
            node.module, node.level = resolve_name("." * node.level + (node.module or ""), self._package), 0
        if node.module == "__future__":
            self.future = True
            return ast.Pass()
        if _is_the_suite(node.module or ""):
            self.suite |= _bound(node)
            return ast.Pass()
        self.packages.add((node.module or "").partition(".")[0])
        return node


def _is_the_suite(module: str) -> bool:
    return module.partition(".")[0] == "conformance"


def _prune(tree: ast.Module, wanted: set[str], suite: set[str], names: Mapping[str, object]) -> None:
    """Keep statements that bind a wanted name, and all that those need in turn; of a class the wanted members."""
    before = -1
    while before != len(wanted):
        before = len(wanted)
        for node in tree.body:
            if _kept(node, wanted, suite):
                inside = node.body if isinstance(node, ast.ClassDef) else [node]
                head = [*node.bases, *node.decorator_list] if isinstance(node, ast.ClassDef) else []
                wanted |= _mentioned([*head, *(part for part in inside if part is node or _member(part, wanted))])
    tree.body = [node for node in tree.body if _kept(node, wanted, suite)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            bases = getattr(names.get(node.name), "__bases__", ())
            node.bases = [base for base, made in zip(node.bases, bases, strict=False) if made is not Adapter]
            node.body = [part for part in node.body if _member(part, wanted)] or [ast.Pass()]


def _kept(node: ast.stmt, wanted: set[str], suite: set[str]) -> bool:
    """Return whether a statement of a file is needed: for a name, or for its effect when it is imported."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return False
    if isinstance(node, ast.If) and "__name__" in _mentioned([node.test]):
        return False
    bound = _bound(node)
    return bool(bound & wanted) if bound else not _read([node]) & suite


def _member(node: ast.stmt, wanted: set[str]) -> bool:
    return any(name in wanted or name.startswith("__") for name in _bound(node))


def _bound(node: ast.AST) -> set[str]:
    """Return the names that a statement binds in its own scope."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    aliases = [part for part in ast.walk(node) if isinstance(part, ast.alias)]
    defined = {part.name for part in ast.walk(node) if isinstance(part, ast.ClassDef | ast.FunctionDef)}
    return names | defined | {alias.asname or alias.name.partition(".")[0] for alias in aliases}


def _bound_by(nodes: Iterable[ast.stmt]) -> set[str]:
    return {name for node in nodes for name in _bound(node)}


def _read(nodes: Iterable[ast.AST]) -> set[str]:
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _mentioned(nodes: Iterable[ast.AST]) -> set[str]:
    """Return names and attributes: the source does not tell which object an attribute belongs to."""
    parts = [part for node in nodes for part in ast.walk(node)]
    return _read(parts) | {part.attr for part in parts if isinstance(part, ast.Attribute)}


def _free(node: ast.ClassDef) -> ast.FunctionDef | None:
    """Return the only method of a class as a function, where it does not use its object."""
    [function, *others] = node.body
    if others or node.bases or node.decorator_list or not isinstance(function, ast.FunctionDef):
        return None
    own = function.args.args[:1]
    if function.decorator_list or function.args.posonlyargs or not own:
        return None
    if _read(function.body) & {own[0].arg, "super", "__class__"}:
        return None
    del function.args.args[0]
    return function
