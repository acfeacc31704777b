"""A kept launch is repeated with exactly the arguments that Triton would get for the same call.

No GPU is needed: the kernels here are not compiled, and record the arguments of their starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import pkgutil
import random
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

import normkernels
import normkernels.kernels
from conformance.calls.call import arguments_of
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.cases.case import Case
from conformance.cases.factors import Scope, enumerated_cases
from conformance.operations import OPERATIONS
from conformance.operations.rows import count, flat, with_rows
from conformance.package.calls.tensors import DEVICE
from normkernels import launch, plans
from normkernels.call import Device
from normkernels.operations.operation import OPERATIONS as OURS
from normkernels.operations.operation import _cache, reread_environment

H200 = Device("cuda", has_triton=True, interpreting=False, table=plans.MEASURED)
FP8 = torch.float8_e4m3fn
STREAM = 7


class Start(NamedTuple):
    """The parameter values of one start of a kernel, in the kernel's order."""

    directly: bool
    compiled: Compiled
    grid: tuple[int, ...]
    args: tuple[object, ...]


@dataclass(eq=False)
class Compiled:
    """Stand-in for a compiled kernel, which takes pointers as numbers and has every parameter."""

    gpu: Gpu
    kinds: tuple[str, ...]

    function: str = "function"
    packed_metadata: str = "metadata"

    def run(self, x: int, y: int, z: int, stream: int, function: str, metadata: str, *rest: Any) -> None:
        """Start the kernel, as Triton's own launch does."""
        assert (STREAM, "function", "metadata", None, None, None) == (stream, function, metadata, *rest[:3])
        args = rest[3:]
        assert len(args) == len(self.kinds)
        if self.gpu.error is not None:
            raise self.gpu.error
        self.gpu.starts.append(Start(directly=True, compiled=self, grid=(x, y, z), args=passed(self.kinds, args)))


@dataclass
class Kernel:
    """Stand-in for Triton's function: compiles for each mixture of constexprs, types and options."""

    gpu: Gpu
    of: Any  # Triton's

    @property
    def arg_names(self) -> list[str]:
        """Return the names of the parameters."""
        names: list[str] = self.of.arg_names
        return names

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Compiled]:
        """Return a function that binds, compiles and starts the kernel."""

        def run(*args: Any, **options: Any) -> Compiled:
            assert len(args) == len(self.arg_names)
            if self.gpu.error is not None:
                raise self.gpu.error
            kinds = tuple(kind_of(self.of, name, each) for name, each in zip(self.arg_names, args, strict=True))
            constants = tuple(each for kind, each in zip(kinds, args, strict=True) if kind == "constexpr")
            key = self.of.fn.__name__, kinds, constants, tuple(sorted(options.items()))
            compiled = self.gpu.kernels.setdefault(key, Compiled(self.gpu, kinds))
            self.gpu.starts.append(Start(directly=False, compiled=compiled, grid=grid, args=passed(kinds, args)))
            return compiled

        return run


@dataclass
class Gpu:
    """Stand-in for Triton on a GPU: one kernel for each mixture of specialisations."""

    starts: list[Start] = field(default_factory=list)
    kernels: dict[Hashable, Compiled] = field(default_factory=dict)
    error: Exception | None = None  # what the next starts come to


# Parameter types of a kernel, as Triton's signatures name them.
CTYPES: dict[str, Any] = {
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "fp32": ctypes.c_float,
    "*": ctypes.c_uint64,
}


def kind_of(kernel: Any, name: str, value: object) -> str:
    """Return the type that Triton's signature of a kernel has for an argument; pointers are of one type here."""
    if "constexpr" in str(inspect.get_annotations(kernel.fn).get(name)):
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return "*"
    return "fp32" if isinstance(value, float) else "i32" if isinstance(value, int) and value < 2**31 else "i64"


