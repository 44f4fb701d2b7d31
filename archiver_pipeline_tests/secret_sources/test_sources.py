"""Secrets are read from files, AWS Secrets Manager and Vault; what fails says what to do, and never more."""

import builtins
import json
import os
import pickle
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from archiver_pipeline.errors import ConfigError, NetworkError, PermissionDeniedError
from archiver_pipeline.sandbox.processes import free_port
from archiver_pipeline.secret_sources import aws
from archiver_pipeline.secret_sources.reference import Scheme, SecretReference, parse_reference
from archiver_pipeline.secret_sources.secret import (
    FRESH_SECONDS,
    KEPT_SECONDS,
    ReferencedSecret,
    forget,
    with_current_secret,
)

VALUE = 'cänary "quoted" \\ %2F/+='


def secret(text: str, base: Path = Path("/")) -> ReferencedSecret:
    return ReferencedSecret(parse_reference(text, base))


def refused(kind: type[Exception], text: str) -> str:
    """What is said when the secret can't be read; never its value."""
    with pytest.raises(kind) as found:
        secret(text).get_secret_value()
    said = str(found.value)
    assert text in said
    assert VALUE not in said and VALUE not in repr(found.value.__dict__)
    assert found.value.__cause__ is None
    assert found.value.__context__ is None or found.value.__suppress_context__
    return said


@pytest.mark.parametrize(
    ("text", "scheme", "place", "key"),
    [
        ("file:/run/secrets/db", Scheme.FILE, "/run/secrets/db", None),
        ("file:secrets/db#1", Scheme.FILE, "/etc/archiver/secrets/db#1", None),
        ("aws-secretsmanager:prod/db", Scheme.AWS, "prod/db", None),
        ("aws-secretsmanager:prod/db#password", Scheme.AWS, "prod/db", "password"),
        ("aws-secretsmanager:arn:aws:x:y:1:secret:a-b#k", Scheme.AWS, "arn:aws:x:y:1:secret:a-b", "k"),
        ("vault:secret/prod/db#password", Scheme.VAULT, "secret/prod/db", "password"),
    ],
)
def test_references(text, scheme, place, key):
    found = parse_reference(text, Path("/etc/archiver"))
    assert found == SecretReference(scheme, place, key)
    assert parse_reference(str(found), Path("/elsewhere")) == found


@pytest.mark.parametrize(
    "text",
    [
        "hunter2",
        "aws-secretmanager:prod/db",
        "Vault:secret/db#p",
        "file:",
        "vault:secret/db",
        "vault:secret#p",
        "vault:/secret/db#p",
        "vault:secret/db/#p",
        "vault:secret/db#",
        "aws-secretsmanager:#k",
        "file:a\nb",
    ],
)
def test_a_wrong_reference_is_answered_with_the_right_ones_and_not_repeated(text):
    with pytest.raises(ValueError, match=r"must be .*vault:<mount>/<path>#<key>") as found:
        parse_reference(text, Path("/"))
    assert "hunter2" not in str(found.value)


