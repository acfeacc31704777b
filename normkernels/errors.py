"""Every exception that the package raises on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from normkernels.dispatch import Rejection


class InvalidCall(ValueError):
    """A call whose arguments have no meaning; nothing was written."""


class PathUnavailable(ValueError):
    """A path that was asked for by name cannot run the call."""

    def __init__(self, message: str, reasons: tuple[Rejection, ...]) -> None:
        """Keep the ``reasons`` beside a message that ends with one line for each."""
        self.reasons = reasons
        super().__init__("\n  ".join((message, *(str(reason) for reason in reasons))))
