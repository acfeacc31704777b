"""A compiled call is one op with a fake; an eager one bypasses the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import normkernels
from conformance.package.calls import mrope
from conformance.package.calls.fp8 import same
from conformance.package.calls.operations import run
from conformance.package.calls.tensors import DEVICE, Arguments, split, strided, values
from conformance.package.library.calls import (
    BACKENDS,
    DOUBLE,
    LOW,
    ROTATIONS,
    ROWS,
    TURNS,
    WITH_GRADIENTS,
    Make,
    compiled,
    op,
    op_arguments,
    op_of,
)
from conformance.selftest.every import every
from normkernels import GemmaRMSNorm, RMSNorm, RMSNormGated, library
from normkernels.operations.operation import OPERATIONS

# Numbers of rows or tokens, in turn. Of tokens not three: Dynamo takes sizes that are equal at first for one size,
# and there are three axes.
CALLS: dict[tuple[str, str], tuple[Make, tuple[int, ...]]] = {
    **{key: (lambda rows, make=make, **how: make(rows, 96, **how), (3, 5, 17)) for key, make in ROWS.items()},
    **{(form, name): (make, (5, 4, 17)) for name, make in TURNS.items() for form in ROTATIONS},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("operation", "name"), CALLS)
def test_a_compiled_call_has_the_bits_of_the_eager_one(operation: str, name: str, backend: str) -> None:
    """The call is one graph, compiled once for every row count; in place it writes the given tensors."""
    make, counts = CALLS[operation, name]
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    traced = compiled(operation, split(make(counts[0]))[1], record, dynamic=True)
    for count in counts:
        arguments = make(count, dtype=LOW)
        wanted = run(OPERATIONS[operation].family, arguments)

        with torch._dynamo.config.patch(error_on_recompile=True):
            results = traced(split(arguments)[0])
        assert isinstance(results, tuple)
        assert same(wanted, results)
        if operation == "mrope_":
            assert same(wanted, (arguments["q"], arguments["k"]))
        else:
            assert [want.stride() for want in wanted] == [got.stride() for got in results]
    assert operation not in ROTATIONS or 1 == len(graphs)
    # the last one: a compiler that makes a float flag a constant starts again
    targets = [str(node.target) for node in graphs[-1].graph.nodes if node.op == "call_function"]
    assert 1 == sum(target.startswith("normkernels.") for target in targets)
    assert not any(target.startswith("aten.") for target in targets)


@every(("operation", "name"), ROWS)
def test_the_fake_asks_nothing_of_row_counts(operation: str, name: str) -> None:
    """Unknown row counts, in a tensor with gaps, give whole results in the layout of the eager call."""
    tensors, flags = split(ROWS[operation, name](5, 3, 96))
    weight = tensors.get("weight")
    beside = {"residual", "gate"} & set(tensors)

    def traced(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        others = dict.fromkeys(beside, x * 0.5) | ({} if weight is None else {"weight": weight})
        return run(operation, {"x": x, **others, **flags})

    torch._dynamo.reset()
    x = strided(tensors["x"])
    wanted = traced(x)
    for axis in (0, 1):
        torch._dynamo.decorators.mark_unbacked(x, axis)
    results = torch.compile(traced, fullgraph=True, backend="aot_eager")(x)

    assert same(wanted, results)
    assert [(want.dtype, want.stride()) for want in wanted] == [(got.dtype, got.stride()) for got in results]


@pytest.mark.parametrize("operation", ROTATIONS)
def test_the_fake_asks_nothing_of_token_counts(operation: str) -> None:
    """Unknown token counts, in views with gaps, give whole contiguous results."""
    plain = mrope.flat(mrope.call())
    buffer = torch.cat([plain["q"], plain["k"]], 1)
    torch._dynamo.decorators.mark_unbacked(buffer, 0)

    def rotate(qk: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        qk = qk * 1
        q, k = qk[:, : 6 * 64], qk[:, 6 * 64 :]
        at = torch.arange(qk.shape[0], device=qk.device)
        return getattr(normkernels, operation)(q, k, at, cos, sin, sections=(6, 5, 5), head_dim=64)

    results = torch.compile(rotate, fullgraph=True, backend="aot_eager")(buffer, plain["cos"], plain["sin"])
    arguments = plain | {"positions": torch.arange(5, device=DEVICE)}

    mrope.assert_right(arguments, results, in_place=operation == "mrope_")


def small(name: str) -> Arguments:
    """Return a rotation of few elements."""
    return TURNS[name](4, (2, 1), 8, 3, sections=(1, 1, 1))


# Calls of ops by operation and name, and whether their tensors need a gradient.
CHECKED: dict[tuple[str, str], tuple[Callable[[], Arguments], bool]] = {
    **{key: (partial(make, 4, 96), False) for key, make in ROWS.items()},
    **{(key[0], f"{key[1]}, gradient"): (partial(ROWS[key], 4, 96), True) for key in WITH_GRADIENTS},
    **{("mrope", name): (partial(small, name), False) for name in TURNS},
    ("mrope", "interleaved, gradient"): (partial(small, "interleaved"), True),
    **{("mrope_", name): (partial(make, 4), False) for name, make in TURNS.items()},
    ("mrope_", "views of one buffer"): (lambda: mrope.views_of_one_buffer(mrope.call(4)), False),
}


@every(("operation", "name"), CHECKED)
def test_torch_finds_no_fault_with_an_op(operation: str, name: str) -> None:
    """Schema, fake, autograd and tracing of each op pass torch's checks; the schema names written arguments."""
    make, needs = CHECKED[operation, name]
    arguments = make()
    for tensor in split(arguments)[0].values():
        tensor.requires_grad_(needs and tensor.is_floating_point())

    torch.library.opcheck(op(operation, arguments), op_arguments(operation, arguments))


