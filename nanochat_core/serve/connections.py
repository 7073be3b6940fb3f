"""Who may hold a connection, and for how long: what uvicorn leaves open.

A connection costs a descriptor, and there are only so many: one that is silent, or sends its header, its body or takes
its answer a byte at a time, is let go. A header has a fixed time; bodies and answers have one too, and beyond it as
long as they come along at a least pace. Where all places are taken the connection that has waited longest without a
whole header makes room for the new one, within the same client first: a flood throws out its own, and whoever sends a
request at once is answered. Requests that are being answered are never thrown out; /health has places of its own.

Runs in the event loop's thread alone. Slow clients: CVE-2007-6750 (slowloris) and its kin.
"""

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from functools import partial
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.limits import Limits

log = logging.getLogger(__name__)
SWEEP_S = 0.5
TELL_EVERY_S = 60.0
READ_BYTES = 32 << 10  # at once from one connection; asyncio takes 256 KiB, 40,000 chunks of a byte each
NUM_PIECES, LEAST_PIECE_BYTES = 2048, 64  # a body in more pieces than these must have so much in each on average
HEALTH = "/health"
HEALTH_PLACES = 16
IPV6_BITS = 64  # one customer's network


class Connection(H11Protocol):
    """uvicorn's connection, which its `Door` can end."""

    def __init__(self, *args: Any, door: "Door", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.door = door
        self.conn = _Reader(h11.SERVER, door.limits.max_header_bytes)
        self.client_key = ""
        self.began_s = time.monotonic()
        """When the header, body or answer that is under way began."""
        self.heard_s = self.began_s
        self.num_body_bytes = 0
        """Of a body that is not complete."""
        self.full_since_s: float | None = None
        self.most_unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        self.client_key = _client_key(self.client)
        self.door.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.door.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        self.heard_s = time.monotonic()
        if self.cycle is not before:
            self.began_s = self.heard_s
        self.door.note(self, len(data))

    def on_response_complete(self) -> None:
        self.began_s = time.monotonic()
        super().on_response_complete()
        self.door.note(self, 0)

    def send_400_response(self, msg: str) -> None:
        # uvicorn writes a second answer where the body breaks after the first, which h11 takes for our own mistake
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    @property
    def is_waiting(self) -> bool:
        """No request has been read whole up to the end of its header."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_sending(self) -> bool:
        """A request's body is not complete."""
        return not self.is_waiting and self.cycle.more_body

    def overdue(self, now: float, limits: Limits) -> str | None:
        """Why this connection has had its time, in a word or two; None: it has not."""
        unread = self.transport.get_write_buffer_size()
        if unread:
            self.full_since_s = self.full_since_s or now
            self.most_unread = max(self.most_unread, unread)
            behind_s = now - self.full_since_s
            return "slow reading" if behind_s > limits.stalled_s + self.most_unread / limits.min_bytes_per_s else None
        self.full_since_s, self.most_unread = None, 0
        spent_s = now - self.began_s
        if self.is_waiting:
            return "no whole header" if spent_s > limits.header_s else None
        paced_s, heard_s = self.num_body_bytes / limits.min_bytes_per_s, self.heard_s - self.began_s
        allowed_s = limits.body_s + min(paced_s, heard_s)
        return "a slow body" if self.is_sending and spent_s > allowed_s else None


class _Reader(h11.Connection):
    """Refuses a body in crumbs, each of which costs the event loop as much as a good piece, and one of two lengths."""

    num_pieces = num_bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.num_pieces = self.num_bytes = 0
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                # a proxy before us may believe the other one, and see another request in the rest (RFC 9112, 6.3)
                raise h11.RemoteProtocolError("a body of two lengths")
        elif isinstance(event, h11.Data):
            self.num_pieces += 1
            self.num_bytes += len(event.data)
            if self.num_pieces > NUM_PIECES and self.num_bytes < LEAST_PIECE_BYTES * self.num_pieces:
                raise h11.RemoteProtocolError("a body in crumbs")
        return event


class Door:
    """All connections of one server."""

    def __init__(self, limits: Limits, *, most: int | None = None) -> None:
        """`most`: connections that there are descriptors for."""
        self.limits = limits
        self.most = min(limits.max_connections, most or limits.max_connections)
        self.most_of_client = min(limits.max_client_connections, max(1, self.most // 2))
        self.connections: set[Connection] = set()
        self.let_go: Counter[str] = Counter()
        self._of_client: dict[str, dict[Connection, None]] = {}
        # in the order in which they came into this state
        self._waiting: dict[Connection, None] = {}
        self._sending: dict[Connection, None] = {}
        self._num_body_bytes = 0
        self._told_s = -TELL_EVERY_S
        self._timer: asyncio.TimerHandle | None = None

    def protocol(self) -> Any:
        """What uvicorn makes of every connection."""
        return partial(Connection, door=self)

    def enter(self, connection: Connection) -> None:
        """A connection has come: it gets a place, one that another has to give up, or none."""
        own = self._of_client.setdefault(connection.client_key, {})
        self.connections.add(connection)
        own[connection] = None
        is_full = len(self.connections) > self.most
        has_place = not is_full and len(own) <= self.most_of_client
        if not has_place and not self._make_room(own if len(own) > self.most_of_client else self._waiting):
            if len(self.connections) > self.most + HEALTH_PLACES:
                return self._end(connection, "no place")
            connection.app = _only_health(connection.app)
        self._waiting[connection] = None
        if self._timer is None:
            self._timer = connection.loop.call_later(SWEEP_S, self._sweep, connection.loop)

    def leave(self, connection: Connection) -> None:
        """A connection is gone. May be called twice."""
        self.connections.discard(connection)
        self._waiting.pop(connection, None)
        self._sending.pop(connection, None)
        self._num_body_bytes -= connection.num_body_bytes
        connection.num_body_bytes = 0
        own = self._of_client.get(connection.client_key, {})
        own.pop(connection, None)
        if not own:
            self._of_client.pop(connection.client_key, None)

    def note(self, connection: Connection, num_bytes: int) -> None:
        """Something has come or an answer has gone out: the connection may be in another state now."""
        if connection not in self.connections:
            return
        _keep(self._waiting, connection, connection.is_waiting)
        _keep(self._sending, connection, connection.is_sending)
        held = connection.num_body_bytes + num_bytes if connection.is_sending else 0
        self._num_body_bytes += held - connection.num_body_bytes
        connection.num_body_bytes = held
        while self._num_body_bytes > self.limits.max_unfinished_bytes and self._sending:
            self._end(next(iter(self._sending)), "too many unfinished bodies")

    def _make_room(self, places: dict[Connection, None]) -> bool:
        """End the connection that has waited longest among these; False where all are at work."""
        for connection in places:
            if connection in self._waiting:
                self._end(connection, "made room")
                return True
        return False

    def _end(self, connection: Connection, reason: str) -> None:
        self.let_go[reason] += 1
        self.leave(connection)
        connection.transport.abort()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        unread: dict[Connection, int] = {}
        for connection in list(self.connections):
            if (reason := connection.overdue(now, self.limits)) is not None:
                self._end(connection, reason)
            elif size := connection.transport.get_write_buffer_size():
                unread[connection] = size
        while sum(unread.values()) > self.limits.max_unread_bytes:
            largest = max(unread, key=lambda connection: unread[connection])
            del unread[largest]
            self._end(largest, "too much unread")
        if self.let_go and now - self._told_s > TELL_EVERY_S:
            told = ", ".join(f"{count} x {reason}" for reason, count in sorted(self.let_go.items()))
            log.warning("let go of connections: %s; %d are open", told, len(self.connections))
            self.let_go.clear()
            self._told_s = now
        self._timer = loop.call_later(SWEEP_S, self._sweep, loop) if self.connections else None


def _keep(places: dict[Connection, None], connection: Connection, is_in: bool) -> None:
    if is_in:
        places.setdefault(connection)
    else:
        places.pop(connection, None)


def _client_key(client: tuple[str, int] | None) -> str:
    """One client: an address, of IPv6 its network."""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0] if client else "")
    except ValueError:
        return ""
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_BITS), strict=False))


def _only_health(app: ASGIApp) -> ASGIApp:
    """For connections beyond the limit: whether the server is well can be asked all the same."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == HEALTH:
            return await app(scope, receive, send)
        problem = ApiError(
            503, "every connection of this server is at work", code="too_many_connections", retry_after_s=5
        )
        response = problem.response()
        response.headers["Connection"] = "close"
        await response(scope, receive, send)

    return answer  # type: ignore[return-value]
