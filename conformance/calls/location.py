"""Places in source where an implementation raised or died: the frame nearest to it."""

from __future__ import annotations

import functools
import importlib.util
import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

Frame = tuple[str, int, str]  # file, line, function

SUITE = Path(__file__).resolve().parents[1]
IMPLEMENTATIONS = ("adapters", "package", "selftest")  # folders of the suite with implementations
LIBRARIES = ("torch", "triton", "numpy")  # libraries that implementations use
MOST_FRAMES = 12  # frames of a trace, to keep it readable

# a line that Python's fault handler writes
_FAULT = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)


def of_exception(error: BaseException) -> str:
    """Return ``kernels.py:34, in norm``, the place nearest to the implementation, or nothing."""
    frames = [(frame.filename, frame.lineno or 0, frame.name) for frame in _frames(_cause(error))]
    return _innermost(reversed(frames))


def in_a_line(error: BaseException) -> str:
    """Return an exception in one line, with the place where it was raised."""
    where = of_exception(error)
    said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return f"{said} ({where})" if where else said


def of_fault(text: str) -> str:
    """Return the same place from the text of Python's fault handler, for the thread that ended its process."""
    # other threads come first
    current = text.rpartition("Current thread")[2] or text
    return _innermost((found["file"], int(found["line"]), found["name"]) for found in _FAULT.finditer(current))


def trace(error: BaseException) -> str:
    """Return a short traceback of an exception, without the frames of the suite."""
    cause = _cause(error)
    frames = [frame for frame in _frames(cause) if not _of_the_suite(frame.filename)]
    lines = [*traceback.format_list(frames[-MOST_FRAMES:]), *traceback.format_exception_only(cause)]
    return "".join(lines).rstrip()


def _cause(error: BaseException) -> BaseException:
    """Return the exception that Triton or its interpreter wrapped; any other exception unchanged."""
    while type(error).__module__.partition(".")[0] == "triton" and error.__cause__ is not None:
        error = error.__cause__
    return error


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def _innermost(frames: Iterable[Frame]) -> str:
    """Return the first place, of frames from the inside out, that belongs to an implementation."""
    return next((f"{_shown(file)}:{line}, in {name}" for file, line, name in frames if not _foreign(file)), "")


def _shown(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else "/".join(path.parts[-2:])


def _foreign(file: str) -> bool:
    """Return whether a file belongs to the suite, a library or Python itself, or is no file."""
    if file.startswith("<") or _of_the_suite(file):
        return True
    path = Path(file)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return any(map(path.is_relative_to, _libraries())) or (not installed and path.is_relative_to(_standard()))


def _of_the_suite(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(SUITE) and path.relative_to(SUITE).parts[0] not in IMPLEMENTATIONS


@functools.cache
def _libraries() -> tuple[Path, ...]:
    """Return the folders of libraries, without importing them."""
    specs = (importlib.util.find_spec(name) for name in LIBRARIES)
    return tuple(Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None)


@functools.cache
def _standard() -> Path:
    return Path(sysconfig.get_path("stdlib"))
