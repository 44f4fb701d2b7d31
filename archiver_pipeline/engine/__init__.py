"""The steps of archiving, free of Dagster: plan, extract, compress, upload, verify, delete, report, reconcile."""
