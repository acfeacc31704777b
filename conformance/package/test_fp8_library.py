"""A compiled call with fp8 values is one op with a fake; a call that needs its gradient is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import normkernels
from conformance.package.calls.fp8 import OPERATIONS, call, full, run, same
from conformance.package.calls.tensors import Arguments, split, strided, values
from normkernels import InvalidCall, PathUnavailable, library

BACKENDS = ("eager", "aot_eager")
NORM, GATED = OPERATIONS
LOW, FULL = torch.bfloat16, torch.float32
FP8 = torch.float8_e4m3fn

# Flags of an op, which has no defaults.
DEFAULTS: dict[str, Arguments] = {
    NORM: {"weight_offset": 0.0},
    GATED: {"group_size": None, "norm_before_gate": True, "activation": "silu"},
}
BOTH: Arguments = {"scale_layout": "row", "also_unquantised": False, "rounding": "fp32", "path": None}
# Shape and dtype to a call; each op, flag and optional tensor is in some.
CALLS: dict[str, tuple[str, Callable[..., Arguments]]] = {
    "plain": (NORM, lambda *shape, **how: call(NORM, *shape, **how)),
    "weightless, one group": (
        NORM,
        lambda *shape, **how: call(NORM, *shape, **how) | {"weight": None, "quant_group": None},
    ),
    "everything, by columns": (NORM, lambda *shape, **how: full(NORM, *shape, scale_layout="column", **how)),
    "residual": (NORM, lambda *shape, **how: full(NORM, *shape, **how) | {"also_unquantised": False}),
    "gated": (GATED, lambda *shape, **how: call(GATED, *shape, **how)),
    "gateless, by columns": (
        GATED,
        lambda *shape, **how: full(GATED, *shape, scale_layout="column", **how) | {"gate": None},
    ),
    "gated first, in groups": (
        GATED,
        lambda *shape, **how: full(
            GATED,
            *shape,
            **how,
            group_size=shape[-1] // 2,
            norm_before_gate=False,
            fp8_dtype=torch.float8_e4m3fnuz,
        ),
    ),
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Start without compiled code, and leave none."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(operation: str, flags: Arguments, backend: Any = "eager", **how: Any) -> Callable[..., Any]:
    """Return the call as a compiled function of its tensors."""

    def traced(tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return run(operation, tensors | flags)

    return torch.compile(traced, backend=backend, **{"fullgraph": True, **how})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_has_the_bits_of_the_eager_one(name: str, backend: str) -> None:
    """The call is one graph, compiled once for every row count, with the eager strides."""
    operation, make = CALLS[name]
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    traced = compiled(operation, split(make(3, 96))[1], record, dynamic=True)
    for rows in (3, 5, 17):
        arguments = make(rows, 96, dtype=LOW)
        wanted = run(operation, arguments)

        with torch._dynamo.config.patch(error_on_recompile=True):
            results = traced(split(arguments)[0])
        assert same(wanted, results)
        assert [want.stride() for want in wanted] == [got.stride() for got in results]
        assert isinstance(results, tuple)
    # the last one: a compiler that makes a float flag a constant starts again
    targets = [str(node.target) for node in graphs[-1].graph.nodes if node.op == "call_function"]
    assert 1 == sum(target.startswith("normkernels.") for target in targets)
    assert not any(target.startswith("aten.") for target in targets)


@pytest.mark.parametrize("name", CALLS)
def test_the_fake_asks_nothing_of_row_counts(name: str) -> None:
    """The fake accepts unknown row counts, in a tensor with gaps."""
    operation, make = CALLS[name]
    tensors, flags = split(make(5, 3, 96))
    weight = tensors.get("weight")
    beside = {"residual", "gate"} & set(tensors)

    def traced(x: torch.Tensor) -> Any:
        others = dict.fromkeys(beside, x * 0.5) | ({} if weight is None else {"weight": weight})
        return getattr(normkernels, operation)(x, **others, **flags)

    x = strided(tensors["x"])
    wanted = traced(x)
    for axis in (0, 1):
        torch._dynamo.decorators.mark_unbacked(x, axis)
    results = torch.compile(traced, fullgraph=True, backend="aot_eager")(x)

    assert same(wanted, results)
    assert [want.stride() for want in wanted] == [got.stride() for got in results]


@pytest.mark.parametrize("name", CALLS)
def test_torch_finds_no_fault_with_an_op(name: str) -> None:
    """Schema, fake and tracing of each op pass torch's checks."""
    operation, make = CALLS[name]
    arguments = make(4, 96)
    op = f"{operation}_residual" if "residual" in arguments else operation
    arguments = {**BOTH, **DEFAULTS[operation], **arguments}
    args = tuple(arguments[argument] for argument in library.OPS[op].types)

    torch.library.opcheck(getattr(torch.ops.normkernels, op).default, args)


