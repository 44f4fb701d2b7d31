"""Email by SMTP: text and HTML, over TLS with the server's certificate verified."""

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses, localtime, make_msgid
from html import escape

from archiver_pipeline.config.notifications import EmailSettings
from archiver_pipeline.domain.alert import Alert, Severity
from archiver_pipeline.errors import AlertError
from archiver_pipeline.notify.attempts import TIMEOUT_SECONDS, PassingAlertError, with_attempts
from archiver_pipeline.notify.network import network_reason

_COLORS = {
    Severity.info: "#57606a",
    Severity.good: "#1a7f37",
    Severity.warning: "#9a6700",
    Severity.error: "#cf222e",
}
_TEMPORARY = range(400, 500)
# Folding at 78 puts a subject that is a little longer wholly onto the second line, and readers show it indented.
_POLICY = SMTP.clone(max_line_length=200)


class EmailChannel:
    """Sends one message to all recipients."""

    name = "email"

    def __init__(self, settings: EmailSettings) -> None:
        self._settings = settings
        how = "TLS" if settings.implicit_tls else "STARTTLS" if settings.use_tls else "no encryption"
        self.means = f"{', '.join(settings.to)} by {settings.host}:{settings.port} ({how})"

    def send(self, alert: Alert) -> None:
        with_attempts(lambda: self._send_once(email_message(alert, self._settings)))

    def _send_once(self, message: EmailMessage) -> None:
        with _smtp_errors(), self._connected() as server:
            if self._settings.username and self._settings.password:
                server.login(self._settings.username, self._settings.password.get_secret_value())
            refused = server.send_message(message)
        if refused:
            raise AlertError(f"email: {len(refused)} of {len(self._settings.to)} recipients were refused")

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        settings = self._settings
        if settings.implicit_tls:
            with smtplib.SMTP_SSL(
                settings.host, settings.port, timeout=TIMEOUT_SECONDS, context=self._context()
            ) as server:
                yield server
            return
        with smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT_SECONDS) as server:
            if settings.use_tls:
                server.starttls(context=self._context())
            yield server

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._settings.ca_file is not None:
            try:
                context.load_verify_locations(self._settings.ca_file)
            except OSError as error:
                reason = error.strerror or "it holds no certificate"
                raise AlertError(f"email: ca_file {self._settings.ca_file} can't be used: {reason}") from None
        return context


def email_message(alert: Alert, settings: EmailSettings) -> EmailMessage:
    """The message as text, and as HTML for who prefers it."""
    message = EmailMessage(policy=_POLICY)
    message["Subject"] = " ".join(alert.title.split())
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.to)
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = make_msgid(domain=_domain(settings.sender))
    message["Auto-Submitted"] = "auto-generated"
    if alert.severity is Severity.error:
        message["Importance"] = "high"
    message.set_content(alert_text(alert))
    message.add_alternative(alert_html(alert), subtype="html")
    return message


def alert_text(alert: Alert) -> str:
    """The whole message as plain text."""
    parts = [alert.happened, *([_listed(alert.lines)] if alert.lines else [])]
    if alert.safety:
        parts.append(f"Are rows safe?\n{alert.safety}")
    if alert.next_steps:
        parts.append(f"What to do\n{_listed(alert.next_steps)}")
    if alert.link:
        parts.append(f"The run in Dagster: {alert.link}")
    if alert.facts:
        width = max(len(fact.name) for fact in alert.facts) + 2
        parts.append("\n".join(f"{fact.name + ':':<{width}}{fact.value}" for fact in alert.facts))
    if alert.notes:
        parts.append("\n".join(alert.notes))
    return "\n\n".join(parts) + "\n"


def alert_html(alert: Alert) -> str:
    """The same with its severity as a color; styles are inline, as mail readers want them."""
    color = _COLORS[alert.severity]
    parts = [
        f'<h2 style="color:{color};margin:0 0 12px">{escape(alert.title)}</h2>',
        f"<p>{escape(alert.happened)}</p>",
        _html_list(alert.lines),
        _html_part("Are rows safe?", f'<p style="margin:0">{escape(alert.safety)}</p>' if alert.safety else ""),
        _html_part("What to do", _html_list(alert.next_steps)),
        f'<p><a href="{escape(alert.link)}">Open the run in Dagster</a></p>' if alert.link else "",
        _html_facts(alert),
        *(f'<p style="color:#57606a;font-size:13px">{escape(note)}</p>' for note in alert.notes),
    ]
    body = "\n".join(part for part in parts if part)
    style = f"font-family:sans-serif;font-size:15px;line-height:1.45;max-width:44em;border-left:4px solid {color}"
    return (
        '<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head><body>\n'
        f'<div style="{style};padding:4px 16px">\n{body}\n</div>\n</body></html>\n'
    )


def _listed(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _html_part(heading: str, content: str) -> str:
    return f'<h3 style="margin:14px 0 2px;font-size:15px">{heading}</h3>\n{content}' if content else ""


def _html_list(lines: tuple[str, ...]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul style="margin:4px 0;padding-left:20px">{items}</ul>' if items else ""


def _html_facts(alert: Alert) -> str:
    cell = "padding:2px 14px 2px 0;text-align:left;vertical-align:top"
    rows = "".join(
        f'<tr><th style="{cell};color:#57606a;font-weight:normal">{escape(fact.name)}</th>'
        f'<td style="{cell}">{escape(fact.value)}</td></tr>'
        for fact in alert.facts
    )
    return f'<table style="border-collapse:collapse;font-size:14px">{rows}</table>' if rows else ""


def _domain(sender: str) -> str:
    return getaddresses([sender])[0][1].rpartition("@")[2]


@contextmanager
def _smtp_errors() -> Iterator[None]:
    """What a server answers may repeat what it was sent: only its code is shown."""
    try:
        yield
    except UnicodeEncodeError:
        raise AlertError("email: user and password must be ASCII: the login of SMTP sends nothing else") from None
    except smtplib.SMTPAuthenticationError as error:
        raise AlertError(f"email: user or password was refused (SMTP {error.smtp_code})") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = ", ".join(sorted({str(code) for code, _ in error.recipients.values()}))
        raise AlertError(f"email: every recipient was refused (SMTP {codes})") from None
    except smtplib.SMTPNotSupportedError:
        raise AlertError("email: the server offers no STARTTLS, or no login", hint="see use_tls, username") from None
    except smtplib.SMTPResponseException as error:
        text = f"email: the server refused (SMTP {error.smtp_code})"
        raise (PassingAlertError if error.smtp_code in _TEMPORARY else AlertError)(text) from None
    except (smtplib.SMTPException, OSError) as error:
        reason = network_reason(error)
        kind = AlertError if isinstance(error, ssl.SSLCertVerificationError) else PassingAlertError
        raise kind(f"email: the server could not be reached: {reason}") from None