class TestFiles:
    def write(self, folder: Path, content: bytes, mode: int = 0o600) -> str:
        path = folder / "password"
        path.write_bytes(content)
        path.chmod(mode)
        return f"file:{path}"

    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_the_newline_at_the_end_is_no_part_of_it(self, tmp_path, ending):
        assert secret(self.write(tmp_path, f" {VALUE} {ending}".encode())).get_secret_value() == f" {VALUE} "

    def test_another_value_is_seen_at_once(self, tmp_path):
        found = secret(self.write(tmp_path, b"one"))
        assert found.get_secret_value() == "one"
        self.write(tmp_path, b"two")
        assert found.get_secret_value() == "two"

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
    def test_a_file_of_ours_that_others_may_read_is_refused_as_libpq_refuses_a_pgpass(self, tmp_path, mode):
        said = refused(PermissionDeniedError, self.write(tmp_path, VALUE.encode(), mode))
        assert f"mode {mode:04o}" in said and f"chmod 600 {tmp_path}" in said

    def test_a_volume_of_kubernetes_is_taken_as_it_is(self, tmp_path):
        version = tmp_path / "..2026_11_25"
        version.mkdir()
        self.write(version, VALUE.encode(), 0o644)
        (tmp_path / "..data").symlink_to(version.name)
        (tmp_path / "password").symlink_to("..data/password")
        assert secret(f"file:{tmp_path}/password").get_secret_value() == VALUE

    def test_a_link_of_a_person_is_not(self, tmp_path):
        self.write(tmp_path, VALUE.encode(), 0o644)
        (tmp_path / "link").symlink_to("password")
        refused(PermissionDeniedError, f"file:{tmp_path}/link")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_a_file_that_somebody_else_hands_out_is_taken(self, tmp_path):
        text = self.write(tmp_path, VALUE.encode(), 0o444)
        os.chown(tmp_path / "password", 12345, 12345)
        assert secret(text).get_secret_value() == VALUE

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"two\nlines", "more than one line"),
            (b"\xff\xfe", "not UTF-8"),
            (b"x" * 70_000, "larger than 64 KiB"),
        ],
    )
    def test_what_is_no_secret(self, tmp_path, content, said):
        assert said in refused(ConfigError, self.write(tmp_path, content))

    def test_a_missing_file_and_a_folder(self, tmp_path):
        assert "there is no such file" in refused(ConfigError, f"file:{tmp_path}/none")
        assert "directory" in refused(ConfigError, f"file:{tmp_path}").lower()


class TestAws:
    def put(self, client, name: str, value: str | bytes) -> str:
        kind = "SecretBinary" if isinstance(value, bytes) else "SecretString"
        client.create_secret(Name=name, **{kind: value})
        return f"aws-secretsmanager:{name}"

    def test_whole_text_and_keys_of_json(self, at_aws):
        assert secret(self.put(at_aws, "plain", VALUE)).get_secret_value() == VALUE
        text = self.put(at_aws, "json", json.dumps({"password": VALUE, "port": 5432, "user": None}))
        assert secret(f"{text}#password").get_secret_value() == VALUE
        assert secret(f"{text}#port").get_secret_value() == "5432"
        assert "has no key user" in refused(ConfigError, f"{text}#user")
        assert "has no key pasword" in refused(ConfigError, f"{text}#pasword")
        assert f"{text}#password" in refused(ConfigError, text)
        assert "no JSON object" in refused(ConfigError, "aws-secretsmanager:plain#password")

    def test_an_arn_says_its_region(self, at_aws, monkeypatch):
        self.put(at_aws, "by-arn", VALUE)
        arn = at_aws.describe_secret(SecretId="by-arn")["ARN"]
        monkeypatch.setenv("AWS_REGION", "us-west-2")
        assert secret(f"aws-secretsmanager:{arn}").get_secret_value() == VALUE
        assert "no such secret" in refused(ConfigError, "aws-secretsmanager:by-arn")

    def test_what_is_not_there(self, at_aws, monkeypatch):
        said = refused(ConfigError, "aws-secretsmanager:nowhere")
        assert "there is no such secret" in said and "region" in said
        assert "binary" in refused(ConfigError, self.put(at_aws, "binary", b"\x00"))
        at_aws.delete_secret(SecretId="binary")
        forget_all()
        assert "marked for deletion" in refused(ConfigError, "aws-secretsmanager:binary")
        monkeypatch.delenv("AWS_REGION")
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
        assert "set AWS_REGION" in refused(ConfigError, "aws-secretsmanager:no-region")

    def test_nobody_to_ask_as_or_nobody_there(self, at_aws, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setattr(aws, "_ATTEMPTS", 1)
        assert "did not answer" in refused(NetworkError, "aws-secretsmanager:down")
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        assert "credential chain" in refused(PermissionDeniedError, "aws-secretsmanager:profile")

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("AccessDeniedException", PermissionDeniedError),
            ("ExpiredTokenException", PermissionDeniedError),
            ("DecryptionFailure", PermissionDeniedError),
            ("ThrottlingException", NetworkError),
            ("InvalidRequestException", ConfigError),
        ],
    )
    def test_refusals_are_told_by_their_code_alone(self, clock, monkeypatch, code, kind):
        class Refusing:
            def get_secret_value(self, **_: str) -> None:
                raise ClientError({"Error": {"Code": code, "Message": f"words about {VALUE}"}}, "GetSecretValue")

        monkeypatch.setattr(aws, "_client", lambda _: Refusing())
        assert code in refused(kind, "aws-secretsmanager:refused")


