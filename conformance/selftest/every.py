"""One test a rule: what holds for many values is one test, and every value a subtest with a name of its own."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

Test = Callable[..., None]
Tried = tuple[str, Mapping[str, Any]]  # the name of a subtest, and its arguments

_TRIED: dict[Test, tuple[Test, tuple[Tried, ...]]] = {}  # test that tries values -> the rule, and the values


def every(names: str | tuple[str, ...], values: Iterable[Any]) -> Callable[[Test], Test]:
    """Make one test of a function that takes one of ``values``, or several ``names`` of each.

    This is ``pytest.mark.parametrize`` where all values share one rule: each is tried, and named where it fails.
    Fixtures are shared by all values.
    """
    given = tuple(_tried((names,) if isinstance(names, str) else names, value) for value in values)
    assert given, f"no value of {names} is tried"

    def made(test: Test) -> Test:
        rule, inner = _TRIED.get(test, (test, (("", {}),)))
        tried = tuple((f"{b[0]}-{a[0]}".strip("-"), {**a[1], **b[1]}) for a, b in itertools.product(given, inner))

        def whole(subtests: pytest.Subtests, **fixtures: Any) -> None:
            for name, arguments in tried:
                with subtests.test(name):
                    rule(**arguments, **fixtures)

        fixtures = [name for name in inspect.signature(rule).parameters if name not in tried[0][1]]
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("subtests", *fixtures)]
        whole.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # where pytest looks
        whole.__name__, whole.__doc__, whole.__module__ = rule.__name__, rule.__doc__, rule.__module__
        _TRIED[whole] = rule, tried
        return whole

    return made


def _tried(names: tuple[str, ...], value: Any) -> Tried:
    param = value if isinstance(value, type(pytest.param())) else None
    parts = param.values if param else (value,) if len(names) == 1 else tuple(value)
    said = (param and param.id) or "-".join(getattr(part, "__name__", None) or str(part) for part in parts)
    return str(said), dict(zip(names, parts, strict=True))
