"""The code location that `dagster dev` loads: the configuration found by ARCHIVER_CONFIG, else ./archiver.yaml."""

import os
from pathlib import Path

from archiver_pipeline.config.loading import load_config
from archiver_pipeline.logs.process import process_listener
from archiver_pipeline.orchestration.build import build_definitions

config = load_config(None, environ=os.environ, cwd=Path.cwd())
defs = build_definitions(config, progress=process_listener(config, os.environ))
