"""A launch is seen through Triton or through a kept compiled kernel, and counts as the same variant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import triton.language as tl

from conformance.calls import watch


def _copy_kernel(n_rows: Any, BLOCK: tl.constexpr) -> None:
    """Stand for a kernel: only its signature counts."""


class Compiled:
    """A kernel that launches directly, as Triton's compiled kernels do."""

    name = "_copy_kernel"
    hash = "5eed"

    def _launch(self, *_args: object) -> None:
        """Run nothing."""

    @property
    def run(self) -> Any:
        """Return the launcher."""
        return self._launch


class Kernel:
    """A kernel that compiles once for each block, and launches the compiled kernels."""

    fn = staticmethod(_copy_kernel)

    def __init__(self) -> None:
        self.kwargs = {"do_not_specialize": ["n_rows"]}
        self.compiled: dict[int, Compiled] = {}

    def run(self, n_rows: int, BLOCK: int) -> Compiled:
        """Launch the compiled kernel."""
        compiled = self.compiled.setdefault(BLOCK, Compiled())
        compiled.run(n_rows)
        return compiled


@pytest.fixture(autouse=True)
def classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch the kernels above instead of Triton's."""
    monkeypatch.setattr(watch, "_recorders", lambda: {Kernel: watch._recording, Compiled: watch._compiled})


def test_a_kept_kernel_is_the_variant_that_triton_launched() -> None:
    """Both give one launch each, and share one variant."""
    kernel = Kernel()
    with watch.watched("cpu", 0) as record:
        kept = kernel.run(3, 128)
        kept.run(4)
        kept.run(5)

    assert ["_copy_kernel"] * 3 == record.launches
    assert 1 == len(record.variants)


@pytest.mark.parametrize("first", ["triton", "kept"])
def test_variants_are_the_same_in_every_call(first: str) -> None:
    """Variants do not depend on which launch is watched first."""
    kernel = Kernel()
    kept = kernel.run(3, 128)
    launches: list[Callable[[], object]] = [lambda: kernel.run(3, 128), lambda: kept.run(3)]
    seen = set()
    for launch in launches if first == "triton" else launches[::-1]:
        with watch.watched("cpu", 0) as record:
            launch()
        assert ["_copy_kernel"] == record.launches
        seen |= record.variants

    assert 1 == len(seen)


def test_another_kernel_is_another_variant() -> None:
    """Kept kernels are distinguished."""
    kernel = Kernel()
    kept = [kernel.run(3, block) for block in (64, 128)]
    with watch.watched("cpu", 0) as record:
        kernel.run(3, 64)
        kept[0].run(3)
        kept[1].run(3)

    assert 2 == len(record.variants)


def test_nothing_is_left_behind() -> None:
    """Afterwards launches are not watched."""
    shipped = vars(Kernel)["run"], vars(Compiled)["run"]
    with watch.watched("cpu", 0):
        pass

    assert shipped == (vars(Kernel)["run"], vars(Compiled)["run"])
