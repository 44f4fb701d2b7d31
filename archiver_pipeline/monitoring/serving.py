"""The two addresses: /metrics for Prometheus, /health for whoever asks."""

import socket
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import orjson
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from archiver_pipeline.errors import PreflightError
from archiver_pipeline.monitoring.health import health_of
from archiver_pipeline.monitoring.metrics import registry_of
from archiver_pipeline.monitoring.monitor import Monitor

HEALTH_PATH = "/health"
METRICS_PATH = "/metrics"
_SILENT_CLIENT_SECONDS = 10
# wsgiref adds the length of each answer to the list that it is given.
_JSON = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


class _QuietHandler(WSGIRequestHandler):
    """Logs no request, and does not wait for a client that says nothing."""

    timeout = _SILENT_CLIENT_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        pass


class _ServerOfIpv6(ThreadingWSGIServer):
    address_family = socket.AF_INET6


def serve_health(monitor: Monitor, address: str, port: int) -> WSGIServer:
    """Serve /health in a thread. Raises PreflightError when the address cannot be had."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        health = health_of(monitor, datetime.now(UTC))
        status = HTTPStatus.OK if health.is_healthy else HTTPStatus.SERVICE_UNAVAILABLE
        start_response(_line(status), [*_JSON])
        return [orjson.dumps(health.document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)]

    return _serve(_only(HEALTH_PATH, app), address, port, key="health_check_port")


def serve_metrics(monitor: Monitor, address: str, port: int) -> WSGIServer:
    """Serve /metrics in a thread. Raises PreflightError when the address cannot be had."""
    return _serve(_only(METRICS_PATH, make_wsgi_app(registry_of(monitor))), address, port, key="metrics_port")


def _only(path: str, app: WSGIApplication) -> WSGIApplication:
    """Nothing but this one path, read only."""

    def routed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].rstrip("/") != path:
            return _refuse(start_response, HTTPStatus.NOT_FOUND, f"only {path} is served here")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refuse(start_response, HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
        return app(environ, start_response)

    return routed


def _refuse(start_response: Callable[..., object], status: HTTPStatus, message: str) -> list[bytes]:
    start_response(_line(status), [*_JSON])
    return [orjson.dumps({"error": message})]


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


def _serve(app: WSGIApplication, address: str, port: int, *, key: str) -> WSGIServer:
    try:
        kind = _ServerOfIpv6 if ":" in address else ThreadingWSGIServer
        server: WSGIServer = make_server(address, port, app, kind, _QuietHandler)
    except OSError as error:
        raise PreflightError(
            f"{address}:{port} cannot be served at: {error.strerror or error}",
            hint=f"stop what is there, or change monitoring.{key} or monitoring.bind_address",
        ) from error
    threading.Thread(target=server.serve_forever, name=f"serve {address}:{port}", daemon=True).start()
    return server
