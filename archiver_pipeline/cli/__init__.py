"""The command-line face: reads options, calls the engine or Dagster, prints. Thin."""