def test_every_op_is_tested() -> None:
    """The calls reach every registered op."""
    assert set(library.OPS) == {op_of(operation, make()) for (operation, _), (make, _) in CHECKED.items()}


@every(
    ("operation", "make"),
    [
        *(pytest.param(*key[:1], partial(make, 3, 96), id="-".join(key)) for key, make in ROWS.items()),
        *(pytest.param(operation, mrope.call, id=operation) for operation in ROTATIONS),
    ],
)
def test_an_eager_call_does_not_pass_the_dispatcher(
    operation: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatcher sees no op of ours, and the library is not called."""
    seen: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types here
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.namespace)
            return func(*args, **(kwargs or {}))

    with monkeypatch.context() as patch:
        patch.delattr(library, "call")
        patch.delattr(library, "compute")
        run(operation, make())
        with Watch():  # type: ignore[no-untyped-call]  # torch's class has no types here
            run(operation, make(dtype=DOUBLE))

    assert "aten" in seen
    assert library.NAMESPACE not in seen


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(
    "make",
    [lambda: RMSNorm(96), lambda: GemmaRMSNorm(96), lambda: RMSNormGated(96)],
    ids=["rms", "gemma", "gated"],
)
def test_modules_compile_whole(make: Callable[[], torch.nn.Module], beside: bool) -> None:  # noqa: FBT001
    """A module's forward is traced without a graph break, with and without a residual."""
    module = make().to(DEVICE)
    args = (values("x", 3, 96), *([values("beside", 3, 96)] if beside else []))
    with torch.no_grad():
        # no tolerance: the same kernel runs in both, so the bits are the same
        torch.testing.assert_close(
            module(*args), torch.compile(module, fullgraph=True, backend="aot_eager")(*args), rtol=0, atol=0
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_of_one_buffer_are_rotated_in_it(backend: str) -> None:
    """As in a model, the graph makes, splits and rotates the projection; v keeps its values."""
    plain = mrope.call(dtype=LOW)
    buffer = torch.cat([plain[name].flatten(1) for name in ("q", "k", "q")], 1)
    wanted = mrope.run(plain)

    def attend(qkv: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        qkv = qkv * 1
        q, k = qkv[:, : 6 * 64], qkv[:, 6 * 64 : 8 * 64]
        normkernels.mrope_(q, k, *rest, sections=(6, 5, 5), head_dim=64)
        return qkv

    rest = (plain[name] for name in ("positions", "cos", "sin"))
    result = torch.compile(attend, fullgraph=True, backend=backend)(buffer, *rest)

    assert torch.equal(torch.cat([*(each.flatten(1) for each in wanted), plain["q"].flatten(1)], 1), result)


def test_a_call_may_be_mapped() -> None:
    """Under ``vmap``, which hides values, the call runs natively."""
    arguments = mrope.call()
    wanted = mrope.run(arguments)
    batched = {name: torch.stack([arguments[name]] * 2) for name in ("q", "k")}

    def one(q: torch.Tensor, k: torch.Tensor) -> Any:
        return normkernels.mrope(**(arguments | {"q": q, "k": k}))

    results = torch.vmap(one)(batched["q"], batched["k"])
    assert all(torch.equal(torch.stack([want] * 2), got) for want, got in zip(wanted, results, strict=True))
