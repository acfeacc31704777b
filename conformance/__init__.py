"""A suite that judges implementations of fused normalisation operations: ours, a vendor's, yours.

An adapter is written with the three names below; ``conform run my_adapter.py`` judges it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.adapter import Adapter, Declined
    from conformance.oracle.contract import Contract

__all__ = ["Adapter", "Contract", "Declined"]


def __getattr__(name: str) -> object:
    """Import the names above on first use, so that the command line can report a missing torch."""
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from conformance.adapter import Adapter, Declined
    from conformance.oracle.contract import Contract

    globals().update(Adapter=Adapter, Contract=Contract, Declined=Declined)
    return globals()[name]
