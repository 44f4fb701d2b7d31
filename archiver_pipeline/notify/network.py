"""Why a connection failed, in words that hold no address and no secret."""

import socket
import ssl
from urllib.error import URLError


def network_reason(error: BaseException) -> str:
    """The innermost reason of a library's error. Its text is never shown: it may hold the URL."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "the TLS handshake failed"
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror):
            return "its name does not resolve"
    return f"the connection failed ({type(error).__name__})"


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what is behind it, the innermost first."""
    found: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        current = todo.pop()
        if isinstance(current, BaseException) and current not in found:
            found.append(current)
            todo += [current.__cause__, current.__context__, *current.args]
            todo += [current.reason] if isinstance(current, URLError) else [getattr(current, "reason", None)]
    return found[::-1]