class TestVault:
    def test_both_versions_of_the_engine(self, at_vault):
        at_vault.secrets["secret/", "prod/db"] = {"password": VALUE, "port": 5432}
        at_vault.secrets["old/kv/", "db"] = {"password": "old"}
        assert secret("vault:secret/prod/db#password").get_secret_value() == VALUE
        assert secret("vault:secret/prod/db#port").get_secret_value() == "5432"
        assert secret("vault:old/kv/db#password").get_secret_value() == "old"
        assert len(at_vault.asked) == 4, "one look-up of the mount and one read for each secret"

    def test_what_is_not_there(self, at_vault):
        at_vault.secrets["secret/", "db"] = {"other": VALUE, "nested": {"a": VALUE}}
        assert "Vault has no such secret" in refused(ConfigError, "vault:secret/nowhere#p")
        assert "has no key p" in refused(ConfigError, "vault:secret/db#p")
        assert "no text" in refused(ConfigError, "vault:secret/db#nested")
        assert "Vault refused the token" in refused(PermissionDeniedError, "vault:unknown/db#p")

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, ConfigError),
            (403, PermissionDeniedError),
            (429, NetworkError),
            (500, NetworkError),
            (503, NetworkError),
            (307, NetworkError),
        ],
    )
    def test_a_vault_that_does_not_answer_so(self, at_vault, status, kind):
        at_vault.secrets["secret/", "db"] = {"p": VALUE}
        at_vault.failure = status
        refused(kind, "vault:secret/db#p")
        assert at_vault.asked == ["/v1/sys/internal/ui/mounts/secret/db"], "nor is a redirect followed"

    def test_whoever_it_is_asked_as(self, at_vault, monkeypatch, tmp_path):
        at_vault.secrets["secret/", "db"] = {"p": VALUE}
        monkeypatch.delenv("VAULT_TOKEN")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert "VAULT_TOKEN_FILE" in refused(PermissionDeniedError, "vault:secret/db#p")
        (tmp_path / ".vault-token").write_text(f"{at_vault.token}\n")
        forget_all()
        assert secret("vault:secret/db#p").get_secret_value() == VALUE
        (tmp_path / "sink").write_text("wrong")
        monkeypatch.setenv("VAULT_TOKEN_FILE", str(tmp_path / "sink"))
        forget_all()
        said = refused(PermissionDeniedError, "vault:secret/db#p")
        assert "Vault refused the token" in said and "wrong" not in said

    def test_a_namespace(self, at_vault, monkeypatch):
        at_vault.secrets["secret/", "db"] = {"p": VALUE}
        at_vault.namespace = "team"
        refused(PermissionDeniedError, "vault:secret/db#p")
        monkeypatch.setenv("VAULT_NAMESPACE", "team")
        forget_all()
        assert secret("vault:secret/db#p").get_secret_value() == VALUE

    def test_where_it_is(self, at_vault, monkeypatch):
        monkeypatch.delenv("VAULT_CACERT")
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        assert "VAULT_CACERT" in refused(ConfigError, "vault:secret/a#p")
        monkeypatch.setenv("VAULT_ADDR", f"https://127.0.0.1:{free_port()}")
        assert "Vault did not answer" in refused(NetworkError, "vault:secret/b#p")
        monkeypatch.delenv("VAULT_ADDR")
        assert "VAULT_ADDR is not set" in refused(ConfigError, "vault:secret/c#p")

    def test_without_its_driver(self, at_vault, monkeypatch):
        real = builtins.__import__

        def without(name, *rest, **more):
            if name == "hvac":
                raise ImportError(name)
            return real(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", without)
        assert "pip install 'archiver-pipeline[vault]'" in refused(ConfigError, "vault:secret/a#p")


def forget_all() -> None:
    from archiver_pipeline.secret_sources import secret as module

    module._ANSWERS._kept.clear()


class TestMemory:
    @pytest.fixture
    def kept(self, at_vault):
        at_vault.secrets["secret/", "db"] = {"p": "one", "q": "two"}
        return secret("vault:secret/db#p")

    def test_nothing_is_asked_before_it_is_needed(self, kept, at_vault):
        assert kept and kept == secret("vault:secret/db#p") and kept != SecretStr("one")
        assert hash(kept) == hash(secret("vault:secret/db#p"))
        assert "vault:secret/db#p" in repr(kept) and "vault:secret/db#p" in str(kept)
        assert pickle.loads(pickle.dumps(kept)) == kept
        assert at_vault.asked == []

    def test_one_answer_for_all_keys_and_for_a_while(self, kept, at_vault, clock):
        assert [kept.get_secret_value(), secret("vault:secret/db#q").get_secret_value()] == ["one", "two"]
        at_vault.secrets["secret/", "db"]["p"] = "rotated"
        clock.seconds = KEPT_SECONDS - 1
        assert kept.get_secret_value() == "one"
        assert len(at_vault.asked) == 2
        clock.seconds = KEPT_SECONDS
        assert kept.get_secret_value() == "rotated"

    def test_a_refused_one_is_asked_for_again_and_tried_once_more(self, kept, at_vault, clock):
        used = []

        def attempt() -> str:
            used.append(kept.get_secret_value())
            if used[-1] == "one":
                raise PermissionDeniedError("wrong password")
            return "in"

        with pytest.raises(PermissionDeniedError):
            with_current_secret(kept, attempt)
        assert used == ["one"], "an answer this fresh is believed"
        at_vault.secrets["secret/", "db"]["p"] = "rotated"
        clock.seconds = FRESH_SECONDS
        assert with_current_secret(kept, attempt) == "in"
        assert used == ["one", "one", "rotated"]

    def test_a_refusal_is_what_is_shown_when_its_source_fails(self, kept, at_vault, clock):
        kept.get_secret_value()
        at_vault.failure = 503
        clock.seconds = FRESH_SECONDS

        def attempt() -> None:
            raise PermissionDeniedError("wrong password")

        with pytest.raises(PermissionDeniedError, match="wrong password"):
            with_current_secret(kept, attempt)

    def test_an_error_is_remembered_for_a_moment_only(self, kept, at_vault, clock):
        at_vault.failure = 503
        for _ in range(3):
            refused(NetworkError, "vault:secret/db#p")
        assert len(at_vault.asked) == 1
        at_vault.failure, clock.seconds = 0, FRESH_SECONDS
        assert kept.get_secret_value() == "one"

    def test_a_forgotten_one_is_asked_for_again(self, kept, at_vault, clock):
        kept.get_secret_value()
        at_vault.secrets["secret/", "db"]["p"] = "rotated"
        forget(kept)
        assert kept.get_secret_value() == "one", "it is fresh"
        clock.seconds = FRESH_SECONDS
        forget(kept)
        assert kept.get_secret_value() == "rotated"
        forget(SecretStr("plain"))
        forget(None)

    def test_what_was_answered_never_leaves_the_process(self, kept, clock):
        from archiver_pipeline.secret_sources import secret as module

        kept.get_secret_value()
        with pytest.raises(TypeError):
            pickle.dumps(module._ANSWERS)
        assert "one" not in repr(module._ANSWERS)
