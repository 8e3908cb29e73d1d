"""One directed link of the WAN: its faults, and the streams of bytes that flow over it.

Timing is that of a pipe: a byte that enters leaves `delay` later (plus jitter), in order, as many
bytes under way as `WINDOW` allows. No byte is lost or reordered by delay, stall or heal; only a cut
loses bytes, by resetting the connections that carry them.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

WINDOW = 1 << 20
"""Bytes that one stream holds back at most, under delay or stall, before its sender is paused."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a directed link. `delay` and `jitter` in seconds; jitter adds 0..jitter.

    `stall`: bytes stop, connections stay. `cut`: connections are reset, new ones too.
    """

    delay: float = 0.0
    jitter: float = 0.0
    stall: bool = False
    cut: bool = False

    def __post_init__(self) -> None:
        if self.delay < 0 or self.jitter < 0:
            raise ValueError("delay and jitter are seconds, 0 or more")

    @property
    def healthy(self) -> bool:
        """Whether bytes pass at once."""
        return not (self.delay or self.jitter or self.stall or self.cut)


HEALTHY = Fault()


class Link:
    """Everything that flows from region `source` to region `target`."""

    def __init__(self, source: str, target: str) -> None:
        self.source = source
        self.target = target
        self.carried = 0
        self._fault = HEALTHY
        self._streams: set[Stream] = set()

    @property
    def fault(self) -> Fault:
        """What is wrong with it at present."""
        return self._fault

    @property
    def streams(self) -> int:
        """How many connections use it."""
        return len(self._streams)

    def set_fault(self, fault: Fault) -> None:
        """Changes what is wrong; takes effect at once on every stream."""
        self._fault = fault
        for stream in tuple(self._streams):
            if fault.cut:
                stream.cut()
            else:
                stream.flush()

    def add(self, stream: Stream) -> None:
        """A stream began to use the link."""
        self._streams.add(stream)

    def discard(self, stream: Stream) -> None:
        """A stream ended."""
        self._streams.discard(stream)


class _Mark(Enum):
    EOF = auto()
    RESET = auto()


class Stream:
    """The bytes of one connection in one direction: from `reader`'s socket to `writer`'s."""

    def __init__(self, link: Link, reader: End, writer: End) -> None:
        self._link = link
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | _Mark]] = deque()
        self._held = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True
        link.add(self)

    def feed(self, data: bytes) -> None:
        """Bytes came from the sender."""
        fault = self._link.fault
        self._link.carried += len(data)
        if fault.healthy and not self._queue:
            self._writer.write(data)
            return
        self._held += len(data)
        self._enqueue(data, fault)

    def end(self) -> None:
        """The sender sends no more; what is under way still arrives."""
        self._enqueue(_Mark.EOF, self._link.fault)

    def reset(self) -> None:
        """The sender is gone; the receiver learns it after what is under way."""
        self._enqueue(_Mark.RESET, self._link.fault)

    def cut(self) -> None:
        """Resets both ends now; what was under way is lost."""
        self._queue.clear()
        self._reader.abort()
        self._writer.abort()

    def close(self) -> None:
        """Leaves the link."""
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        self._link.discard(self)

    def writable(self, yes: bool) -> None:
        """The receiver's socket takes bytes, or no more for now."""
        self._writable = yes
        self._regulate()

    def flush(self) -> None:
        """Delivers all that is due; called when time passed or the fault changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        fault = self._link.fault
        if fault.stall:
            return
        now = self._loop.time()
        at_once = fault.healthy
        while self._queue and (at_once or self._queue[0][0] <= now):
            _, item = self._queue.popleft()
            if item is _Mark.EOF:
                self._writer.write_eof()
            elif item is _Mark.RESET:
                self._writer.abort()
            else:
                assert isinstance(item, bytes)  # noqa: S101  the third and last kind
                self._held -= len(item)
                self._writer.write(item)
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self.flush)
        self._regulate()

    def _enqueue(self, item: bytes | _Mark, fault: Fault) -> None:
        wait = fault.delay + (random.random() * fault.jitter if fault.jitter else 0.0)  # noqa: S311  jitter, not a secret
        self._last_due = max(self._last_due, self._loop.time() + wait)
        self._queue.append((self._last_due, item))
        if fault.healthy or (self._timer is None and not fault.stall):
            self.flush()
        else:
            self._regulate()

    def _regulate(self) -> None:
        self._reader.pause(not self._writable or self._held > WINDOW)


class End(asyncio.Protocol):
    """One socket of a connection: where `outgoing` takes its bytes, and writes arrive."""

    def __init__(self) -> None:
        self.outgoing: Stream | None = None
        self.incoming: Stream | None = None
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._eof_read = False
        self._eof_written = False
        self.lost = False

    def join(self, outgoing: Stream, incoming: Stream) -> None:
        """Both directions are known; reading begins."""
        self.outgoing = outgoing
        self.incoming = incoming
        self.pause(False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  TCP gives no other
        self._transport = transport
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.outgoing is None:
            self.pause(True)

    def data_received(self, data: bytes) -> None:
        if self.outgoing is not None:
            self.outgoing.feed(data)

    def eof_received(self) -> bool:
        self._eof_read = True
        if self.outgoing is None:
            return False
        self.outgoing.end()
        self._close_if_done()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.incoming is not None:
            self.incoming.close()
        if self.outgoing is not None and not (self._eof_read and self._eof_written):
            self.outgoing.reset()

    def pause_writing(self) -> None:
        if self.incoming is not None:
            self.incoming.writable(False)

    def resume_writing(self) -> None:
        if self.incoming is not None:
            self.incoming.writable(True)

    def write(self, data: bytes) -> None:
        """Sends; bytes for an end that is gone are dropped, as a network does."""
        if self._transport is not None and not self.lost and not self._eof_written:
            self._transport.write(data)

    def write_eof(self) -> None:
        """Sends no more."""
        if self._transport is None or self.lost or self._eof_written:
            return
        self._eof_written = True
        try:
            self._transport.write_eof()
        except OSError:
            pass  # its peer reset it meanwhile, and will not miss the end
        self._close_if_done()

    def pause(self, yes: bool) -> None:
        """Stops reading, or goes on; the kernel's buffers then slow the sender down."""
        if self._transport is None or self.lost or self._eof_read or yes == self._paused:
            return
        self._paused = yes
        if yes:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Ends the connection with a TCP reset."""
        if self._transport is None or self.lost:
            return
        connection: socket.socket = self._transport.get_extra_info("socket")
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except OSError:
            pass  # closed already, which is what is wanted
        self._transport.abort()

    def _close_if_done(self) -> None:
        if self._eof_read and self._eof_written and self._transport is not None:
            self._transport.close()