def test_every_op_is_tested() -> None:
    """The calls above reach every registered op."""
    reached = {
        f"{operation}_residual" if "residual" in make(1, 96) else operation for operation, make in CALLS.values()
    }

    assert {name for name, op in library.OPS.items() if op.operation.name in OPERATIONS} == reached


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_gradient_is_refused_while_it_is_traced(name: str, backend: str) -> None:
    """Each input may be the one that needs a gradient; under no_grad none does."""
    operation, make = CALLS[name]
    tensors, flags = split(make(3, 96))
    traced = compiled(operation, flags, backend)
    for needs in tensors if backend == "eager" else ["x"]:
        given = {name: tensor.detach().requires_grad_(name == needs) for name, tensor in tensors.items()}
        with pytest.raises(
            torch._dynamo.exc.TorchRuntimeError, match=f"{operation}: {needs} needs a gradient, must"
        ):
            traced(given)
        with torch.no_grad():
            assert same(run(operation, given | flags), traced(given))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_op_itself_refuses_a_gradient(operation: str) -> None:
    """The op, called eagerly, drops neither a gradient nor a tangent silently."""
    arguments = {**BOTH, **DEFAULTS[operation], **call(operation)}
    args = [arguments[argument] for argument in library.OPS[operation].types]
    op = getattr(torch.ops.normkernels, operation)

    op(*args)
    with pytest.raises(InvalidCall, match="x needs a gradient, must not"):
        op(args[0].clone().requires_grad_(), *args[1:])
    with torch.autograd.forward_ad.dual_level(), pytest.raises(InvalidCall, match="called in forward-mode"):
        op(*args)


BAD_CALLS: dict[str, tuple[Arguments, str]] = {
    "eps": ({"eps": True}, "eps=True, must be"),
    "quant_group": ({"quant_group": 0}, "quant_group=0, must be None or"),
    "quant_group boolean": ({"quant_group": True}, "quant_group=True, must be"),
    "scale_layout": ({"scale_layout": "no"}, "scale_layout='no', must be one of"),
    "fp8_dtype": ({"fp8_dtype": LOW}, "fp8_dtype=torch.bfloat16, must be one of"),
    "fp8_dtype by name": ({"fp8_dtype": "e4m3"}, "fp8_dtype='e4m3', must be one of"),
    "also_unquantised": ({"also_unquantised": 1}, "also_unquantised=1, must be one of"),
    "rounding": ({"rounding": "no"}, "rounding='no', must be"),
    "path": ({"path": "no"}, "path='no', must be"),
    "weight": ({"weight": values("w", 97)}, r"weight has shape \(97,\), must"),
    "out": ({"out": values("o", 3, 96).to(FP8)}, "out is given, must be None"),
}


@pytest.mark.parametrize(("operation", "whole"), [(NORM, True), (NORM, False), (GATED, True)])
@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_call_without_meaning_raises_while_it_is_traced(name: str, operation: str, whole: bool) -> None:  # noqa: FBT001
    """The message is the eager call's, with or without graph breaks; calls with given outputs raise too."""
    changes, message = BAD_CALLS[name]
    tensors, flags = split(call(operation, **changes))
    traced = compiled(operation, flags, fullgraph=whole)

    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=f"{operation}: {message}"):
        traced(tensors)


def test_a_path_that_cannot_run_raises_when_it_runs() -> None:
    """The path raises at run time, as in an eager call: a compiler does not know the machine."""
    tensors, flags = split(call(NORM, dtype=torch.float64, path="rows"))

    with pytest.raises(PathUnavailable, match="DTYPE"):
        compiled(NORM, flags)(tensors)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_eager_call_does_not_pass_the_dispatcher(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eager call does not call the library."""
    monkeypatch.delattr(library, "call")
    monkeypatch.delattr(library, "compute")

    run(operation, call(operation))
