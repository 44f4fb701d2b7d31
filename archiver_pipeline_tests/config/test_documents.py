"""The committed schema, example and reference agree with the models."""

import ast
import json
import re
from enum import Enum
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

import archiver_pipeline.config
from archiver_pipeline.config import load_config
from archiver_pipeline.config import models as m
from archiver_pipeline.config.schema import json_schema, json_schema_text

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "archiver.example.yaml"
REFERENCE = ROOT / "docs" / "configuration.md"

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": m.ArchiverConfig,
    "`s3`": m.S3,
    "`s3.object_lock`": m.ObjectLock,
    "Settings of every table": m.InheritedSettings,
    "`throttle`": m.Throttle,
    "`allowed_hours`": m.AllowedHours,
    "`adaptive_batch_size`": m.AdaptiveBatchSize,
    "`defaults` only": m.Defaults,
    "`databases[]`": m.Database,
    "`databases[].read_replica`": m.Replica,
    "`databases[].tables[]`": m.Table,
    "`compliance`": m.Compliance,
    "`compliance.retention_policy`": m.RetentionPolicy,
    "`compliance.data_classifications.<name>`": m.DataClassification,
    "`lock`": m.Lock,
    "`restore_watermark`": m.RestoreWatermark,
    "`legal_holds`": m.LegalHolds,
    "`legal_holds.holds[]`": m.ConfiguredHold,
    "`monitoring`": m.Monitoring,
    "`dagster`": m.Dagster,
    "`notifications`": m.Notifications,
    "`notifications.slack`": m.Slack,
    "`notifications.teams`": m.Teams,
    "`notifications.email`": m.Email,
}


def instance_of_example() -> object:
    # JSON Schema knows no dates: they arrive as the text that was written.
    return json.loads(json.dumps(yaml.safe_load(EXAMPLE.read_text()), default=str))


def test_the_example_loads_without_a_warning(tmp_path):
    loaded = load_config(EXAMPLE, environ={}, cwd=tmp_path)
    assert loaded.warnings == ()
    assert [table.qualified_name for table in loaded.tables] == ["public.audit_logs", "tracking.events"]


def test_the_example_names_the_schema_on_its_first_line():
    first, *_ = EXAMPLE.read_text().splitlines()
    assert first == "# yaml-language-server: $schema=docs/archiver.schema.json"


def test_the_commented_keys_of_the_example_are_right_too(tmp_path):
    path = tmp_path / "archiver.yaml"
    path.write_text(re.sub(r"(?m)^( +)# ([a-z_]+: )", r"\1\2", EXAMPLE.read_text()))
    environ = {"ARCHIVER_S3_KEY": "k", "ARCHIVER_S3_SECRET": "s", "SHOP_DB_PASSWORD": "p"}
    environ["ARCHIVER_REDIS_URL"] = "redis://localhost"
    loaded = load_config(path, environ=environ, cwd=tmp_path)
    assert loaded.store.endpoint
    assert loaded.store.secret_access_key
    assert loaded.databases[0].replica


def test_the_committed_schema_is_current():
    assert (ROOT / "docs" / "archiver.schema.json").read_text() == json_schema_text()


def test_the_schema_accepts_the_example_and_refuses_mistakes():
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(instance_of_example())
    for mistake in ({"bukket": "x"}, {"multipart_threshold_mb": 1}, {"storage_class": "TAPE"}):
        wrong = instance_of_example()
        wrong["s3"].update(mistake)
        assert not validator.is_valid(wrong), mistake


def test_the_schema_has_no_keyword_that_json_schema_does_not_know():
    assert not {"ge", "gt", "le", "lt"} & set(re.findall(r'"(\w+)":', json_schema_text()))


def test_the_schema_accepts_variables_and_short_forms():
    instance = instance_of_example()
    instance["databases"][0] |= {"port": "${PORT}", "read_replica": "host:5433"}
    instance["databases"][0]["tables"][0] |= {"primary_key": ["a", "b"], "max_staged_bytes": "512MB"}
    jsonschema.Draft202012Validator(json_schema()).validate(instance)


def test_every_section_of_the_file_is_in_the_reference():
    models = {one for one in vars(m).values() if isinstance(one, type) and issubclass(one, m.Section)}
    assert models - {m.Section} == set(SECTIONS.values())


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_reference_lists_every_key_with_its_default_and_meaning(heading):
    text = REFERENCE.read_text()
    body = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in body.splitlines() if line.startswith("| `")]
    assert rows == expected_rows(SECTIONS[heading])


def expected_rows(model: type[BaseModel]) -> list[str]:
    own = {
        name: field
        for name, field in model.model_fields.items()
        if model is m.InheritedSettings or name not in m.INHERITED
    }
    return [
        f"| `{field.alias or name}` | {shown(field, name, model)} | {field.description} |"
        for name, field in own.items()
    ]


def shown(field, name: str, model: type[BaseModel]) -> str:
    if field.is_required():
        return "required"
    default = m.BUILT_IN_DEFAULTS[name] if model is m.InheritedSettings else field.default
    if name == "source":
        return ", ".join(f"`{one.value}`" for one in default)
    if default is None or default in ((), {}) or isinstance(default, BaseModel):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default.value if isinstance(default, Enum) else default}`"


def test_the_package_imports_no_driver():
    banned = {"dagster", "psycopg", "boto3", "botocore", "os"}
    for path in Path(archiver_pipeline.config.__file__).parent.glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
        assert not imported & banned, path.name