def passed(kinds: tuple[str, ...], args: tuple[Any, ...]) -> tuple[object, ...]:
    """Return the values of a kernel's parameters, without its constants."""
    return tuple(
        each.data_ptr() if isinstance(each, torch.Tensor) else CTYPES[kind](each).value
        for kind, each in zip(kinds, args, strict=True)
        if kind != "constexpr"
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Let calls launch their kernels on a simulated GPU, with the plans of a real one."""
    made = Gpu()
    monkeypatch.delenv(launch.ENVIRONMENT, raising=False)
    monkeypatch.setattr(Device, "of", classmethod(lambda _cls, _tensor: H200))
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    active = SimpleNamespace(get_current_stream=lambda _index: STREAM)
    knobs = SimpleNamespace(launch_enter_hook=None, launch_exit_hook=None)
    monkeypatch.setattr(launch, "_triton", lambda: (active.get_current_stream, knobs))
    replaced = set()
    for each in pkgutil.iter_modules(normkernels.kernels.__path__, "normkernels.kernels."):
        module = importlib.import_module(each.name)
        for name, kernel in list(vars(module).items()):
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Kernel(made, kernel))
                replaced.add(name)
    assert len(replaced) > 4
    reread_environment()
    yield made
    reread_environment()


def call(operation: str, case: Case) -> tuple[torch.Tensor, ...]:
    """Call an operation as the suite's adapter does; its own tensors and results stay alive."""
    arguments = arguments_of(materialize(case, values_of(case), DEVICE, POISONS[0]))
    return call_with(operation, arguments)


def call_with(operation: str, arguments: Any) -> tuple[torch.Tensor, ...]:
    """Call an operation with arguments by name."""
    results = getattr(normkernels, operation)(**arguments)
    return results if isinstance(results, tuple) else (results,)


def apart(start: Start, results: tuple[torch.Tensor, ...]) -> tuple[object, ...]:
    """Return the arguments of a start, with results replaced by their number: each call has its own results."""
    places = {result.data_ptr(): f"result {number}" for number, result in enumerate(results)}
    return tuple(places.get(each, each) if type(each) is int else each for each in start.args)


def drawn(operation: str) -> list[Case]:
    """Return cases that cover all pairs of the suite's levels for an operation, in two dtypes."""
    made = OPERATIONS[operation]
    return [
        flat(case)
        for dtype in ("bfloat16", "float32")
        for seed in range(2)
        for case in enumerated_cases(made.factors, made.complete, Scope(dtype), strength=2, seed=seed)
    ]


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name in OURS])
def test_a_direct_launch_passes_what_triton_would(operation: str, gpu: Gpu) -> None:
    """A direct launch has the kernel, grid and arguments of the call's first launch."""
    direct = 0
    for case in drawn(operation):
        rows = count(case)
        for few_or_many in (max(1, rows - 3), rows + 5):
            call(operation, with_rows(case, few_or_many))
        arguments = arguments_of(materialize(case, values_of(case), DEVICE, POISONS[0]))
        gpu.starts.clear()
        first = call_with(operation, arguments)
        reread_environment()
        second = call_with(operation, arguments)
        if not gpu.starts:
            continue
        repeated, ordinary = gpu.starts

        assert not ordinary.directly
        assert (ordinary.compiled, ordinary.grid) == (repeated.compiled, repeated.grid)
        assert apart(ordinary, second) == apart(repeated, first)
        direct += repeated.directly
    assert direct > 20


def rows_of(rows: int = 24, width: int = 128) -> dict[str, Any]:
    """Return arguments of a norm."""
    shape = (rows, width)
    return {"x": torch.ones(shape, device=DEVICE), "weight": torch.ones(width, device=DEVICE), "eps": 1e-6}


def directly(gpu: Gpu, arguments: dict[str, Any]) -> list[bool]:
    """Return whether each start of two calls of one kind, and of one more call, was direct."""
    gpu.starts.clear()
    for _ in range(2):
        normkernels.rms_norm(**rows_of())
    normkernels.rms_norm(**arguments)
    return [start.directly for start in gpu.starts]


def test_the_second_call_is_launched_directly(gpu: Gpu) -> None:
    """``explain`` reports the direct launch as well, also as text."""
    assert [False, True, True] == directly(gpu, rows_of())
    decision = normkernels.explain("rms_norm", **rows_of())
    assert "directly" == decision.launched
    assert "launched directly" in str(decision)


