"""The code location that `dagster dev` loads: the configuration found by ARCHIVER_CONFIG, else ./archiver.yaml."""

import os
from pathlib import Path

from archiver_pipeline.config.loading import load_config
from archiver_pipeline.orchestration.build import build_definitions

defs = build_definitions(load_config(None, environ=os.environ, cwd=Path.cwd()))
