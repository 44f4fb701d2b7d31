"""What every test can use: one plugin per concern."""

pytest_plugins = [
    "archiver_pipeline_tests.plugins.servers",
    "archiver_pipeline_tests.plugins.archiving",
    "archiver_pipeline_tests.plugins.restoring",
    "archiver_pipeline_tests.plugins.workshop",
    "archiver_pipeline_tests.plugins.listening",
    "archiver_pipeline_tests.plugins.redis",
    "archiver_pipeline_tests.plugins.holding",
    "archiver_pipeline_tests.plugins.hold_api",
    "archiver_pipeline_tests.plugins.vault",
    "archiver_pipeline_tests.plugins.safekeeping",
]
