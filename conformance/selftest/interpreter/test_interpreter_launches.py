"""Launches that elsewhere need a GPU or a compiler: tuned kernels, drivers, masked loads, unsupported calls."""

import os
import subprocess
from typing import Any

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("this process compiles its kernels: it cannot interpret them", allow_module_level=True)

import triton
import triton.language as tl

from conformance import interpreter
from conformance.adapter import Adapter, Crashed, Unable, Unsupported, UsageError
from conformance.calls.call import Subject, perform
from conformance.cases.case import Case, TensorSpec
from conformance.interpreter import faithful, gpu
from conformance.selftest.processes import ran_alone

X = TensorSpec((2, 4), "float32")
CASE = Case(
    "rms_norm", (("x", X), ("weight", TensorSpec((4,), "float32"))), (("eps", 1e-6), ("weight_offset", 0.0))
)


@pytest.fixture(autouse=True)
def _installed() -> None:
    interpreter.install()


def _at_most_8(configs: list[Any], named: dict[str, Any], **_meta: Any) -> list[Any]:
    """Prune by the argument ``n`` and a property of the GPU."""
    properties = triton.runtime.driver.active.utils.get_device_properties(0)
    return [c for c in configs if c.kwargs["BLOCK"] <= 8 * named["n"] and properties["max_shared_mem"] > 0]


@triton.autotune(  # type: ignore[untyped-decorator]  # triton has no types
    configs=[triton.Config({"BLOCK": block}, num_warps=4) for block in (64, 8, 16)],
    key=["n"],
    prune_configs_by={"early_config_prune": _at_most_8},
    reset_to_zero=["out_ptr"],
    cache_results=True,
)
@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def tuned_kernel(out_ptr: Any, n: Any, BLOCK: tl.constexpr) -> None:
    """Add the block's size."""
    tl.store(out_ptr, tl.load(out_ptr) + BLOCK)


@triton.heuristics(  # type: ignore[untyped-decorator]  # triton has no types
    {"BLOCK": lambda args: triton.next_power_of_2(args["n"]), "HAS_X": lambda a: a["x_ptr"] is not None}
)
@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def heuristic_kernel(x_ptr: Any, out_ptr: Any, n: Any, BLOCK: tl.constexpr, HAS_X: tl.constexpr) -> None:
    """Store the block's size, and one more for x."""
    tl.store(out_ptr, BLOCK + (1 if HAS_X else 0))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def typed_kernel(
    out_ptr: Any,
    long: "tl.int64",
    byte: "i8",  # type: ignore[name-defined]  # noqa: F821 - a name of Triton's
    exact_ptr: Any,
    exact: tl.float64,
    plain: tl.float32,
    left: Any,
    on: tl.int1,
    given: tl.int64 = 2**31 - 1,
) -> None:
    """Store what shows the type of each number."""
    tl.store(out_ptr, 4 * long)
    tl.store(out_ptr + 1, (byte + byte).to(tl.int64))
    tl.store(out_ptr + 2, 4 * left)
    tl.store(out_ptr + 3, on.to(tl.int64))
    tl.store(out_ptr + 4, given + given)
    tl.store(exact_ptr, exact)
    tl.store(exact_ptr + 1, plain * plain)


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def grid_kernel(out_ptr: Any, n: Any, BLOCK: tl.constexpr) -> None:
    """Store the number of programs."""
    tl.store(out_ptr + tl.program_id(0), tl.num_programs(0))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def masked_kernel(x_ptr: Any, out_ptr: Any, n: Any, OTHER: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Store elements, including masked ones."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i < n, other=OTHER))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def sum_kernel(x_ptr: Any, out_ptr: Any, n: Any, BLOCK: tl.constexpr) -> None:
    """Store a sum that includes masked elements, whatever their values."""
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr, tl.sum(tl.load(x_ptr + i, mask=i < n), axis=0))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def assembly(x: Any) -> Any:
    """Do nothing, in assembly."""
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def assembly_kernel(out_ptr: Any) -> None:
    """Store a number after calling a function in assembly."""
    tl.store(out_ptr, assembly(tl.full([1], 1.0, tl.float32)))


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def timer_kernel(out_ptr: Any) -> None:
    """Store the time."""
    tl.store(out_ptr, tl.extra.cuda.globaltimer())


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def unknown_kernel(out_ptr: Any) -> None:
    """Call an operation that the interpreter does not have."""
    tl.store(out_ptr, interpreter_builder.create_something_new(1))  # type: ignore[name-defined]  # noqa: F821 - Triton's


@triton.jit  # type: ignore[untyped-decorator]  # triton has no types
def wrong_kernel(out_ptr: Any) -> None:
    """Raise."""
    raise NotImplementedError("not for this width")


