"""What webhooks share: their address, and why a connection failed in words that hold no address and no secret."""

import socket
import ssl
from urllib.error import URLError

from pydantic import SecretStr

from archiver_pipeline.errors import AlertError


def webhook_url(name: str, secret: SecretStr | None) -> str:
    """The address to post to. Raises AlertError when it is none, and what reading a secret kept elsewhere raises."""
    url = secret.get_secret_value() if secret else ""
    if not url.startswith(("https://", "http://")):
        raise AlertError(f"{name}: its webhook is no URL that begins with https://")
    return url


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
