"""A compiled rotation is one op with a fake, with or without a backward; an eager one bypasses the dispatcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import normkernels
from conformance.package.calls.mrope import assert_right, call, flat, positions, run, views_of_one_buffer
from conformance.package.calls.tensors import DEVICE, Arguments, values
from normkernels import InvalidCall, PathUnavailable, library

BACKENDS = ("eager", "aot_eager")
OPERATIONS = ("mrope", "mrope_")
LOW, FULL, DOUBLE = torch.bfloat16, torch.float32, torch.float64
TENSORS = ("q", "k", "positions", "cos", "sin")

# Tokens and dtype to a call; each flag and rank is in some.
CALLS: dict[str, Callable[..., Arguments]] = {
    "interleaved": call,
    "sectioned, one axis": lambda tokens, *shape, **how: call(
        tokens, *shape, interleaved=False, positions=positions(tokens)[0].clone(), **how
    ),
    "flat": lambda tokens, *shape, **how: flat(call(tokens, *shape, **how)),
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Start without compiled code, and leave none."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def flags_of(arguments: Arguments) -> Arguments:
    """Return the arguments that are not tensors."""
    return {name: value for name, value in arguments.items() if name not in TENSORS}


def tensors_of(arguments: Arguments) -> list[torch.Tensor]:
    """Return the tensors in order."""
    return [arguments[name] for name in TENSORS]


def compiled(operation: str, flags: Arguments, backend: Any = "eager", **how: Any) -> Callable[..., Any]:
    """Return the call as a compiled function of its tensors."""

    def rotate(*tensors: torch.Tensor) -> Any:
        return getattr(normkernels, operation)(*tensors, **flags)

    return torch.compile(rotate, backend=backend, **{"fullgraph": True, **how})


def op_arguments(arguments: Arguments) -> tuple[Any, ...]:
    """Return the arguments of the op, which has no defaults."""
    given = {"head_dim": None, "interleaved": True, "path": None, **arguments}
    return tuple(given[name] for name in library.OPS["mrope"].types)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", CALLS)
def test_a_compiled_call_has_the_bits_of_the_eager_one(name: str, operation: str, backend: str) -> None:
    """The call is one graph, compiled once for every token count; in place it writes the given tensors."""
    graphs: list[torch.fx.GraphModule] = []

    def record(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    rotate = compiled(operation, flags_of(CALLS[name](5)), record, dynamic=True)
    # not three: Dynamo takes sizes that are equal at first for one size, and there are three axes
    for tokens in (5, 4, 17):
        arguments = CALLS[name](tokens, dtype=LOW)
        wanted = run(arguments)

        with torch._dynamo.config.patch(error_on_recompile=True):
            results = rotate(*tensors_of(arguments))
        assert all(map(torch.equal, wanted, results))
        if operation == "mrope_":
            assert all(map(torch.equal, wanted, (arguments["q"], arguments["k"])))
    assert 1 == len(graphs)
    targets = [str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert 1 == sum(target.startswith("normkernels.") for target in targets)
    assert not any(target.startswith("aten.") for target in targets)


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_of_one_buffer_are_rotated_in_it(backend: str) -> None:
    """As in a model, the graph makes, splits and rotates the projection; v keeps its values."""
    plain = call(dtype=LOW)
    buffer = torch.cat([plain[name].flatten(1) for name in ("q", "k", "q")], 1)
    wanted = run(plain)

    def attend(qkv: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        qkv = qkv * 1
        q, k = qkv[:, : 6 * 64], qkv[:, 6 * 64 : 8 * 64]
        normkernels.mrope_(q, k, *rest, sections=(6, 5, 5), head_dim=64)
        return qkv

    result = torch.compile(attend, fullgraph=True, backend=backend)(buffer, *tensors_of(plain)[2:])

    assert torch.equal(torch.cat([*(each.flatten(1) for each in wanted), plain["q"].flatten(1)], 1), result)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_fake_asks_nothing_of_token_counts(operation: str) -> None:
    """Unknown token counts, in views with gaps, give whole contiguous results."""
    plain = flat(call())
    buffer = torch.cat([plain["q"], plain["k"]], 1)
    torch._dynamo.decorators.mark_unbacked(buffer, 0)

    def rotate(qk: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        qk = qk * 1
        q, k = qk[:, : 6 * 64], qk[:, 6 * 64 :]
        at = torch.arange(qk.shape[0], device=qk.device)
        return getattr(normkernels, operation)(q, k, at, cos, sin, sections=(6, 5, 5), head_dim=64)

    results = torch.compile(rotate, fullgraph=True, backend="aot_eager")(buffer, plain["cos"], plain["sin"])
    arguments = plain | {"positions": torch.arange(5, device=DEVICE)}

    assert_right(arguments, results, in_place=operation == "mrope_")


@pytest.mark.parametrize(("name", "needs"), [*((name, False) for name in CALLS), ("interleaved", True)])
def test_torch_finds_no_fault_with_the_op(name: str, needs: bool) -> None:  # noqa: FBT001  (needs a gradient)
    """Schema, fake, autograd and tracing of the op pass torch's checks."""
    arguments = CALLS[name](4, (2, 1), 8, 3, sections=(1, 1, 1))
    for each in ("q", "k", "cos", "sin"):
        arguments[each].requires_grad_(needs)

    torch.library.opcheck(torch.ops.normkernels.mrope.default, op_arguments(arguments))


