"""The name and version that manifests record."""

from importlib.metadata import version

SOFTWARE = f"archiver_pipeline {version('archiver-pipeline')}"
