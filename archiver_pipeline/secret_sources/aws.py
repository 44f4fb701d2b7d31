"""Secrets in AWS Secrets Manager, by AWS's own credential chain."""

import os
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

from archiver_pipeline.errors import ArchiverError, ConfigError, NetworkError, PermissionDeniedError
from archiver_pipeline.secret_sources.reference import SecretReference

_CONNECT_SECONDS = 5
_READ_SECONDS = 10
_ATTEMPTS = 3
_MISSING = frozenset({"ResourceNotFoundException"})
_REFUSED = frozenset(
    {
        "AccessDeniedException",
        "AccessDenied",
        "DecryptionFailure",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_PASSING = frozenset({"InternalServiceError", "InternalFailure", "ThrottlingException", "ServiceUnavailable"})


def read_aws(reference: SecretReference) -> str:
    """The secret's current text. Raises ConfigError, PermissionDeniedError or NetworkError; what AWS says is not
    repeated, only its code."""
    try:
        answer = _client(reference).get_secret_value(SecretId=reference.place)
    except ClientError as error:
        raise _refusal(reference, str(error.response.get("Error", {}).get("Code", ""))) from None
    except NoRegionError:
        raise ConfigError(
            f"secret {reference} can't be read: no AWS region is known", hint="set AWS_REGION, or write the whole ARN"
        ) from None
    except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound):
        raise PermissionDeniedError(
            f"secret {reference} can't be read: AWS's credential chain has no usable credentials",
            hint="give this process a role or an AWS profile; the s3 keys of the file are not used for it",
        ) from None
    except BotoCoreError as error:
        raise NetworkError(
            f"secret {reference} can't be read: AWS Secrets Manager did not answer ({type(error).__name__})",
            hint="check the network and the region",
        ) from None
    if "SecretString" not in answer:
        raise ConfigError(f"secret {reference} is binary", hint="store it as text")
    return str(answer["SecretString"])


def _client(reference: SecretReference) -> Any:
    """In the ARN's region, else in that of AWS_REGION, which boto3 does not read, else in that which boto3 finds."""
    parts = reference.place.split(":")
    region = parts[3] if parts[0] == "arn" and len(parts) > 3 else os.environ.get("AWS_REGION")
    retries: Any = {"mode": "standard", "max_attempts": _ATTEMPTS}
    config = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries=retries)
    return boto3.session.Session().client("secretsmanager", region_name=region, config=config)


def _refusal(reference: SecretReference, code: str) -> ArchiverError:
    text = f"secret {reference} can't be read"
    if code in _MISSING:
        return ConfigError(f"{text}: there is no such secret", hint="check its name, the region and the account")
    if code in _REFUSED:
        hint = "allow secretsmanager:GetSecretValue on it, and kms:Decrypt on its key, to this process's role"
        return PermissionDeniedError(f"{text}: AWS refused ({code})", hint=hint)
    if code in _PASSING:
        return NetworkError(f"{text}: AWS is busy ({code})")
    return ConfigError(f"{text}: AWS said {code}", hint="is it marked for deletion, or without a current version?")
