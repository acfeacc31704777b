"""Guarded memory detects every access outside the elements, near and far."""

from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch

from conformance.adapter import Adapter, Crashed
from conformance.calls.call import Subject, perform
from conformance.calls.child import Child, Prepared
from conformance.calls.memory import POISONS, Owner
from conformance.calls.watch import LARGE, watched
from conformance.cases.case import Case, Layout, TensorSpec

# 112 bytes: alignment leaves 16 more before the unreadable page
SHAPE = (4, 7)
PLACE = Layout().place(SHAPE)
ONE = Layout().place((1,))


def _owner() -> tuple[Owner, torch.Tensor]:
    owner = Owner.of(4 * 7 * 4, "cpu", POISONS[0])
    tensor = owner.view(SHAPE, torch.float32, PLACE)
    return owner, tensor.fill_(1.0)


def test_untouched_guards_are_intact() -> None:
    """Writing every element leaves the guards unchanged."""
    owner, _ = _owner()

    assert owner.guards_intact(POISONS[0])


@pytest.mark.parametrize("place", [-1, 28], ids=["before", "after"])
def test_a_store_beside_the_elements_is_seen(place: int) -> None:
    """One element before the first or after the last changes a guard."""
    owner, tensor = _owner()
    tensor.as_strided((1,), (1,), tensor.storage_offset() + place).fill_(0.0)

    assert not owner.guards_intact(POISONS[0])


def _reach(bytes_away: int) -> float:
    """Read memory some bytes past the last element, in a fresh child, which may die."""
    import ctypes

    _, tensor = _owner()
    address = tensor.data_ptr() + tensor.numel() * 4 + bytes_away
    return ctypes.c_float.from_address(address).value


@pytest.mark.parametrize("distance", [4096, 2**20, 12 * 2**20])
def test_a_load_far_outside_ends_its_own_process(distance: int) -> None:
    """Between 4 kB and 12 MB past the end pages are unreadable."""
    child: Child[None, int, float] = Child(lambda: Prepared(None, _reach), 10.0)
    died = child.ask(distance)
    child.close()

    assert isinstance(died, Crashed)
    assert died.how.startswith("killed by SIGSEGV at ")


def test_fresh_memory_is_poisoned_and_guarded() -> None:
    """Memory that a call allocates without filling has the poison, and its own guards."""
    with watched("cpu", POISONS[1]) as record:
        made = torch.empty((3, 5), dtype=torch.bfloat16)
        like = torch.empty_like(made)

    assert bool((made.view(torch.uint8) == POISONS[1]).all())
    assert len(record.owners) == 2
    assert all(owner.guards_intact(POISONS[1]) for owner in record.owners)
    assert like.is_contiguous()


def test_hidden_copies_are_recorded() -> None:
    """A contiguous copy of a strided tensor is named with its shape."""
    x = torch.ones(4, 6)[:, ::2]
    with watched("cpu", POISONS[0]) as record:
        x.contiguous()

    assert ["clone (4, 3)"] == record.copies


def test_large_memory_that_a_call_drops_is_let_go() -> None:
    """A loop that takes 64 MiB ten times holds them once, or twice: a tuner does, to empty the caches."""
    with watched("cpu", POISONS[1]) as record:
        kept = torch.empty(LARGE, dtype=torch.uint8)
        for _ in range(10):
            torch.empty(LARGE, dtype=torch.uint8)

    assert 2 == len(record.owners)
    assert kept.data_ptr() in {owner.view((1,), torch.uint8, ONE).data_ptr() for owner in record.owners}
    assert all(record.intact)
    assert 9 == len(record.intact)


def test_a_store_beside_memory_that_a_call_drops_is_seen() -> None:
    """The bytes beside it are checked before it is let go."""
    with watched("cpu", POISONS[1]) as record:
        made = torch.empty(LARGE, dtype=torch.uint8)
        made.as_strided((1,), (1,), made.storage_offset() - 1).zero_()
        del made
        torch.empty(LARGE, dtype=torch.uint8)

    assert [False] == [bool(same) for same in record.intact]


class Scratches(Adapter):
    """A norm that takes 64 MiB twice, and writes beside the first."""

    contracts: ClassVar[Mapping[str, str]] = {"l2_norm": "fp32"}

    def l2_norm(self, x: torch.Tensor, *, eps: float) -> torch.Tensor:
        """Return x; no result matters here."""
        scratch = torch.empty(LARGE, dtype=torch.uint8)
        scratch.as_strided((1,), (1,), scratch.storage_offset() - 1).zero_()
        del scratch
        torch.empty(LARGE, dtype=torch.uint8)
        return x.clone()


def test_a_call_tells_of_a_store_beside_memory_that_it_dropped() -> None:
    """The damage of a call counts what was let go before its end."""
    case = Case("l2_norm", (("x", TensorSpec((2, 4), "float32")),), (("eps", 1e-6),), seed=0)

    assert "memory beside an allocation of the call was written" == perform(Subject(Scratches()), case).damage()