@pytest.mark.parametrize("name", CALLS)
def test_torch_finds_no_fault_with_the_op_in_place(name: str) -> None:
    """The op's schema names the written arguments; q and k may be views of one buffer."""
    arguments = CALLS[name](4)

    torch.library.opcheck(torch.ops.normkernels.mrope_.default, op_arguments(arguments))
    if name == "interleaved":
        buffers = op_arguments(views_of_one_buffer(arguments))
        torch.library.opcheck(torch.ops.normkernels.mrope_.default, buffers)


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_right(name: str) -> None:
    """The op's gradients of first and second order agree with differences in float64."""
    arguments = CALLS[name](2, (2, 1), 8, 3, dtype=DOUBLE, sections=(1, 1, 1))
    # a cache of few rows: each of its elements costs a call
    arguments |= {each: arguments[each][:6] for each in ("cos", "sin")}
    arguments |= {"positions": arguments["positions"] % 6}
    names = ("q", "k", "cos", "sin")

    def op(*given: torch.Tensor) -> Any:
        return torch.ops.normkernels.mrope(*op_arguments(arguments | dict(zip(names, given, strict=True))))

    inputs = [arguments[each].detach().clone().requires_grad_() for each in names]
    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("needed", [("q",), ("k",), ("sin",), ("q", "k", "cos", "sin")], ids=str)