def test_nothing_is_launched_directly_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    """With launches by Triton requested, every call goes through Triton."""
    monkeypatch.setenv(launch.ENVIRONMENT, "triton")
    reread_environment()

    assert [False, False, False] == directly(gpu, rows_of())
    assert "by Triton: NORMKERNELS_LAUNCH=triton" == normkernels.explain("rms_norm", **rows_of()).launched


def elsewhere(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor like the given one that begins one element after a multiple of 16 bytes."""
    room = torch.ones(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    return room[1:].view(tensor.shape)


@pytest.mark.parametrize("name", ["x", "weight"])
def test_a_tensor_elsewhere_goes_through_triton(name: str, gpu: Gpu) -> None:
    """A kernel for aligned pointers does not serve unaligned ones."""
    arguments = rows_of()
    arguments[name] = elsewhere(arguments[name])

    assert [False, True, False] == directly(gpu, arguments)
    launched = normkernels.explain("rms_norm", **arguments).launched
    assert "by Triton: some tensor begins at no multiple of 16 bytes" == launched
    # and is none itself, nor in the way of the others
    assert [True, True, False] == directly(gpu, arguments)


def wide() -> torch.Tensor:
    """Return memory for rows with gaps, or for columns with gaps."""
    return torch.ones(24, 256, device=DEVICE)


# Calls for which the first call's kernel, or its arguments, would be wrong.
OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "rows of another plan": lambda: rows_of(plans.row_thresholds("norm", plans.MEASURED)[-1]),
    "weights apart": lambda: rows_of() | {"weight": wide()[0, ::2]},
    "rows apart": lambda: rows_of() | {"x": wide()[:, :128]},
    "columns apart": lambda: rows_of() | {"x": wide()[:, ::2]},
    "an output of rows apart": lambda: rows_of() | {"out": wide()[:, :128]},
    "a residual": lambda: rows_of() | {"residual": rows_of()["x"]},
    "a residual of rows apart": lambda: rows_of() | {"residual": wide()[:, :128]},
    "another eps": lambda: rows_of() | {"eps": 1e-5},
    "another dtype": lambda: rows_of() | {"x": rows_of()["x"].half()},
    "another width": lambda: rows_of(width=96),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_call_of_another_kind_goes_through_triton(name: str, gpu: Gpu) -> None:
    """Only its first call does; its second is launched directly, and so are calls of the first kind."""
    assert [False, True, False] == directly(gpu, OTHERS[name]())
    assert [True, True, True] == directly(gpu, OTHERS[name]())


def test_outputs_that_lie_apart_are_told_apart(gpu: Gpu) -> None:
    """The gaps between the rows of outputs are compared like those of inputs."""
    for width in (256, 256, 384, 384):
        normkernels.rms_norm(**rows_of(), out=torch.ones(24, width, device=DEVICE)[:, :128])

    assert [False, True, False, True] == [start.directly for start in gpu.starts]


@pytest.mark.parametrize("flags", [{}, {"fp8_dtype": torch.float8_e4m3fn}], ids=["rms_norm", "rms_norm_fp8"])
def test_a_row_alone_has_a_width_of_its_own(flags: dict[str, Any], gpu: Gpu) -> None:
    """With gaps between columns and no weight, only the size distinguishes one width from another."""
    for width in (33, 33, 2, 2):
        x = torch.ones(2 * width, device=DEVICE)[::2]
        if flags:
            normkernels.rms_norm_fp8(x, None, eps=1e-6, **flags)
        else:
            normkernels.rms_norm(x, None, eps=1e-6)

    assert [False, True, False, True] == [start.directly for start in gpu.starts]


def test_what_a_tensor_elsewhere_leaves_is_not_used(gpu: Gpu) -> None:
    """The kernel for unaligned rows is slower for aligned ones."""
    for _ in range(2):
        normkernels.rms_norm(**rows_of() | {"x": elsewhere(rows_of()["x"])})
    for _ in range(2):
        normkernels.rms_norm(**rows_of())
    first, _, other, _ = (start.compiled for start in gpu.starts)

    assert [False, False, False, True] == [start.directly for start in gpu.starts]
    assert first is not other


def test_rotations_of_another_kind_go_through_triton(gpu: Gpu) -> None:
    """In-place calls, out-of-place calls and caches of other strides are different kinds."""
    q, k, cache = (torch.ones(4, heads, 64, device=DEVICE) for heads in (6, 2, 1))
    cos, sin = cache[:, 0].chunk(2, -1)
    rotation: dict[str, Any] = {"q": q, "k": k, "positions": torch.zeros(3, 4, dtype=torch.int64, device=DEVICE)}
    rotation |= {"cos": cos, "sin": sin, "sections": (12, 10, 10)}
    for operation, arguments in (
        ("mrope", rotation),
        ("mrope", rotation),
        ("mrope_", rotation),
        ("mrope", rotation | {"sin": sin.contiguous()}),
        ("mrope", rotation | {"cos": cos.contiguous()}),
        ("mrope_", rotation),
    ):
        call_with(operation, arguments)

    assert [False, True, False, False, False, True] == [start.directly for start in gpu.starts]


@pytest.mark.parametrize("operation", ["mrope", "mrope_"])
def test_positions_may_lie_anywhere(operation: str, gpu: Gpu) -> None:
    """Positions may be a slice of a longer tensor; each position is read alone."""
    q, k, cache = (torch.ones(1, heads, 64, device=DEVICE) for heads in (6, 2, 1))
    cos, sin = cache[:, 0].chunk(2, -1)
    longer = torch.zeros(3, 8, dtype=torch.int64, device=DEVICE)
    for token in (1, 3, 3):
        getattr(normkernels, operation)(q, k, longer[:, token : token + 1], cos, sin, sections=(11, 11, 10))

    assert [False, True, True] == [start.directly for start in gpu.starts]


@pytest.mark.parametrize("operation", ["rms_norm_fp8", "rms_norm_gated_fp8"])
def test_given_fp8_outputs_are_launched_directly(operation: str, gpu: Gpu) -> None:
    """The places of the given outputs do not matter."""
    arguments = rows_of() | {"fp8_dtype": FP8} | ({"gate": rows_of()["x"]} if "gated" in operation else {})
    outputs = [torch.empty(24, 128, dtype=FP8, device=DEVICE) for _ in range(2)]
    for out in outputs:
        assert out is call_with(operation, arguments | {"out": out})[0]

    assert [False, True] == [start.directly for start in gpu.starts]
    for out, start in zip(outputs, gpu.starts, strict=True):
        assert out.data_ptr() in start.args
    assert "directly" == normkernels.explain(operation, **arguments, out=outputs[0]).launched


@pytest.mark.parametrize("operation", ["rms_norm", "gemma_rms_norm", "rms_norm_gated"])
@pytest.mark.parametrize("name", ["rows", "gaps", "one row apart"])
def test_calls_in_place_are_launched_directly(operation: str, name: str, gpu: Gpu) -> None:
    """Calls that write over x and other arguments get Triton's arguments, with the outputs among them."""
    room = torch.ones(2, 24, 256, device=DEVICE)
    x, beside = {"rows": room.view(2, 48, 128), "gaps": room[..., :128], "one row apart": room[:, ::24, :128]}[
        name
    ]
    names = ("gate", "out") if operation == "rms_norm_gated" else ("residual", "residual_out")
    arguments = {"x": x, names[0]: beside, "weight": rows_of()["weight"], "eps": 1e-6, "out": x, names[1]: beside}
    if operation == "rms_norm_gated":
        arguments["out"] = x
    for _ in range(2):
        call_with(operation, arguments)
    first, again = gpu.starts

    assert [False, True] == [first.directly, again.directly]
    assert first[1:] == again[1:]


def test_memory_that_is_shared_is_refused_in_each_call(gpu: Gpu) -> None:
    """A call is refused also if it differs from a common one only in the place of its output."""
    room = torch.ones(4096, device=DEVICE)
    x = room[:1024].view(8, 128)
    weight = torch.ones(128, device=DEVICE)
    for start in (2048, 3072):
        normkernels.rms_norm(x, weight, eps=1e-6, out=room[start : start + 1024].view(8, 128))
    with pytest.raises(normkernels.InvalidCall, match="out shares memory with x"):
        normkernels.rms_norm(x, weight, eps=1e-6, out=room[512:1536].view(8, 128))

    assert [False, True] == [start.directly for start in gpu.starts]


KINDS: dict[str, Callable[[int], tuple[str, dict[str, Any]]]] = {
    "norm": lambda rows: ("rms_norm", rows_of(rows, 4096)),
    "residual": lambda rows: ("rms_norm", rows_of(rows, 4096) | {"residual": rows_of(rows, 4096)["x"]}),
    "gated 128": lambda rows: ("rms_norm_gated", rows_of(rows) | {"gate": rows_of(rows)["x"]}),
    "fp8": lambda rows: ("rms_norm_fp8", rows_of(rows, 1536) | {"fp8_dtype": FP8}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_count_is_launched_by_its_plan(kind: str, gpu: Gpu) -> None:
    """The order of counts does not matter; counts between two that share a launch plan nothing anew."""
    starts = [start for start in plans.row_thresholds(kind, plans.MEASURED) if start <= 8192]
    counts = sorted({1, 2, 15, 16, 17, 100, *(start + step for start in starts for step in (-1, 0, 1))})
    compiled: dict[plans.Plan, Compiled] = {}
    generator = random.Random(0)  # noqa: S311  (an order, not a secret)
    for _ in range(3):
        generator.shuffle(counts)
        for rows in counts:
            operation, arguments = KINDS[kind](1)
            for name in ("x", "gate", "residual"):
                if name in arguments:
                    # one row, expanded, is enough: nothing reads the rows here
                    arguments[name] = torch.empty(rows, arguments[name].shape[1], device=DEVICE)
            plan = normkernels.explain(operation, **arguments).plan
            assert plan is not None
            gpu.starts.clear()
            call_with(operation, arguments)
            (start,) = gpu.starts

            assert start.directly == (plan in compiled)
            assert start.compiled is compiled.setdefault(plan, start.compiled)
            assert (-(-rows // plan.rows), 1, 1) == start.grid
            assert rows in start.args
    assert len(compiled) > 1
    (cached,) = _cache.values()
    assert cached.launches is not None
    assert {each.plan: each.compiled for each in cached.launches.cached} == compiled


def test_counts_between_two_plan_nothing(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two counts with the same plan are the ends of a range with this plan."""
    for rows in (3, 100):
        normkernels.rms_norm(**rows_of(rows))
    (cached,) = _cache.values()
    assert cached.launches is not None
    monkeypatch.setattr(cached.launches, "plan", lambda rows: pytest.fail(f"{rows} rows are planned"))
    for rows in (3, 4, 50, 100):
        normkernels.rms_norm(**rows_of(rows))

    assert [False, *[True] * 5] == [start.directly for start in gpu.starts]


@pytest.mark.parametrize("shape", [(0, 128), (3, 0, 128), (3, 0)], ids=str)
def test_no_rows_are_launched_by_nobody(shape: tuple[int, ...], gpu: Gpu) -> None:
    """A call without rows launches nothing, neither first nor after other calls."""
    arguments = rows_of() | {"x": torch.ones(shape, device=DEVICE), "weight": torch.ones(shape[-1], device=DEVICE)}
    for _ in range(2):
        normkernels.rms_norm(**arguments)

    assert [] == gpu.starts


@pytest.mark.parametrize("times", [0, 2])
def test_a_launch_that_fails_raises_and_is_not_kept(times: int, gpu: Gpu) -> None:
    """Kept launches stay; a call that failed first is launched by Triton again."""
    for _ in range(times):
        normkernels.rms_norm(**rows_of())
    gpu.starts.clear()
    gpu.error = RuntimeError("out of registers")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of registers"):
            normkernels.rms_norm(**rows_of())
    assert [] == gpu.starts
    gpu.error = None
    for _ in range(2):
        normkernels.rms_norm(**rows_of())

    assert [times > 0, True] == [start.directly for start in gpu.starts]


@dataclass
class Devices:
    """Stand-in for ``torch.cuda`` with two GPUs."""

    current: int = 0

    def current_device(self) -> int:
        """Return the current device."""
        return self.current

    @contextlib.contextmanager
    def device(self, index: int) -> Iterator[None]:
        """Make another device current inside the context."""
        before, self.current = self.current, index
        yield
        self.current = before


@pytest.mark.parametrize("index", [0, 1])
def test_a_kernel_starts_on_the_device_of_its_tensors(
    index: int, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current device does not matter and stays current, through Triton and directly."""
    normkernels.rms_norm(**rows_of())
    (cached,) = _cache.values()
    assert cached.launches is not None
    (kept,) = cached.launches.cached
    kept.index, kept.compiled = index, None
    devices, current = Devices(), list[int]()
    monkeypatch.setattr(torch, "cuda", devices)
    monkeypatch.setattr(launch, "_gpus", lambda: 2)

    class Starts(list[Start]):
        """A list that records the device of each start."""

        def append(self, start: Start) -> None:
            """Append the start with the current device."""
            current.append(devices.current)
            super().append(start)

    gpu.starts = Starts()
    tensors = [rows_of()["x"]] * 5
    for _ in range(2):
        launch.launch(kept, tensors, [each.data_ptr() for each in tensors], (24,))

    assert [index, index] == current
    assert 0 == devices.current
    assert kept.compiled is not None


def test_a_count_past_32_bits_goes_through_triton(gpu: Gpu) -> None:
    """Triton passes the count to another kernel, which is not kept for other counts."""
    normkernels.rms_norm(**rows_of())
    (cached,) = _cache.values()
    assert cached.launches is not None
    (kept,) = cached.launches.cached
    tensors = [rows_of()["x"]] * 5
    pointers = [each.data_ptr() for each in tensors]
    gpu.starts.clear()
    for rows in (2**31 - 1, 2**31, 2**31 - 1):
        launch.launch(kept, tensors, pointers, (rows,))
    few, many, again = gpu.starts

    assert [True, False, True] == [start.directly for start in gpu.starts]
    assert few.compiled is again.compiled is not many.compiled
    assert 2**31 in many.args


def test_a_first_count_past_32_bits_is_not_kept(gpu: Gpu) -> None:
    """The kernel of such a count takes 64 bits."""
    normkernels.rms_norm(**rows_of())
    (cached,) = _cache.values()
    assert cached.launches is not None
    (kept,) = cached.launches.cached
    kept.compiled = None
    tensors = [rows_of()["x"]] * 5
    pointers = [each.data_ptr() for each in tensors]
    for rows in (2**31, 24, 24):
        launch.launch(kept, tensors, pointers, (rows,))

    assert [False, False, True] == [start.directly for start in gpu.starts[1:]]


@pytest.mark.parametrize("asked", ["", "direct", "triton"])
def test_the_interpreter_compiles_nothing(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter has no direct launches, whatever NORMKERNELS_LAUNCH says."""
    monkeypatch.setenv(launch.ENVIRONMENT, asked)
    monkeypatch.setattr(launch, "interpreting", lambda: True)
    reread_environment()

    assert "the interpreter compiles nothing" == launch.why_not_direct()
    assert "by Triton: the interpreter compiles nothing" == launch.how([])


@pytest.mark.parametrize("asked", ["", "direct"])
def test_direct_is_what_nobody_need_ask_for(asked: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct launches are the default; an empty variable counts as unset."""
    monkeypatch.setenv(launch.ENVIRONMENT, asked)
    reread_environment()

    assert [False, True, True] == directly(gpu, rows_of())


def test_the_environment_is_read_once(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that changes after the first launch changes nothing."""
    assert [False, True, True] == directly(gpu, rows_of())
    monkeypatch.setenv(launch.ENVIRONMENT, "triton")
    assert [True, True, False] == directly(gpu, rows_of(width=96))
    assert [True, True, True] == directly(gpu, rows_of(width=96))
    reread_environment()

    assert [False, False, False] == directly(gpu, rows_of())


@pytest.mark.parametrize("name", ["aligned", "elsewhere"])
def test_another_word_is_refused(name: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message lists the known words, before anything is started."""
    monkeypatch.setenv(launch.ENVIRONMENT, "fast")
    reread_environment()
    arguments = rows_of() if name == "aligned" else rows_of() | {"x": elsewhere(rows_of()["x"])}
    for made in (normkernels.rms_norm, lambda **given: normkernels.explain("rms_norm", **given)):
        message = "NORMKERNELS_LAUNCH='fast', must be one of direct, triton"
        with pytest.raises(normkernels.InvalidCall, match=message):
            made(**arguments)

    assert [] == gpu.starts
