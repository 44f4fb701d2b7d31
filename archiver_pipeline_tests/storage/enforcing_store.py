"""A relay to the S3 server that lets a request through only if policies of AWS allow it.

No more of IAM's language than the policies in deploy/aws speak; whatever it does not know is an error. What each
request needs is as AWS documents it per operation, which is more than SeaweedFS asks for.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.client import HTTPResponse
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from archiver_pipeline_tests.cli.faulty_store import _relay_to, _serving

Policy = dict[str, Any]
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_ASKED_OF_BUCKET = {
    "versioning": "GetBucketVersioning",
    "object-lock": "GetBucketObjectLockConfiguration",
    "encryption": "GetEncryptionConfiguration",
    "publicAccessBlock": "GetBucketPublicAccessBlock",
    "policyStatus": "GetBucketPolicyStatus",
    "lifecycle": "GetLifecycleConfiguration",
    "versions": "ListBucketVersions",
}
_ASKED_OF_OBJECT = {"retention": "ObjectRetention", "legal-hold": "ObjectLegalHold"}


@dataclass(frozen=True)
class Need:
    """One action on one resource. `context` are the condition keys of the request that are there."""

    action: str
    resource: str
    context: dict[str, str]


@dataclass
class Enforcing:
    """The relay's endpoint, the policies in force, and what they refused or hid so far."""

    endpoint: str = ""
    identity: Policy = field(default_factory=lambda: {"Statement": []})
    bucket: Policy = field(default_factory=lambda: {"Statement": []})
    context: dict[str, str] = field(default_factory=dict)
    refused: list[Need] = field(default_factory=list)
    hidden: list[Need] = field(default_factory=list)
    """Locks that were left out of an answer."""

    def allows(self, need: Need) -> bool:
        """An explicit Deny of either policy wins; else the identity must be allowed."""
        need = Need(need.action, need.resource, need.context | self.context)
        statements = [*self.identity["Statement"], *self.bucket["Statement"]]
        effects = {statement["Effect"] for statement in statements if _applies(statement, need)}
        return effects == {"Allow"}


@contextmanager
def enforcing_store(endpoint: str) -> Iterator[Enforcing]:
    """A relay that refuses everything until it has policies."""
    store = Enforcing()

    class Relay(_relay_to(urlsplit(endpoint).netloc)):  # type: ignore[misc]
        def enforce(self) -> None:
            refused = [need for need in needs(self.command, self.path, self.headers) if not store.allows(need)]
            if not refused:
                self.relay()
                return
            store.refused += refused
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(403)
            self.send_header("Content-Length", "0" if self.command == "HEAD" else str(len(_DENIED)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(_DENIED)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = enforce  # noqa: N815

        def _damaged(self, body: bytes) -> bytes:
            return body

        def _answer(self, answer: HTTPResponse, body: bytes) -> None:
            """As AWS: locks are shown only to whoever may see them."""
            path = unquote(urlsplit(self.path).path)
            for header, action in (("object-lock-mode", "GetObjectRetention"), ("legal-hold", "GetObjectLegalHold")):
                if not store.allows(Need(f"s3:{action}", f"arn:aws:s3::{path.replace('/', ':', 1)}", {})):
                    family = "object-lock-legal-hold" if header == "legal-hold" else "object-lock-(mode|retain)"
                    for name in [one for one in answer.headers if re.search(family, one.lower())]:
                        store.hidden.append(Need(f"s3:{action}", path, {}))
                        del answer.headers[name]
            super()._answer(answer, body)

    with _serving(Relay) as own:
        store.endpoint = own
        yield store


def needs(method: str, path: str, headers: Any) -> Iterable[Need]:
    """What AWS asks for before it does this."""
    url = urlsplit(path)
    query = parse_qs(url.query, keep_blank_values=True)
    bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
    of_bucket, of_object = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{key}"
    context = {
        "s3:prefix": query.get("prefix", [None])[0],
        "s3:x-amz-server-side-encryption": headers.get("x-amz-server-side-encryption"),
    }
    known = {name: value for name, value in context.items() if value is not None}
    if not key:
        action = next((name for word, name in _ASKED_OF_BUCKET.items() if word in query), "ListBucket")
        return [Need(f"s3:{action}", of_bucket, known)]
    return [Need(f"s3:{action}", of_object, known) for action in _actions_on_object(method, query, headers)]


def _actions_on_object(method: str, query: dict[str, list[str]], headers: Any) -> list[str]:
    version = "Version" if "versionId" in query else ""
    for word, name in _ASKED_OF_OBJECT.items():
        if word in query:
            return [{"GET": "Get", "PUT": "Put"}[method] + name]
    if method in ("GET", "HEAD"):
        return [f"GetObject{version}"]
    if method == "DELETE":
        return ["AbortMultipartUpload" if "uploadId" in query else f"DeleteObject{version}"]
    if "restore" in query:
        return ["RestoreObject"]
    is_locked = "x-amz-object-lock-mode" in headers
    return [
        "PutObject",
        *(["PutObjectRetention"] if is_locked else []),
        *(["GetObject"] if "x-amz-copy-source" in headers else []),
    ]


def _applies(statement: dict[str, Any], need: Need) -> bool:
    unknown = set(statement) - {"Sid", "Effect", "Principal", "Action", "Resource", "NotResource", "Condition"}
    assert not unknown, unknown
    assert statement.get("Principal", "*") == "*"
    if not any(fnmatchcase(need.action, action) for action in _list(statement["Action"])):
        return False
    of = _list(statement.get("Resource", statement.get("NotResource")))
    if any(fnmatchcase(need.resource, pattern) for pattern in of) != ("Resource" in statement):
        return False
    return all(
        _holds(operator, need.context.get(key), _list(wanted))
        for operator, pairs in statement.get("Condition", {}).items()
        for key, wanted in pairs.items()
    )


def _holds(operator: str, found: str | None, wanted: list[str]) -> bool:
    """A key that is missing fulfils negated conditions only."""
    matches = found is not None and any(fnmatchcase(found, pattern) for pattern in wanted)
    if operator in ("Bool", "StringLike"):
        return matches
    if operator in ("StringNotEquals", "ArnNotLike"):
        return not matches
    raise AssertionError(operator)


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
