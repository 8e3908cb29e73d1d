"""The Prometheus page of an instance, over HTTP/1 on a Unix socket.

Only the instance's sidecar reads it there; it carries the page to operators, over mTLS.
"""

from __future__ import annotations

import socketserver
import threading
from pathlib import Path

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class MetricsPage:
    """Serves what `reader` collects at every path of the socket, until closed."""

    def __init__(self, socket: Path) -> None:
        registry = CollectorRegistry()
        self.reader = PrometheusMetricReader(registry=registry)
        socket.unlink(missing_ok=True)
        self._server = _Server(str(socket), MetricsHandler.factory(registry))
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics-page", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
