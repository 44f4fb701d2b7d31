"""Secrets in HashiCorp Vault's KV engine, version 1 or 2.

The environment says where and who, as for Vault's own command: VAULT_ADDR, VAULT_TOKEN (else the file that
VAULT_TOKEN_FILE names, else ~/.vault-token), VAULT_NAMESPACE, VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT and
VAULT_CLIENT_KEY.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from archiver_pipeline.errors import ConfigError, NetworkError, PermissionDeniedError
from archiver_pipeline.secret_sources.reference import SecretReference

_TIMEOUT_SECONDS = 10


def read_vault(reference: SecretReference) -> dict[str, Any]:
    """The keys and values of a secret's current version. Raises ConfigError, PermissionDeniedError or NetworkError;
    nothing that Vault said is repeated."""
    hvac = _driver(reference)
    with _errors(reference, hvac.exceptions):
        client = _client(reference, hvac)
        mount, is_versioned = _mount_of(client, reference)
        where = {"path": reference.place.removeprefix(mount), "mount_point": mount.rstrip("/")}
        if is_versioned:
            found = client.secrets.kv.v2.read_secret_version(**where, raise_on_deleted_version=True)
            return _data(_data(found, reference), reference)
        return _data(client.secrets.kv.v1.read_secret(**where), reference)


def _driver(reference: SecretReference) -> Any:
    try:
        import hvac  # noqa: PLC0415 - an extra: only who keeps secrets in Vault needs it.
    except ImportError:
        raise ConfigError(
            f"secret {reference} needs the package hvac", hint="pip install 'archiver-pipeline[vault]'"
        ) from None
    return hvac


def _client(reference: SecretReference, hvac: Any) -> Any:
    address = os.environ.get("VAULT_ADDR")
    if not address:
        raise ConfigError(f"secret {reference} can't be read: VAULT_ADDR is not set", hint="set it to Vault's URL")
    certificate = os.environ.get("VAULT_CLIENT_CERT")
    return hvac.Client(
        url=address,
        token=_token(reference),
        namespace=os.environ.get("VAULT_NAMESPACE"),
        verify=os.environ.get("VAULT_CACERT") or os.environ.get("VAULT_CAPATH") or True,
        cert=(certificate, os.environ.get("VAULT_CLIENT_KEY")) if certificate else None,
        timeout=_TIMEOUT_SECONDS,
        # The token would go along to wherever the answer points.
        allow_redirects=False,
    )


def _token(reference: SecretReference) -> str:
    if token := os.environ.get("VAULT_TOKEN"):
        return token
    path = Path(os.environ.get("VAULT_TOKEN_FILE") or "~/.vault-token").expanduser()
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        hint = "set VAULT_TOKEN, or name the file that Vault Agent keeps a token in by VAULT_TOKEN_FILE"
        raise PermissionDeniedError(f"secret {reference} can't be read: there is no Vault token", hint=hint) from None


def _mount_of(client: Any, reference: SecretReference) -> tuple[str, bool]:
    """The mount with a slash at its end, and whether it keeps versions: asked as Vault's own command does, because
    names of mounts may have slashes, and the two versions of the engine have different addresses."""
    answer = client.adapter.get(f"/v1/sys/internal/ui/mounts/{reference.place}")
    found = _data(answer, reference)
    mount, options = str(found.get("path") or ""), found.get("options") or {}
    if not mount or not reference.place.startswith(mount):
        raise ConfigError(
            f"secret {reference} can't be read: Vault has no such mount", hint="check VAULT_NAMESPACE, too"
        )
    return mount, _mapping(options, reference).get("version") == "2"


def _data(answer: Any, reference: SecretReference) -> dict[str, Any]:
    return _mapping(_mapping(answer, reference).get("data"), reference)


def _mapping(value: Any, reference: SecretReference) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NetworkError(
            f"secret {reference} can't be read: what answers at VAULT_ADDR does not answer as Vault does",
            hint="check VAULT_ADDR; redirects are not followed",
        )
    return value


@contextmanager
def _errors(reference: SecretReference, known: Any) -> Iterator[None]:
    """`hvac` and `requests` quote addresses and answers: only their kinds are told."""
    text = f"secret {reference} can't be read"
    try:
        yield
    except (known.Forbidden, known.Unauthorized):
        hint = "does the token's policy allow read on this path, and is the token still valid?"
        raise PermissionDeniedError(f"{text}: Vault refused the token", hint=hint) from None
    except known.InvalidPath:
        raise ConfigError(f"{text}: Vault has no such secret", hint="check mount, path and VAULT_NAMESPACE") from None
    except (known.InvalidRequest, known.UnsupportedOperation) as error:
        raise ConfigError(
            f"{text}: Vault did not understand ({type(error).__name__})", hint="is it a KV engine?"
        ) from None
    except known.VaultError as error:
        hint = "is it sealed or overloaded?"
        raise NetworkError(f"{text}: Vault can't answer ({type(error).__name__})", hint=hint) from None
    except requests.exceptions.SSLError:
        hint = "name your own authority's certificate in VAULT_CACERT"
        raise ConfigError(f"{text}: Vault's certificate is not trusted", hint=hint) from None
    except (requests.exceptions.RequestException, OSError, ValueError) as error:
        hint = "check VAULT_ADDR and that Vault is running"
        raise NetworkError(f"{text}: Vault did not answer ({type(error).__name__})", hint=hint) from None
