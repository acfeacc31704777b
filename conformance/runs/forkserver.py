"""A fork server for the workers of pytest-xdist: each begins with what this process has imported and proven.

A worker that is a new Python imports torch, Triton and the suite, and so does the process of the adapter under it:
three seconds of a processor each, all at once. Workers forked from one process share that. xdist starts a small
program in their place (``popen//python=…``), which hands its pipes over and ends with the worker.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shlex
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NoReturn

from conformance.calls.child import die_with_the_parent
from conformance.runs import hand_over


@contextlib.contextmanager
def workers(count: int) -> Iterator[list[str]]:
    """Yield the options of pytest that start so many workers, all forked from this process as it is now.

    This process must have one thread, and use no GPU. Where xdist cannot name the program, or the folder of
    temporary files takes no socket, each is a new Python.
    """
    with tempfile.TemporaryDirectory(prefix="conform-") as folder, socket.socket(socket.AF_UNIX) as listening:
        place = str(Path(folder) / "s")
        program = shlex.join([sys.executable, "-I", "-S", str(Path(hand_over.__file__).absolute()), place])
        if "//" in program or not _bound(listening, place):
            yield ["-n", str(count)]
            return
        listening.listen(count)
        server = get_context("fork").Process(target=_serve, args=(listening,))
        server.start()
        listening.close()
        try:
            yield ["--dist", "load", *["--tx", f"popen//python={program}"] * count]
        finally:
            server.kill()
            server.join()


def _bound(listening: socket.socket, place: str) -> bool:
    """Bind a socket to a place, and return whether that is possible: a path of some hundred bytes is too long."""
    try:
        listening.bind(place)
    except OSError:
        return False
    return True


def _serve(listening: socket.socket) -> NoReturn:
    """Fork a worker for each request, until the process that started this one ends it."""
    die_with_the_parent()
    # Ctrl-C is for the workers; those that ended are not waited for
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # a collection in a worker would otherwise write to, and so copy, every page with objects
    gc.freeze()
    while True:
        asking, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _become_worker(asking)
        asking.close()


def _become_worker(asking: socket.socket) -> NoReturn:
    """Run what xdist gave to the program that asks, as the Python would that it stands for.

    The connection is left open: its end is the end of this process.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(asking, hand_over.SIZE, 2)
    with asking.makefile("rb") as request:
        code, folder, environment = json.loads(request.read(int.from_bytes(size)))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.argv = ["-c"]
    status = 1
    try:
        exec(code, {"__name__": "__main__"})  # noqa: S102 - xdist's own
        status = 0
    except BaseException:  # noqa: BLE001 - as a Python that ends
        traceback.print_exc()
    finally:
        # what the first process would do as it ends is not for this one to do
        sys.stderr.flush()
        os._exit(status)
