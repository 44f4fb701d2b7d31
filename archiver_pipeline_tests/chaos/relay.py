"""A relay in front of a server that counts what passes and does one bad thing at one of these moments.

It knows nothing of the protocols but where a request of HTTP begins. A moment is the arrival of some bytes from either
side; what is sent together mostly arrives together, so nearly every message is one.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum

_BLOCK_BYTES = 1 << 16
_ANSWER_SECONDS = 0.3
_DROPS = 30
_DROP_SECONDS = 0.05
_RESET = struct.pack("ii", 1, 0)
_METHODS = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")


class Fault(StrEnum):
    """What happens to the bytes of the chosen moment, and to who sent them."""

    cut_before = "connection cut, bytes lost"
    cut_after = "connection cut, bytes delivered"
    cut_all = "all connections cut"
    kill_before = "run killed, bytes lost"
    kill_after = "run killed, bytes delivered"
    kill_late = "run killed, bytes delivered after the next run"
    terminate = "run terminated"
    stop_server = "server killed and started again"
    busy = "503 SlowDown"
    broken = "500 InternalError"
    half = "half of the bytes, then cut"
    drip = "bytes come in drops"


KILLS = frozenset({Fault.kill_before, Fault.kill_after, Fault.kill_late})


@dataclass
class Plan:
    """One fault at one moment. `moment` counts from 1; `is_done` once it happened."""

    fault: Fault
    moment: int
    act: Callable[[Fault], None] = lambda fault: None
    is_done: bool = False


@dataclass
class Relay:
    """Relays `127.0.0.1:port` to another address until it is closed."""

    upstream: tuple[str, int]
    seen: int = 0
    plan: Plan | None = None
    late: list[tuple[socket.socket, bytes]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pairs: set[tuple[socket.socket, socket.socket]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, plan: Plan | None) -> None:
        """Count from 1 again; with a plan its fault happens once."""
        with self._lock:
            self.seen, self.plan = 0, plan

    def deliver_late(self) -> None:
        """Send what was held back, to whoever still listens."""
        for upstream, held in self.late:
            with suppress(OSError):
                upstream.sendall(held)
                time.sleep(_ANSWER_SECONDS)
            # A thread still reads from it, so closing alone would keep the connection.
            with suppress(OSError):
                upstream.shutdown(socket.SHUT_RDWR)
            upstream.close()
        self.late.clear()

    def cut_all(self) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _reset(*pair)

    def close(self) -> None:
        self._listener.close()
        self.cut_all()
        self.deliver_late()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            upstream = socket.create_connection(self.upstream, timeout=10)
        except OSError:
            _reset(client)
            return
        upstream.settimeout(None)
        pair = (client, upstream)
        with self._lock:
            self._pairs.add(pair)
        back = threading.Thread(target=self._pump, args=(upstream, client, pair, False), daemon=True)
        back.start()
        self._pump(client, upstream, pair, True)
        back.join()
        with self._lock:
            self._pairs.discard(pair)
        if not any(held is upstream for held, _ in self.late):
            upstream.close()
        client.close()

    def _pump(
        self, source: socket.socket, target: socket.socket, pair: tuple[socket.socket, socket.socket], is_request: bool
    ) -> None:
        with suppress(OSError):
            while passing := source.recv(_BLOCK_BYTES):
                plan = self._due(is_request, passing)
                if plan is None:
                    target.sendall(passing)
                elif not self._do(plan, passing, target, pair, is_request):
                    return
        # Also after a reset, which is how a killed process ends with an answer unread: the other side must hear of it.
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _due(self, is_request: bool, passing: bytes) -> Plan | None:
        """The plan when this is its moment, or the first after it that its fault fits."""
        with self._lock:
            self.seen += 1
            plan = self.plan
            if plan is None or plan.is_done or self.seen < plan.moment:
                return None
            if plan.fault in (Fault.busy, Fault.broken) and not (is_request and passing.startswith(_METHODS)):
                return None
            if plan.fault is Fault.kill_late and not is_request:
                return None
            plan.is_done = True
            return plan

    def _do(
        self,
        plan: Plan,
        passing: bytes,
        target: socket.socket,
        pair: tuple[socket.socket, socket.socket],
        is_request: bool,
    ) -> bool:
        """Do the fault; whether the connection goes on."""
        fault = plan.fault
        if fault in (Fault.cut_after, Fault.kill_after):
            target.sendall(passing)
        if fault is Fault.half:
            target.sendall(passing[: len(passing) // 2])
        if fault is Fault.kill_late:
            self.late.append((pair[1], passing))
        plan.act(fault)
        if fault in (Fault.busy, Fault.broken):
            _answer(pair[0], fault)
            _reset(*pair)
            return False
        if fault is Fault.cut_all:
            self.cut_all()
            return False
        if fault is Fault.drip:
            _drip(passing, target)
            return True
        if fault in (Fault.terminate, Fault.stop_server):
            target.sendall(passing)
            return True
        if fault is Fault.kill_late:
            _reset(pair[0])
            return False
        _reset(*pair)
        return False


@contextmanager
def relay_to(host: str, port: int) -> Iterator[Relay]:
    """A relay until the end of the block."""
    relay = Relay((host, port))
    try:
        yield relay
    finally:
        relay.close()


def _answer(client: socket.socket, fault: Fault) -> None:
    status, _, code = fault.value.partition(" ")
    body = f"<Error><Code>{code}</Code><Message>chaos</Message></Error>".encode()
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    with suppress(OSError):
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)


def _drip(passing: bytes, target: socket.socket) -> None:
    """A drop at a time, the whole in about a second and a half, however many bytes."""
    size = max(len(passing) // _DROPS, 1)
    for start in range(0, len(passing), size):
        target.sendall(passing[start : start + size])
        time.sleep(_DROP_SECONDS)


def _reset(*sockets: socket.socket) -> None:
    """Close so that the other side sees a reset."""
    for one in sockets:
        with suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