def test_a_tuned_kernel_takes_its_first_configuration() -> None:
    """The first configuration after pruning runs once, after its own hooks, without a driver."""
    out = torch.full((1,), 5.0)
    tuned_kernel[(1,)](out, 2)

    assert 8 == out.item()
    assert {"BLOCK": 8} == tuned_kernel.best_config.kwargs
    assert isinstance(tuned_kernel, triton.runtime.autotuner.Autotuner)


def test_a_tuned_kernel_refuses_what_it_tunes() -> None:
    """The kernel refuses a tuned argument, as Triton does when it measures."""
    with pytest.raises(ValueError, match="BLOCK"):
        tuned_kernel[(1,)](torch.zeros(1), 8, BLOCK=8)


def test_heuristics_choose() -> None:
    """Heuristics see the arguments as given."""
    out = torch.zeros(2, dtype=torch.int32)
    heuristic_kernel[(1,)](None, out[:1], 5)
    heuristic_kernel[(1,)](out, out[1:], 9)

    assert [8, 17] == out.tolist()


@pytest.mark.parametrize(
    "grid",
    [
        (3,),
        [3],
        torch.Size([3]),
        lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),),
        lambda meta: [meta["n"] // 4],
    ],
    ids=["tuple", "list", "size", "function", "function of a list"],
)
def test_a_grid_is_what_a_launch_takes(grid: Any) -> None:
    """A grid is any sequence of integers, or a function of the arguments."""
    out = torch.zeros(4, dtype=torch.int32)
    grid_kernel[grid](out, 12, BLOCK=4)

    assert [3, 3, 3, 0] == out.tolist()


@pytest.mark.parametrize("device", [None, -1, 0, "cpu", torch.device("cpu", 0)], ids=str)
def test_a_device_is_selected_where_there_is_none(device: Any) -> None:
    """The launchers' device guard accepts every tensor's device."""
    with torch.cuda.device(device):
        torch.cuda.set_device(0)
        torch.cuda.synchronize()

        assert 0 == torch.cuda.current_device()


def test_a_gpu_answers() -> None:
    """PyTorch and Triton give the same properties of the simulated GPU; unknown ones are unsupported."""
    properties, driver = torch.cuda.get_device_properties("cuda"), triton.runtime.driver.active

    assert (9, 0) == torch.cuda.get_device_capability() == driver.get_device_capability(0)
    assert driver.utils.get_device_properties(0)["multiprocessor_count"] == properties.multi_processor_count
    assert "cuda" == driver.get_current_target().backend
    assert (
        0 == driver.get_current_device() == driver.get_current_stream(0) == torch.cuda.current_stream().cuda_stream
    )
    assert gpu.NAME == torch.cuda.get_device_name(0) == properties.name
    for asked in (lambda: properties.uuid, lambda: driver.get_benchmarker, lambda: driver.utils.load_binary):
        with pytest.raises(Unsupported, match="Triton's interpreter cannot run"):
            asked()


def test_what_is_true_without_a_gpu_stays_true() -> None:
    """No function reports a GPU, because PyTorch itself would then use it."""
    done = _run("print(torch.cuda.is_available(), torch.cuda.device_count())", CUDA_VISIBLE_DEVICES="")

    assert "False 0\n" == done.stdout, done.stderr


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a separate process with the interpreter installed."""
    start = "import torch\nfrom conformance import interpreter\ninterpreter.install()\n"
    return ran_alone(start + code, TRITON_INTERPRET="1", **environment)


MASKED = {torch.float32: "nan", torch.bfloat16: "nan", torch.float8_e4m3fn: "nan", torch.int16: str(0x5A5A)}


@pytest.mark.parametrize("dtype", MASKED, ids=str)
def test_a_masked_load_without_other_is_poison(dtype: torch.dtype) -> None:
    """Undefined elements are NaN or a large number, except with ``other`` or with the setting for zeros."""

    def fourth(other: float | None) -> str:
        out = torch.zeros(4, dtype=dtype)
        masked_kernel[(1,)](torch.ones(4, dtype=dtype), out, 3, OTHER=other, BLOCK=4)
        assert [1.0] * 3 == out.float().tolist()[:3]
        return str(out.float()[3].item() if dtype.is_floating_point else out[3].item())

    assert MASKED[dtype] == fourth(None)
    assert 2 == float(fourth(2.0 if dtype.is_floating_point else 2))
    with interpreter.masked_loads("zero"):
        assert 0 == float(fourth(None))


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_one_masked_element_is_what_was_given(other: float) -> None:
    """A zero ``other`` counts too, for a block of one element, which Triton takes for no value."""
    out = torch.full((1,), 5.0)
    masked_kernel[(1,)](torch.ones(1), out, 0, OTHER=other, BLOCK=1)

    assert other == out.item()


def test_a_sum_of_masked_loads_is_seen() -> None:
    """A kernel that sums undefined elements is right only with the shipped interpreter's zeros."""
    out = torch.zeros(1)
    sum_kernel[(1,)](torch.ones(3), out, 3, BLOCK=4)

    assert out.isnan().all()
    with interpreter.masked_loads("zero"):
        sum_kernel[(1,)](torch.ones(3), out, 3, BLOCK=4)
    assert 3 == out.item()


