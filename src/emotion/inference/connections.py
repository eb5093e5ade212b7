"""Connections of the HTTP service, which uvicorn leaves open for as long as a client likes."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

SECONDS = 45.0
"""More than a request may take (see `emotion.inference.limits.Limits`)."""
MOST = 500
"""At the same time; fewer than the files that a process may usually have open."""
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connection(H11Protocol):
    """One connection; it ends once `SECONDS` pass in which no request begins, and at once where there are too many.

    So nobody holds one by sending a request, or taking its answer, a byte at a time.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(SECONDS, self._end_if_idle, None)
        if len(self.connections) > MOST:
            transport.write(BUSY)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _end_if_idle(self, last: RequestResponseCycle | None) -> None:
        """Ends the connection if its last request is the one that it was when the time began."""
        if self.cycle is last:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(SECONDS, self._end_if_idle, self.cycle)
