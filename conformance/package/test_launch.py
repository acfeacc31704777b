"""What a direct launch passes is what Triton's own launch of the same call would, and when there is one.

No GPU is needed: the kernels here are compiled by nobody, and remember what they are started with.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

import normkernels
from conformance.calling import arguments_of
from conformance.case import Case
from conformance.materialize import materialize, values_of
from conformance.memory import POISONS
from conformance.operations import OPERATIONS
from conformance.package.driver import LAUNCH
from conformance.package.gated_calls import DEVICE
from conformance.rows import count, flat, with_rows
from conformance.strategies import Scope, enumerated_cases
from normkernels import direct, launch, plans

STREAM = 7


class Start(NamedTuple):
    """What a kernel was started with: the values of its parameters, in its order."""

    directly: bool
    compiled: Compiled
    grid: tuple[int, ...]
    args: tuple[object, ...]


@dataclass(eq=False)
class Compiled:
    """Stands in for a compiled kernel: says of itself what Triton's says."""

    function: int
    metadata: SimpleNamespace
    src: SimpleNamespace
    packed_metadata: tuple[int, int, int] = (1, 1, 0)
    _run: object = field(default_factory=object)

    @property
    def run(self) -> object:
        """What is asked for at each launch, and compared; nobody calls it."""
        return self._run


@dataclass
class Gpu:
    """Stands in for Triton on a GPU, and for its driver: a kernel for each mixture that some are compiled for."""

    starts: list[Start] = field(default_factory=list)
    kernels: dict[Hashable, Compiled] = field(default_factory=dict)
    device: int | None = 0 if DEVICE == "cuda" else None
    stream: int = STREAM
    error: int = 0  # what the driver answers

    def launch(
        self, kernel: Any, grid: tuple[int, ...], args: Any, plan: plans.Plan, device: torch.device
    ) -> launch.Launched:
        """Note a launch through Triton, in whose place it is."""
        signature = {name: kind_of(kernel, name, args[name]) for name in kernel.arg_names}
        constants = tuple((name, args[name]) for name, kind in signature.items() if kind == "constexpr")
        key = kernel.fn.__name__, constants, tuple(signature.values()), plan.warps
        if key not in self.kernels:
            needs = {"num_ctas": 1, "global_scratch_size": 0, "profile_scratch_size": 0, "shared": 16}
            self.kernels[key] = Compiled(
                11 + len(self.kernels),
                SimpleNamespace(num_warps=plan.warps, **needs),
                SimpleNamespace(signature=signature),
            )
        compiled = self.kernels[key]
        passed = tuple(
            each.data_ptr() if isinstance(each, torch.Tensor) else CTYPES[kind](each).value
            for kind, each in zip(signature.values(), (args[name] for name in signature), strict=True)
            if kind != "constexpr"
        )
        whole = (*grid, *(1,) * (3 - len(grid)))
        self.starts.append(Start(directly=False, compiled=compiled, grid=whole, args=passed))
        return launch.Launched(kernel, compiled, grid, args, plan, device)

    def started(self, function: int, *given: Any) -> int:
        """Note a direct launch, in whose driver's place it is."""
        (compiled,) = (each for each in self.kernels.values() if each.function == function)
        grid, block, (shared, stream, parameters, extra) = given[:3], given[3:6], given[6:]
        assert (compiled.metadata.num_warps * 32, 1, 1) == block
        assert (compiled.metadata.shared, self.stream, None) == (shared, stream or 0, extra)
        kinds = [kind for kind in compiled.src.signature.values() if kind != "constexpr"]
        values = [
            CTYPES[kind].from_address(parameters[at]).value or 0 for at, kind in enumerate([*kinds, "*", "*"])
        ]
        # no scratch memory
        assert [0, 0] == values[-2:]
        if not self.error:
            self.starts.append(Start(directly=True, compiled=compiled, grid=grid, args=tuple(values[:-2])))
        return self.error


# What a kernel takes, as Triton's signatures name it.
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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Let calls take their kernels to a GPU that is not there, with the plans of one that is."""
    made = Gpu()
    entry = LAUNCH(made.started)
    monkeypatch.setattr(plans, "TABLE", plans.MEASURED)
    monkeypatch.setattr(launch, "standing", lambda: None)
    monkeypatch.setattr(launch, "current_device", lambda: made.device)
    monkeypatch.setattr(launch, "_current_stream", lambda _index: made.stream)
    monkeypatch.setattr(direct, "is_plain", lambda _compiled: True)
    monkeypatch.setattr(direct, "launch_function", lambda: ctypes.cast(entry, ctypes.c_void_p).value)
    for operation in ("rms_norm", "rms_norm_gated", "rms_norm_fp8", "rms_norm_gated_fp8", "mrope"):
        monkeypatch.setattr(f"normkernels.kernels.{operation}.launch", made.launch)
    monkeypatch.setattr(launch, "reread_environment", lambda: None)
    reread_environment()
    yield made
    reread_environment()


def call(operation: str, case: Case) -> tuple[torch.Tensor, ...]:
    """Call an operation as the suite's adapter does; its own tensors, and what it returns, stay alive."""
    arguments = arguments_of(materialize(case, values_of(case), DEVICE, POISONS[0]))
    return call_with(operation, arguments)


