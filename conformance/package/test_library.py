"""A compiled call is one op with a fake and a backward; an eager one bypasses the dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import normkernels
from conformance.package.calls import rms_norm as norm_calls
from conformance.package.calls import rms_norm_gated as gated_calls
from conformance.package.calls.tensors import DEVICE, Arguments, split, strided, values
from normkernels import GemmaRMSNorm, InvalidCall, PathUnavailable, RMSNorm, RMSNormGated, library
from normkernels.operations.operation import OPERATIONS

BACKENDS = ("eager", "aot_eager")
LOW, FULL, DOUBLE = torch.bfloat16, torch.float32, torch.float64

# Flags of an op, which has no defaults.
DEFAULTS: dict[str, Arguments] = {
    "rms_norm": {"weight_offset": 0.0},
    "gemma_rms_norm": {},
    "rms_norm_gated": {"group_size": None, "norm_before_gate": True, "activation": "silu"},
}
# Shape and dtype to a call; each op, flag and optional tensor is in some.
CALLS: dict[str, tuple[str, Callable[..., Arguments]]] = {
    "plain": ("rms_norm", norm_calls.call),
    "plain offset, weightless": (
        "rms_norm",
        lambda *shape, **how: norm_calls.call(*shape, **how) | {"weight": None, "weight_offset": 0.5},
    ),
    "plain hf, residual": ("rms_norm", lambda *shape, **how: norm_calls.added(*shape, rounding="hf", **how)),
    "gemma": ("gemma_rms_norm", norm_calls.call),
    "gemma residual": ("gemma_rms_norm", norm_calls.added),
    "gated": ("rms_norm_gated", gated_calls.call),
    "gateless": (
        "rms_norm_gated",
        lambda *shape, **how: gated_calls.call(*shape, rounding="hf", **how, gate=None),
    ),
    "gated first, in groups": (
        "rms_norm_gated",
        lambda *shape, **how: gated_calls.call(
            *shape, **how, group_size=shape[-1] // 2, norm_before_gate=False, activation="sigmoid"
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
    """Return the call as a compiled function from its tensors to all of its results."""

    def call(tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        results = getattr(normkernels, operation)(**tensors, **flags)
        return results if isinstance(results, tuple) else (results,)

    return torch.compile(call, backend=backend, **{"fullgraph": True, **how})


def gradients(results: tuple[torch.Tensor, ...], tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the gradients of a sum in which the results have different weights."""
    total = sum(
        (result * values(f"share {i}", *result.shape, dtype=result.dtype)).sum()
        for i, result in enumerate(results)
    )
    return torch.autograd.grad(total, tensors)  # type: ignore[arg-type]  # a sum of tensors


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_has_the_bits_of_the_eager_one(name: str, backend: str) -> None:
    """The call is one graph, compiled once for every row count."""
    operation, make = CALLS[name]
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    call = compiled(operation, split(make(3, 96))[1], record, dynamic=True)
    for rows in (3, 5, 17):
        arguments = make(rows, 96, dtype=LOW)
        wanted = norm_calls.run(operation, arguments)

        with torch._dynamo.config.patch(error_on_recompile=True):
            results = call(split(arguments)[0])
        for want, got in zip(wanted, results, strict=True):
            assert torch.equal(want, got)
            assert got.is_contiguous()
    # the last one: a compiler that makes a float flag a constant starts again
    targets = [str(node.target) for node in graphs[-1].graph.nodes if node.op == "call_function"]
    assert 1 == sum(target.startswith("normkernels.") for target in targets)
    assert not any(target.startswith("aten.") for target in targets)


@pytest.mark.parametrize("name", CALLS)
def test_the_fake_asks_nothing_of_row_counts(name: str) -> None:
    """Unknown row counts, in a tensor with gaps, give whole contiguous results."""
    operation, make = CALLS[name]
    tensors, flags = split(make(5, 3, 96))
    weight = tensors.get("weight")
    beside = {"residual", "gate"} & set(tensors)

    def call(x: torch.Tensor) -> Any:
        others = dict.fromkeys(beside, x * 0.5) | ({} if weight is None else {"weight": weight})
        return getattr(normkernels, operation)(x, **others, **flags)

    x = strided(tensors["x"])
    for axis in (0, 1):
        torch._dynamo.decorators.mark_unbacked(x, axis)
    results = torch.compile(call, fullgraph=True, backend="aot_eager")(x)

    for result in results if isinstance(results, tuple) else (results,):
        assert ((5, 3, 96), FULL, (288, 96, 1)) == (tuple(result.shape), result.dtype, result.stride())


