"""Rules that every kernel's source keeps, read from its syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest
import triton.language as tl

import normkernels

KERNELS = sorted((Path(normkernels.__file__).parent / "kernels").glob("*.py"))


def jitted(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the functions that Triton compiles."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any(
            "triton.jit" in ast.unparse(each) or ast.unparse(each) == "kernel" for each in node.decorator_list
        ):
            yield node


FUNCTIONS = {f"{path.stem}.{node.name}": node for path in KERNELS for node in jitted(ast.parse(path.read_text()))}


def calls(node: ast.AST, name: str) -> list[ast.Call]:
    """Return the calls of ``name`` inside ``node``."""
    return [each for each in ast.walk(node) if isinstance(each, ast.Call) and ast.unparse(each.func) == name]


def unguarded_loads(function: ast.FunctionDef) -> list[str]:
    """Return loads without mask and ``other`` where not every element exists."""
    even = [
        load
        for node in ast.walk(function)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "even"
        for statement in node.body
        for load in calls(statement, "tl.load")
    ]
    guarded = ({"mask", "other"} <= {k.arg for k in load.keywords} for load in calls(function, "tl.load"))
    return [
        ast.unparse(load)
        for load, masked in zip(calls(function, "tl.load"), guarded, strict=True)
        if not masked and load not in even
    ]


def open_chains(function: ast.FunctionDef) -> list[str]:
    """Return ``if``/``elif`` chains over names in capitals whose last branch is not ``static_assert``."""
    chained = {id(n.orelse[0]) for n in ast.walk(function) if isinstance(n, ast.If) and len(n.orelse) == 1}
    found = []
    for node in ast.walk(function):
        if not isinstance(node, ast.If) or id(node) in chained:
            continue
        last = node
        while len(last.orelse) == 1 and isinstance(last.orelse[0], ast.If):
            last = last.orelse[0]
        if last is not node and not any(calls(each, "tl.static_assert") for each in last.orelse):
            found.append(ast.unparse(node.test))
    return found


def narrow_program_ids(function: ast.FunctionDef) -> list[str]:
    """Return uses of ``program_id`` that are not widened immediately."""
    # program_rows returns row numbers, which only ``strided`` multiplies: the width of their count is enough
    wide = ("tl.int64", "n_rows.dtype") if function.name == "program_rows" else ("tl.int64",)
    widened = {
        id(node.func.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "to"
        and [ast.unparse(arg) for arg in node.args] in [[each] for each in wide]
    }
    return [ast.unparse(each) for each in calls(function, "tl.program_id") if id(each) not in widened]


def foreign_calls(function: ast.FunctionDef) -> list[str]:
    """Return calls that the interpreter cannot run, or that fuse or order a sum differently."""
    text = ast.unparse(function)
    words = {"libdevice", "inline_asm", "tl.dot", "tl.fma"}
    if function.name in {"divided", "quotients"}:
        words -= {"tl.fma"}  # exact
    if function.name == "rounded_to" and "not INTERPRETED" in text:
        words -= {"inline_asm"}  # a conversion, which the interpreter makes in another way
    return sorted(word for word in words if word in text)


def whole_row_sums(function: ast.FunctionDef) -> list[str]:
    """Return ``tl.sum`` outside the tree of neighbours."""
    return [] if function.name == "pairwise_sum" else [ast.unparse(c) for c in calls(function, "tl.sum")]


def global_constexprs(values: Mapping[str, object]) -> list[str]:
    """Return constexprs among the globals of a module.

    Where a kernel uses one through another function, Triton 3.6 compiles it again in processes that hashed that
    function before: the key of its cache has the global only then.
    """
    return [name for name, value in values.items() if isinstance(value, tl.constexpr)]


RULES = {
    "loads are guarded": unguarded_loads,
    "chains are closed": open_chains,
    "program ids are wide": narrow_program_ids,
    "the interpreter runs all of it": foreign_calls,
    "rows are summed by pairs": whole_row_sums,
}

BREAKS = {
    "loads are guarded": "x = tl.load(x_ptr + cols, mask=mask)",
    "chains are closed": "if A == 1:\n  x = 1\nelif A == 2:\n  x = 2",
    "program ids are wide": "row = tl.program_id(0).to(n_rows.dtype) * stride",
    "the interpreter runs all of it": "x = libdevice.rsqrt(x)",
    "rows are summed by pairs": "x = tl.sum(x, axis=1)",
}


def test_there_are_kernels_to_judge() -> None:
    """The rules cover the launched kernels."""
    launched = {"rms_norm_gated.rms_norm_gated_kernel", "rms_norm_gated.rms_norm_gated_128_kernel"}

    launched |= {"rms_norm_fp8.rms_norm_fp8_kernel", "rms_norm_gated_fp8.rms_norm_gated_fp8_kernel"}

    assert launched | {"rms_norm.rms_norm_kernel", "mrope.mrope_kernel"} <= set(FUNCTIONS)


@pytest.mark.parametrize("rule", RULES)
def test_every_kernel_keeps_a_rule(rule: str) -> None:
    """Nothing in any kernel breaks the rule; a failure lists each kernel with the lines that do."""
    assert {} == {name: broken for name, function in FUNCTIONS.items() if (broken := RULES[rule](function))}


def test_the_key_of_a_kernel_does_not_depend_on_other_kernels() -> None:
    """No module of kernels has a constexpr among its globals; one that another module adds would be seen."""
    modules = {path.stem: vars(import_module(f"normkernels.kernels.{path.stem}")) for path in KERNELS}

    assert {} == {name: found for name, values in modules.items() if (found := global_constexprs(values))}
    assert ["LEVELS"] == global_constexprs({"LEVELS": tl.constexpr(7), "ROWS": 7})


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_sees_what_breaks_it(rule: str) -> None:
    """Each rule finds a line that breaks it, so the test above can fail."""
    body = "\n  ".join(BREAKS[rule].splitlines())
    function = next(jitted(ast.parse(f"@triton.jit\ndef kernel(x_ptr):\n  {body}")))

    assert 1 == len(RULES[rule](function))