def call_with(operation: str, arguments: Any) -> tuple[torch.Tensor, ...]:
    """Call an operation with arguments by name."""
    results = getattr(normkernels, operation)(**arguments)
    return results if isinstance(results, tuple) else (results,)


def apart(start: Start, results: tuple[torch.Tensor, ...]) -> tuple[object, ...]:
    """What a kernel was started with, results by their number: each call has its own."""
    places = {result.data_ptr(): f"result {number}" for number, result in enumerate(results)}
    return tuple(places.get(each, each) if type(each) is int else each for each in start.args)


def drawn(operation: str) -> list[Case]:
    """Cases that cover all pairs of what the suite may draw for an operation, in two dtypes."""
    made = OPERATIONS[operation]
    return [
        flat(case)
        for dtype in ("bfloat16", "float32")
        for seed in range(2)
        for case in enumerated_cases(made.factors, made.complete, Scope(dtype), strength=2, seed=seed)
    ]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_direct_launch_passes_what_triton_would(operation: str, gpu: Gpu) -> None:
    """Same kernel, same grid, same arguments as the call that nobody has made before."""
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
    """Arguments of a norm."""
    shape = (rows, width)
    return {"x": torch.ones(shape, device=DEVICE), "weight": torch.ones(width, device=DEVICE), "eps": 1e-6}


def directly(gpu: Gpu, arguments: dict[str, Any]) -> list[bool]:
    """Whether each start of two such calls, and one more, was direct."""
    gpu.starts.clear()
    for _ in range(2):
        normkernels.rms_norm(**rows_of())
    normkernels.rms_norm(**arguments)
    return [start.directly for start in gpu.starts]


def test_the_second_call_is_launched_directly(gpu: Gpu) -> None:
    """And ``explain`` says so, in words too."""
    assert [False, True, True] == directly(gpu, rows_of())
    decision = normkernels.explain("rms_norm", **rows_of())
    assert "directly" == decision.launched
    assert "launched directly" in str(decision)


def test_nothing_is_launched_directly_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    """Where something stands against it, every call goes through Triton."""
    monkeypatch.setattr(launch, "standing", lambda: launch.Obstacle(launch.Against.VERSION, "2.0"))

    assert [False, False, False] == directly(gpu, rows_of())
    launched = normkernels.explain("rms_norm", **rows_of()).launched
    assert "by Triton, not directly: VERSION: needs Triton 3.6, 3.7, 3.8, 3.9, got 2.0" == launched


