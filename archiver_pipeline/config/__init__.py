"""The configuration file: found, read, checked, and resolved into settings in force.

Faces call `load_config` once and hand `TableSettings`, `DatabaseSettings` and `StoreSettings` down.
"""

from __future__ import annotations

from archiver_pipeline.config.effective import (
    DatabaseSettings,
    SourceSettings,
    StoreSettings,
    TableSettings,
)
from archiver_pipeline.config.enums import (
    AddressingStyle,
    Encryption,
    HoldSource,
    LockType,
    ObjectFormat,
    SslMode,
    StorageClass,
    VacuumStrategy,
    WatermarkStorage,
    WindowSize,
)
from archiver_pipeline.config.loading import CONFIG_VARIABLE, DEFAULT_NAME, LoadedConfig, load_config
from archiver_pipeline.config.models import ArchiverConfig
from archiver_pipeline.config.schema import json_schema

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_NAME",
    "AddressingStyle",
    "ArchiverConfig",
    "DatabaseSettings",
    "Encryption",
    "HoldSource",
    "LoadedConfig",
    "LockType",
    "ObjectFormat",
    "SourceSettings",
    "SslMode",
    "StorageClass",
    "StoreSettings",
    "TableSettings",
    "VacuumStrategy",
    "WatermarkStorage",
    "WindowSize",
    "json_schema",
    "load_config",
]