def test_compiled_gradients_are_the_eager_ones(needed: tuple[str, ...], backend: str) -> None:
    """The backward is native's for every forward path; each input may be the only one that needs it."""
    arguments = call()
    for name in needed:
        arguments[name].requires_grad_()
    inputs = [arguments[name] for name in needed]

    def gradients(results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        total = sum((result * values(f"share {i}", *result.shape)).sum() for i, result in enumerate(results))
        return torch.autograd.grad(total, inputs)  # type: ignore[arg-type]  # a sum of tensors

    wanted = gradients(run(arguments))
    found = gradients(compiled("mrope", flags_of(arguments), backend)(*tensors_of(arguments)))
    for want, got in zip(wanted, found, strict=True):
        # gradients have no contract of their own: two summations of the same terms
        torch.testing.assert_close(want, got)


BAD_CALLS: dict[str, tuple[Arguments, str]] = {
    "sections": (call(sections=(6, 5, 4)), r"sections=\(6, 5, 4\), must be three integers"),
    "head_dim": (call() | {"head_dim": 32}, "head_dim=32, must be None or the 64 columns of q"),
    "head_dim boolean": (call() | {"head_dim": True}, "head_dim=True, must be"),
    "interleaved": (call(interleaved=1), "interleaved=1, must be one of True, False"),
    "path": (call(path="rows"), "path='rows', must be one of 'heads', 'native'"),
    "k": (call(k=values("k", 5, 2, 32)), r"k has shape \(5, 2, 32\), must be as q"),
    "positions": (call(positions=positions(5).float()), "positions is torch.float32, must be one of"),
    "cos": (call(cos=values("cos", 51, 33)), r"cos has shape \(51, 33\), must be"),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_call_without_meaning_raises_while_it_is_traced(name: str, operation: str, whole: bool) -> None:  # noqa: FBT001
    """The message is the eager call's, with or without graph breaks."""
    arguments, message = BAD_CALLS[name]
    rotate = compiled(operation, flags_of(arguments), fullgraph=whole)

    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=f"{operation}: {message}"):
        rotate(*tensors_of(arguments))


@pytest.mark.parametrize("name", ["q", "k", "cos", "sin"])
def test_a_gradient_through_what_is_written_is_refused(name: str) -> None:
    """Tracing refuses the gradient, and so does the op; without gradients the same call runs."""
    arguments = call()
    wanted = run(arguments)
    arguments[name].requires_grad_()
    rotate = compiled("mrope_", flags_of(arguments))
    message = f"mrope_: q and k are written, {name} must not need a gradient then"

    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=message):
        rotate(*tensors_of(arguments))
    with pytest.raises(InvalidCall, match=message):
        torch.ops.normkernels.mrope_(*op_arguments(arguments))
    with torch.no_grad():
        assert all(map(torch.equal, wanted, rotate(*tensors_of(arguments))))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_cannot_be_known_before_raises_when_it_runs(operation: str) -> None:
    """Such a call raises at run time, as an eager call does: a compiler knows no machine and no positions."""
    arguments = call(dtype=DOUBLE, path="heads")
    with pytest.raises(PathUnavailable, match="DTYPE"):
        compiled(operation, flags_of(arguments))(*tensors_of(arguments))

    arguments = call(positions=positions(5) + 60)
    if DEVICE == "cpu":
        with pytest.raises(InvalidCall, match=r"positions has .*, must be at least 0"):
            compiled(operation, flags_of(arguments))(*tensors_of(arguments))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_eager_call_does_not_pass_the_dispatcher(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher sees no op of ours, and the library is not called."""
    seen: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types here
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.namespace)
            return func(*args, **(kwargs or {}))

    monkeypatch.delattr(library, "call")
    monkeypatch.delattr(library, "compute")
    with Watch():  # type: ignore[no-untyped-call]  # torch's class has no types here
        run(call(dtype=DOUBLE), operation)

    assert "aten" in seen
    assert library.NAMESPACE not in seen


# torch's own, where it traces jvp
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_forward_mode_is_refused() -> None:
    """A tangent is not dropped silently: eager calls carry it natively, the op refuses it."""
    arguments = call(dtype=DOUBLE)
    with torch.autograd.forward_ad.dual_level():
        q = arguments["q"]
        dual = torch.autograd.forward_ad.make_dual(q, q)  # type: ignore[no-untyped-call]  # no types in torch
        rotated = run(arguments | {"q": dual})[0]
        tangent = torch.autograd.forward_ad.unpack_dual(rotated).tangent  # type: ignore[no-untyped-call]
        # a rotation is linear, so it is its own derivative
        assert torch.equal(rotated, tangent)
        with pytest.raises(InvalidCall, match="mrope: called in forward-mode autograd, must be eager"):
            torch.ops.normkernels.mrope(*op_arguments(arguments | {"q": dual}))


def test_a_call_may_be_mapped() -> None:
    """Under ``vmap``, which hides values, the call runs natively."""
    arguments = call()
    wanted = run(arguments)
    batched = {name: torch.stack([arguments[name]] * 2) for name in ("q", "k")}

    def one(q: torch.Tensor, k: torch.Tensor) -> Any:
        return normkernels.mrope(**(arguments | {"q": q, "k": k}))

    results = torch.vmap(one)(batched["q"], batched["k"])
    assert all(torch.equal(torch.stack([want] * 2), got) for want, got in zip(wanted, results, strict=True))