@pytest.mark.parametrize("needs", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_torch_finds_no_fault_with_an_op(name: str, needs: bool) -> None:  # noqa: FBT001  (needs a gradient)
    """Schema, fake, autograd and tracing of each op pass torch's checks."""
    operation, make = CALLS[name]
    arguments = make(4, 96)
    for tensor in split(arguments)[0].values():
        tensor.requires_grad_(needs)

    op = f"{operation}_residual" if "residual" in arguments else operation
    arguments = {"path": None, "rounding": "fp32", **DEFAULTS[operation], **arguments}
    args = tuple(arguments[argument] for argument in library.OPS[op].types)
    torch.library.opcheck(getattr(torch.ops.normkernels, op).default, args)


def test_every_op_is_tested() -> None:
    """The calls above reach every registered op; other operations have files of their own."""
    reached = {
        f"{operation}_residual" if "residual" in make(1, 96) else operation for operation, make in CALLS.values()
    }

    assert {name for name in library.OPS if "fp8" not in name} - {"mrope", "mrope_"} == reached


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_right(name: str) -> None:
    """Gradients agree with differences in float64: first order for the eager call, also second for the op."""
    operation, make = CALLS[name]
    tensors, flags = split(make(2, 6, dtype=DOUBLE))
    inputs = [tensor.requires_grad_() for tensor in tensors.values()]

    def eager(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return norm_calls.run(operation, dict(zip(tensors, given, strict=True)) | flags)

    def op(*given: torch.Tensor) -> Any:
        known = OPERATIONS[operation]
        call = {"path": None, "rounding": "fp32", **DEFAULTS[operation], **flags}
        call |= dict(zip(tensors, given, strict=True))
        return library.call(operation, tuple(map(call.get, known.tensors)), tuple(map(call.get, known.flags)))

    assert torch.autograd.gradcheck(eager, inputs)
    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [FULL, DOUBLE], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_compiled_gradients_are_the_eager_ones(name: str, dtype: torch.dtype, backend: str) -> None:
    """The backward is native's for every forward path; each input may be the only one that needs it."""
    operation, make = CALLS[name]
    tensors, flags = split(make(3, 96, dtype=dtype))
    call = compiled(operation, flags, backend)
    for needed in ([name] for name in tensors) if backend == "eager" else [list(tensors)]:
        given = {name: tensor.detach().requires_grad_(name in needed) for name, tensor in tensors.items()}
        inputs = [given[name] for name in needed]
        wanted = gradients(norm_calls.run(operation, given | flags), inputs)

        for want, got in zip(wanted, gradients(call(given), inputs), strict=True):
            # gradients have no contract of their own: two summations of the same terms
            torch.testing.assert_close(want, got)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_tensor_may_be_two_arguments(backend: str) -> None:
    """The gradient of the tensor is the sum of those of both arguments."""
    x, weight = values("x", 3, 96).requires_grad_(), values("weight", 96)
    call = compiled("rms_norm", {"eps": 1e-6}, backend)
    both = {"x": x, "weight": weight, "residual": x}
    wanted = gradients(norm_calls.run("rms_norm", both | {"eps": 1e-6}), [x])

    # gradients have no contract of their own: two summations of the same terms
    torch.testing.assert_close(wanted, gradients(call(both), [x]))


BAD_CALLS: dict[str, tuple[str, Arguments, str]] = {
    "eps": ("rms_norm", norm_calls.call(eps=-1.0), "rms_norm: eps=-1.0, must be"),
    "eps boolean": ("rms_norm", norm_calls.call(eps=True), "rms_norm: eps=True, must be"),
    "offset": ("rms_norm", norm_calls.call(weight_offset=1e39), r"rms_norm: weight_offset=1e\+39, must be"),
    "rounding": ("gemma_rms_norm", norm_calls.call(rounding="no"), "gemma_rms_norm: rounding='no', must be"),
    "path": ("rms_norm_gated", gated_calls.call(path="no"), "rms_norm_gated: path='no', must be"),
    "weightless gemma": ("gemma_rms_norm", norm_calls.call(weight=None), "gemma_rms_norm: weight is a NoneType"),
    "weight": ("rms_norm", norm_calls.call(weight=values("w", 97)), r"rms_norm: weight has shape \(97,\), must"),
    "residual": ("rms_norm", norm_calls.added(residual=values("r", 96)), r"rms_norm: residual has shape"),
    "gate": ("rms_norm_gated", gated_calls.call(gate=values("r", 1, 128)), r"rms_norm_gated: gate has shape"),
    "dtype": ("rms_norm", norm_calls.call(weight=values("w", 96, dtype=LOW)), "rms_norm: weight is torch.bfl"),
    "group_size": ("rms_norm_gated", gated_calls.call(group_size=3), "rms_norm_gated: group_size=3, must"),
    "activation": ("rms_norm_gated", gated_calls.call(activation="no"), "rms_norm_gated: activation='no', must"),
    "order": ("rms_norm_gated", gated_calls.call(norm_before_gate=1), "rms_norm_gated: norm_before_gate=1, must"),
    "out": ("rms_norm", norm_calls.call(out=values("o", 3, 96)), "rms_norm: out is given, must be None"),
    "residual_out": (
        "gemma_rms_norm",
        norm_calls.added(residual_out=values("o", 3, 96)),
        "gemma_rms_norm: residual_out is given, must be None",
    ),
    "gated out": ("rms_norm_gated", gated_calls.call(out=values("o", 3, 128)), "rms_norm_gated: out is given"),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_call_without_meaning_raises_while_it_is_traced(name: str, whole: bool) -> None:  # noqa: FBT001
    """The message is the eager call's, with or without graph breaks; calls with given outputs raise too."""
    operation, arguments, message = BAD_CALLS[name]
    tensors, flags = split(arguments)
    call = compiled(operation, flags, fullgraph=whole)

    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match=message):
        call(tensors)


def test_a_path_that_cannot_run_raises_when_it_runs() -> None:
    """The path raises at run time, as in an eager call: a compiler does not know the machine."""
    tensors, flags = split(norm_calls.call(dtype=DOUBLE, path="rows"))

    with pytest.raises(PathUnavailable, match="DTYPE"):
        compiled("rms_norm", flags)(tensors)


@pytest.mark.parametrize("name", CALLS)
def test_an_eager_call_does_not_pass_the_dispatcher(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher sees no op of ours, and the library is not called."""
    seen: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types here
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.namespace)
            return func(*args, **(kwargs or {}))

    operation, make = CALLS[name]
    monkeypatch.delattr(library, "call")
    with Watch():  # type: ignore[no-untyped-call]  # torch's class has no types here
        norm_calls.run(operation, make(3, 96, dtype=DOUBLE))

    assert "aten" in seen
    assert library.NAMESPACE not in seen


# torch's own, where it traces jvp
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_mode_is_refused(backend: str) -> None:
    """A compiled call never drops a tangent silently: tracing it, or running it, raises."""
    tensors, flags = split(norm_calls.call(dtype=DOUBLE))
    call = compiled("rms_norm", flags, backend)
    x, weight = tensors["x"], tensors["weight"]
    message = "called in forward-mode autograd, must be eager"
    # the exception that torch's tracer raises depends on its version
    errors = InvalidCall, torch._dynamo.exc.TorchDynamoException

    def tangent(x: torch.Tensor) -> Any:
        return torch.func.jvp(lambda x: normkernels.rms_norm(x, weight, **flags), (x,), (x,))

    with pytest.raises(errors, match=message):
        torch.compile(tangent, fullgraph=True, backend=backend)(x)
    call(tensors)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)  # type: ignore[no-untyped-call]  # no types in torch
        with pytest.raises(errors, match=message):
            call(tensors | {"x": dual})
        with pytest.raises(InvalidCall, match=message):
            torch.ops.normkernels.rms_norm(dual, weight, 0.0, 1e-6, None, "fp32")


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
