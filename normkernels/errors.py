"""Every exception that the package raises on purpose."""

from typing import Any


class InvalidCall(ValueError):
    """A call whose arguments have no meaning; nothing was written."""


class PathUnavailable(ValueError):
    """A path that was asked for by name and cannot run the call."""

    # Any: rejections, which this module does not import
    def __init__(self, message: str, reasons: tuple[Any, ...]) -> None:
        """Keep the ``reasons``, each a ``Rejection``; the message ends with one line for each."""
        self.reasons = reasons
        super().__init__("\n  ".join((message, *map(str, reasons))))
