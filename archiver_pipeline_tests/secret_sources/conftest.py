"""A memory of answers without anything in it, and servers that secrets are kept in."""

import boto3
import pytest
from moto.server import ThreadedMotoServer

from archiver_pipeline.secret_sources import secret as secrets_module
from archiver_pipeline.secret_sources.secret import Answers


class Clock:
    """Seconds that pass when a test says so."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock of an empty memory of answers."""
    clock = Clock()
    monkeypatch.setattr(secrets_module, "_ANSWERS", Answers(clock))
    return clock


@pytest.fixture
def at_vault(vault, clock, monkeypatch):
    """This process finds the Vault server."""
    for name, value in vault.environment.items():
        monkeypatch.setenv(name, value)
    return vault


@pytest.fixture(scope="module")
def moto():
    server = ThreadedMotoServer(port=0)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture
def at_aws(moto, clock, monkeypatch):
    """A client of AWS Secrets Manager, which this process finds, too."""
    for name, value in {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": moto,
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "AWS_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    return boto3.client("secretsmanager", region_name="eu-central-1")
