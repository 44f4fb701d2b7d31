"""The job that a run worker executes, where a re-execution finds it again."""

import os
from pathlib import Path

import dagster as dg

from archiver_pipeline.config.loading import load_config
from archiver_pipeline.orchestration.build import build_definitions
from archiver_pipeline.orchestration.names import asset_key


def table_job() -> dg.JobDefinition:
    """The job over the first table of the configuration that ARCHIVER_CONFIG names."""
    config = load_config(None, environ=os.environ, cwd=Path.cwd())
    job = dg.define_asset_job("archive_table", selection=[asset_key(config.tables[0])])
    return dg.Definitions.merge(build_definitions(config), dg.Definitions(jobs=[job])).resolve_job_def("archive_table")
