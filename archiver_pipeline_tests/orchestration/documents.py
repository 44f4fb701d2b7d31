"""Configurations for code locations that are only built: nothing answers at the addresses in them."""

from pathlib import Path
from typing import Any

import yaml

from archiver_pipeline.config.loading import LoadedConfig, load_config


def table(name: str = "audit_logs", **settings: Any) -> dict[str, Any]:
    return {"name": name, "timestamp_column": "created_at", "retention_days": 30} | settings


def database(name: str, *tables: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"name": name, "host": "db.invalid", "user": "archiver", "tables": list(tables)} | settings


def config_of(folder: Path, *databases: dict[str, Any]) -> LoadedConfig:
    path = folder / "archiver.yaml"
    document = {"version": "1", "s3": {"bucket": "audit-archive"}, "databases": list(databases)}
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    return load_config(path, environ={}, cwd=folder)
