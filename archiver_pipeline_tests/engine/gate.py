"""A way to a real server that can be shut: connections are cut and refused while a file exists.

The file may be made by another process, so that a run that is to be killed can shut the gate itself.
"""

import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_LOOK_SECONDS = 0.02
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Gate:
    """The address to use instead of the server's."""

    endpoint: str
    sign: Path

    def shut(self) -> None:
        self.sign.touch()

    def open(self) -> None:
        self.sign.unlink(missing_ok=True)


@contextlib.contextmanager
def gate_to(endpoint: str, sign: Path) -> Iterator[Gate]:
    """A gate to the server, open until `sign` exists."""
    upstream = urlsplit(endpoint)

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if sign.exists():
                return
            with socket.create_connection((upstream.hostname, upstream.port)) as server:
                self._relay(self.request, server)

        def _relay(self, client: socket.socket, server: socket.socket) -> None:
            while True:
                ready, _, _ = select.select([client, server], [], [], _LOOK_SECONDS)
                for one in ready:
                    data = b"" if sign.exists() else one.recv(_BLOCK_BYTES)
                    if not data:
                        return
                    (server if one is client else client).sendall(data)
                if sign.exists():
                    return

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(_LOOK_SECONDS,))
        thread.start()
        try:
            yield Gate(f"http://127.0.0.1:{listening.server_address[1]}", sign)
        finally:
            listening.shutdown()
            thread.join()
