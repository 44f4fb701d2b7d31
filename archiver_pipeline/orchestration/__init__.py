"""The Dagster face: translates assets, partitions and runs to the engine and its reports to metadata. Thin."""