def test_the_environment_chooses_for_a_run() -> None:
    """``zero`` is Triton's own behaviour; an unknown word is refused with the list of known ones."""
    code = "from conformance.interpreter import faithful; print(faithful._masked.get())"

    assert "poison\n" == _run(code).stdout
    assert "zero\n" == _run(code, **{faithful.MASKED_LOADS: "zero"}).stdout
    with pytest.raises(UsageError, match="CONFORMANCE_MASKED_LOADS='nan', must be one of poison, zero"):
        faithful.fill_masked_loads("nan")


class Norm(Adapter):
    """A norm that launches a kernel first."""

    contracts = {"rms_norm": "fp32"}  # noqa: RUF012 - a table that nothing changes

    def __init__(self, launch: Any) -> None:
        self.launch = launch

    def rms_norm(self, x: Any, weight: Any, **flags: Any) -> Any:
        """Launch the kernel."""
        self.launch(torch.zeros(1))


def _benchmarked(_out: Any) -> None:
    triton.testing.do_bench(lambda: None)


LIMITS = {
    "assembly": (assembly_kernel[(1,)], "inline assembly"),
    "a timer": (timer_kernel[(1,)], "inline assembly"),
    "an unknown operation": (unknown_kernel[(1,)], "'something_new'"),
    "a compiled kernel": (
        lambda out: assembly_kernel.warmup(out, grid=(1,)).n_regs,
        "'n_regs' of a compiled kernel",
    ),
    "an attribute": (lambda out: assembly_kernel.device_caches, "'device_caches' of a kernel"),
    "a measurement": (_benchmarked, "'get_device_interface' of a GPU's driver"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_of_the_interpreter_is_not_judged(limit: str) -> None:
    """The reason names the limit, which is never the implementation's failure."""
    launch, reason = LIMITS[limit]
    outcome = perform(Subject(Norm(launch)), CASE).outcome

    assert isinstance(outcome, Unable)
    assert reason in outcome.reason
    assert outcome.reason.startswith("Triton's interpreter cannot run")


@pytest.mark.parametrize(
    ("launch", "how"),
    [
        (wrong_kernel[(1,)], "InterpreterError: NotImplementedError('not for this width')"),
        (
            lambda out: grid_kernel[(1.5,)](out, 1, BLOCK=1),
            "TypeError: 'float' object cannot be interpreted as an integer",
        ),
    ],
    ids=["a kernel that raises", "a grid of fractions"],
)
def test_a_failure_stays_one(launch: Any, how: str) -> None:
    """A kernel's own errors, and its launcher's, are failures of the implementation."""
    outcome = perform(Subject(Norm(launch)), CASE).outcome

    assert isinstance(outcome, Crashed)
    assert outcome.how.startswith(how)


def test_wrapped_kernels_launch() -> None:
    """A custom operator of PyTorch may declare the kernels that it launches."""
    out = torch.zeros(1, dtype=torch.int32)
    torch.library.wrap_triton(grid_kernel)[(1,)](out, 1, BLOCK=1)

    assert 1 == out.item()


def test_grids_are_in_order() -> None:
    """Functions that order grids do nothing."""
    for module in (tl.extra.cuda, tl.extra.cuda.gdc):
        module.gdc_wait()
        module.gdc_launch_dependents()


def test_an_argument_has_the_type_of_its_annotation() -> None:
    """A number without one has the least type that holds it, as in a launch; a tensor keeps its own."""
    out, exact = torch.zeros(5, dtype=torch.int64), torch.zeros(2, dtype=torch.float64)
    typed_kernel[(1,)](out, 2**30, 100, exact, exact=0.1, plain=10**20, left=2**30, on=True)

    assert [2**32, -56, 0, 1, 2**32 - 2] == out.tolist()
    assert [0.1, torch.inf] == exact.tolist()


def test_a_number_that_its_annotation_does_not_hold_is_refused() -> None:
    """A launch refuses it as well."""
    out = torch.zeros(1)
    with pytest.raises(OverflowError):
        typed_kernel[(1,)](out, 2**63, 1, out, 0.1, 1.0, 1, on=True)
