"""The program that pytest-xdist starts in place of a Python: the fork server goes on with its input and output.

Run by its path, without the suite: ``python -I -S hand_over.py SOCKET -u -c CODE``. It ends with the process that
was forked.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

SIZE = 8  # bytes of the length of a request


def main() -> None:
    """Send the fork server the request of xdist, and this process's standard input and output; wait."""
    # Ctrl-C is for the process that was forked
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    place, *_, code = sys.argv[1:]
    request = json.dumps([code, str(Path.cwd()), dict(os.environ)]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(place)
        socket.send_fds(server, [len(request).to_bytes(SIZE)], [0, 1])
        server.sendall(request)
        server.recv(1)


if __name__ == "__main__":
    main()