def elsewhere(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor like it that begins one element after a multiple of 16 bytes."""
    room = torch.ones(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    return room[1:].view(tensor.shape)


@pytest.mark.parametrize("name", ["x", "weight"])
def test_a_tensor_elsewhere_goes_through_triton(name: str, gpu: Gpu) -> None:
    """A kernel for aligned pointers is none for others."""
    arguments = rows_of()
    arguments[name] = elsewhere(arguments[name])

    assert [False, True, False] == directly(gpu, arguments)
    assert "ALIGNMENT" in str(normkernels.explain("rms_norm", **arguments).launched)


def wide() -> torch.Tensor:
    """Return room for rows with gaps, or for columns apart."""
    return torch.ones(24, 256, device=DEVICE)


# Calls after which another kernel, or other arguments, would be wrong.
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
    """Once: the next one like it is launched directly, and the first kind still is."""
    assert [False, True, False] == directly(gpu, OTHERS[name]())
    assert [True, True, True] == directly(gpu, OTHERS[name]())


def test_outputs_that_lie_apart_are_told_apart(gpu: Gpu) -> None:
    """By the gaps between their rows, as anything else."""
    for width in (256, 256, 384, 384):
        normkernels.rms_norm(**rows_of(), out=torch.ones(24, width, device=DEVICE)[:, :128])

    assert [False, True, False, True] == [start.directly for start in gpu.starts]


@pytest.mark.parametrize("flags", [{}, {"fp8_dtype": torch.float8_e4m3fn}], ids=["rms_norm", "rms_norm_fp8"])
def test_a_row_alone_has_a_width_of_its_own(flags: dict[str, Any], gpu: Gpu) -> None:
    """Columns apart and no weight: nothing but its only size tells one width from another."""
    for width in (33, 33, 2, 2):
        x = torch.ones(2 * width, device=DEVICE)[::2]
        if flags:
            normkernels.rms_norm_fp8(x, None, eps=1e-6, **flags)
        else:
            normkernels.rms_norm(x, None, eps=1e-6)

    assert [False, True, False, True] == [start.directly for start in gpu.starts]


def test_what_a_tensor_elsewhere_leaves_is_not_used(gpu: Gpu) -> None:
    """The kernel for rows that are not aligned is slower for those that are."""
    for _ in range(2):
        normkernels.rms_norm(**rows_of() | {"x": elsewhere(rows_of()["x"])})
    normkernels.rms_norm(**rows_of())

    assert [False, False, False] == [start.directly for start in gpu.starts]


def test_rotations_of_another_kind_go_through_triton(gpu: Gpu) -> None:
    """In place or not, and with a cache that lies in another way."""
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
    """As those of the last token do, in a longer tensor; each is read alone."""
    q, k, cache = (torch.ones(1, heads, 64, device=DEVICE) for heads in (6, 2, 1))
    cos, sin = cache[:, 0].chunk(2, -1)
    longer = torch.zeros(3, 8, dtype=torch.int64, device=DEVICE)
    for token in (1, 3, 3):
        getattr(normkernels, operation)(q, k, longer[:, token : token + 1], cos, sin, sections=(11, 11, 10))

    assert [False, True, True] == [start.directly for start in gpu.starts]


def test_given_fp8_outputs_go_through_triton(gpu: Gpu) -> None:
    """What is looked at in each call is not kept."""
    fp8_dtype = torch.float8_e4m3fn
    arguments = rows_of() | {"fp8_dtype": fp8_dtype, "out": torch.empty(24, 128, dtype=fp8_dtype, device=DEVICE)}
    for _ in range(2):
        normkernels.rms_norm_fp8(**arguments)

    assert [False, False] == [start.directly for start in gpu.starts]
    assert "UNCOMMON" in str(normkernels.explain("rms_norm_fp8", **arguments).launched)


@pytest.mark.parametrize("operation", ["rms_norm", "gemma_rms_norm", "rms_norm_gated"])
@pytest.mark.parametrize("name", ["rows", "gaps", "one row apart"])
def test_calls_in_place_are_launched_directly(operation: str, name: str, gpu: Gpu) -> None:
    """Over x and what is beside it, with what Triton would be given, and outputs among the arguments."""
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
    """Also by a call that differs from a common one in where its output lies."""
    room = torch.ones(4096, device=DEVICE)
    x = room[:1024].view(8, 128)
    weight = torch.ones(128, device=DEVICE)
    for start in (2048, 3072):
        normkernels.rms_norm(x, weight, eps=1e-6, out=room[start : start + 1024].view(8, 128))
    with pytest.raises(normkernels.InvalidCall, match="out shares memory with x"):
        normkernels.rms_norm(x, weight, eps=1e-6, out=room[512:1536].view(8, 128))

    assert [False, True] == [start.directly for start in gpu.starts]


KNOBS: dict[str, tuple[str, str, object, str]] = {
    "a hook before": ("runtime", "launch_enter_hook", print, "HOOKS"),
    "a hook after": ("runtime", "launch_exit_hook", print, "HOOKS"),
    "debugging": ("runtime", "debug", True, "KNOBS"),
    "stages": ("runtime", "add_stages_inspection_hook", print, "KNOBS"),
    "instrumentation": ("compilation", "instrumentation_mode", "gsan", "KNOBS"),
}


@pytest.mark.parametrize("name", KNOBS)
def test_what_only_triton_heeds_goes_through_triton(name: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook or knob of Triton's, for as long as it is set: what was kept before is used again afterwards."""
    from triton import knobs

    group, knob, value, reason = KNOBS[name]
    with monkeypatch.context() as patch:
        directly(gpu, rows_of())
        patch.setattr(getattr(knobs, group), knob, value)

        assert [False, False, False] == directly(gpu, rows_of())
        assert reason in str(normkernels.explain("rms_norm", **rows_of()).launched)
    assert [True, True, True] == directly(gpu, rows_of())


def test_a_hook_in_tritons_chain_goes_through_triton(gpu: Gpu) -> None:
    """A chain without hooks is no obstacle, one with a hook is."""
    from triton import knobs

    knobs.runtime.launch_enter_hook.add(print)
    try:
        assert [False, False, False] == directly(gpu, rows_of())
    finally:
        knobs.runtime.launch_enter_hook.remove(print)
    assert [False, True, True] == directly(gpu, rows_of())


def test_another_table_begins_anew(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was launched by one table of plans is not what another says."""
    directly(gpu, rows_of())
    monkeypatch.setattr(plans, "TABLE", plans.PlanTable(scale=2))

    assert not any(directly(gpu, rows_of()))


def test_the_stream_is_asked_for_in_each_call(gpu: Gpu) -> None:
    """It may be another one each time."""
    directly(gpu, rows_of())
    gpu.stream = 0

    assert [True, True, True] == directly(gpu, rows_of())


def test_a_launch_that_fails_goes_through_triton(gpu: Gpu) -> None:
    """Which mends what can be, as a thread that has no context, and says what cannot."""
    directly(gpu, rows_of())
    gpu.error = 201

    assert [False, False, False] == directly(gpu, rows_of())


def test_a_count_past_32_bits_goes_through_triton(gpu: Gpu) -> None:
    """Triton would pass it to another kernel."""
    nothing = launch.Repeats(plans.TABLE)
    normkernels.rms_norm(**rows_of())
    (route,) = operation._known.values()
    (known,) = route.repeats.starts
    tensors = (rows_of()["x"], None, None, rows_of()["x"], None)
    pointers = (tensors[0].data_ptr(),) * len(tensors)

    assert known.start(pointers, (2**31 - 1,))
    assert not known.start(pointers, (2**31,))
    assert not nothing.again(tensors, (24,))


def test_who_counts_launches_sees_each(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """By replacing the attribute ``run`` of compiled kernels, which whoever launches one asks for."""
    for rows in (24, 30):
        normkernels.rms_norm(**rows_of(rows))
    counted: list[Compiled] = []

    def counting(compiled: Compiled) -> object:
        counted.append(compiled)
        return compiled._run

    monkeypatch.setattr(Compiled, "run", property(counting))
    normkernels.rms_norm(**rows_of(27))

    assert [False, False, True] == [start.directly for start in gpu.starts]
    assert [gpu.starts[-1].compiled] == counted


def test_who_launches_in_the_place_of_triton_is_called(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what Triton would pass."""
    called: list[tuple[Any, ...]] = []
    for rows in (24, 30):
        normkernels.rms_norm(**rows_of(rows))
    arguments = rows_of(27)
    with monkeypatch.context() as patch:
        patch.setattr(Compiled, "run", property(lambda _compiled: lambda *given: called.append(given)))
        (y,) = call_with("rms_norm", arguments)
    directly, compiled = len(gpu.starts), gpu.starts[0].compiled
    (again,) = call_with("rms_norm", arguments)
    (given,), (start,) = called, gpu.starts[directly:]

    assert [False, False, True] == [each.directly for each in gpu.starts]
    assert start.grid == given[:3]
    assert (STREAM, compiled.function, compiled.packed_metadata, None, None, None) == given[3:9]
    kinds = zip(compiled.src.signature.values(), given[9:], strict=True)
    passed = tuple(CTYPES[kind](each).value for kind, each in kinds if kind != "constexpr")
    assert apart(start, (again,)) == apart(start._replace(args=passed), (y,))


@pytest.mark.parametrize(
    ("asked", "reason"), [("", "INTERPRETED"), ("triton", "NOT_ASKED"), ("direct", "INTERPRETED")]
)
def test_the_environment_says_how(asked: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``direct`` unless ``triton`` is asked for; the interpreter cannot."""
    monkeypatch.setenv(launch.ENVIRONMENT, asked)
    monkeypatch.setattr(launch, "interpreting", lambda: True)
    launch.reread_environment()
    obstacle = launch.standing()
    launch.reread_environment()

    assert obstacle is not None
    assert reason == obstacle.reason.name


@pytest.mark.parametrize(
    ("cuda", "version", "reason"),
    [
        ("13.0", "3.6.0", None),
        ("13.0", "3.9.1+git", None),
        ("13.0", "3.5.1", "VERSION"),
        ("13.0", "3.10.0", "VERSION"),
        (None, "3.6.0", "NOT_NVIDIA"),
    ],
)
def test_only_known_tritons_are_launched_past(
    cuda: str | None, version: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where kernels are compiled, for CUDA, by a Triton that was read."""
    import triton

    monkeypatch.setenv(launch.ENVIRONMENT, "direct")
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(triton, "__version__", version)
    launch.reread_environment()
    obstacle = launch.standing()
    launch.reread_environment()

    assert reason == (None if obstacle is None else obstacle.reason.name)


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the words that there are."""
    monkeypatch.setenv(launch.ENVIRONMENT, "fast")
    launch.reread_environment()

    with pytest.raises(normkernels.InvalidCall, match="NORMKERNELS_LAUNCH='fast', must be one of triton, direct"):
        normkernels.rms_norm(**rows_of())
