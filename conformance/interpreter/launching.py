"""Launches that Triton's interpreter does not support by itself: typed arguments, tuned and compiled kernels."""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NoReturn

import torch
import triton.language as tl
from triton.runtime import interpreter as shipped
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import InterpreterError
from triton.runtime.jit import KernelParam

from conformance.adapter import Unsupported
from conformance.interpreter import interned
from conformance.interpreter.gpu import Answers, Missing

COMPILED = Answers("a compiled kernel")


def unsupported(error: BaseException) -> str | None:
    """Return the missing feature of the interpreter if that is why a launch failed, or None."""
    for cause in _causes(error):
        if isinstance(cause, Unsupported):
            return str(cause)
        if isinstance(cause, NotImplementedError) and _raised_by_triton(cause):
            return f"Triton's interpreter cannot run it: {cause}"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes: the interpreter wraps one for each function."""
    while error is not None:
        yield error
        error = error.__cause__


def _raised_by_triton(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("triton.")


def typed_arguments(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return a launch's arguments by name: a number has the type that its parameter is annotated with, if any.

    So it is compiled. As shipped the interpreter looks at the number alone, and ``stride: tl.int64`` has 32 bits.
    """
    given = interned.call_arguments(kernel, *args, **kwargs)
    for name, ty in _annotated(kernel):
        if isinstance(given[name], int | float):
            given[name] = tl.tensor(getattr(shipped.interpreter_builder, f"get_{ty.name}")(given[name]), ty)
    return given


@cache
def _annotated(kernel: Callable[..., Any]) -> tuple[tuple[str, Any], ...]:
    """Return the parameters of a kernel that are annotated with the type of a number, with Triton's type."""
    parameters = [
        KernelParam(place, parameter, do_not_specialize=False, do_not_specialize_on_alignment=False)
        for place, parameter in enumerate(inspect.signature(kernel).parameters.values())
    ]
    types = {each.name: each.annotation_type for each in parameters}
    return tuple((name, tl.str_to_ty(ty, None)) for name, ty in types.items() if ty and not ty.startswith("*"))


def _no_attribute(kernel: Any, name: str) -> NoReturn:
    raise Missing(f"Triton's interpreter cannot run what needs {name!r} of a kernel: it compiles none")


def _not_measured(tuner: Any, *args: Any, config: Any, **meta: Any) -> list[float]:
    """Return equal times for all configurations: the first that pruning left is taken, where none was drawn."""
    conflicts = meta.keys() & config.kwargs.keys()
    if conflicts:
        raise ValueError(f"Conflicting meta-parameters: {', '.join(sorted(conflicts))}")
    return [0.0, 0.0, 0.0]


def _not_on_disk(tuner: Any, key: Any, configs: Any, bench: Callable[[], None]) -> bool:
    bench()
    return False


def install() -> None:
    """Replace Triton's own parts."""
    shipped.inspect.getcallargs = typed_arguments
    shipped_run, shipped_rewrite = shipped.InterpretedFunction.run, shipped.InterpretedFunction.rewrite

    def rewrite(kernel: Any) -> Any:
        # the function to interpret has the text of its annotations, and its signature that of the kernel
        function = shipped_rewrite(kernel)
        if function is not kernel.fn:
            function.__wrapped__ = kernel.fn
        return function

    def run(kernel: Any, *args: Any, warmup: bool, **kwargs: Any) -> Any:
        return COMPILED if warmup else shipped_run(kernel, *args, warmup=False, **kwargs)

    def call(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        # as shipped, but for patching the language, which is patched for good
        function = kernel.rewritten_fn.get(kernel.fn) or kernel.rewrite()
        try:
            return function(*args, **kwargs)
        except Exception as error:  # Triton raises this for whatever a kernel raises
            raise InterpreterError(repr(error)) from error

    shipped.InterpretedFunction.run = run
    shipped.InterpretedFunction.rewrite = rewrite
    shipped.InterpretedFunction.__call__ = call
    shipped.InterpretedFunction.__getattr__ = _no_attribute
    # measuring needs a GPU, and the file of results needs a compiler
    Autotuner._bench = _not_measured
    Autotuner.check_disk_cache = _not_on_disk
    shipped_wrap = torch.library.wrap_triton

    def wrap(kernel: Any) -> Any:
        # the shipped function takes only kernels to compile, and returns its argument where nothing is traced
        return kernel if isinstance(kernel, shipped.InterpretedFunction) else shipped_wrap(kernel)

    torch.library.wrap_triton = wrap
