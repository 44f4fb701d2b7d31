"""Messages to send in tests."""

from archiver_pipeline.domain.alert import Activity, Alert, AlertKind, Fact, Severity

FAILED = Alert(
    kind=AlertKind.failed,
    severity=Severity.error,
    activity=Activity.archive,
    subject="shop.public.audit_log",
    reason="NetworkError",
    title="Archive of shop.public.audit_log failed: database or store can't be reached",
    happened="The run failed in its step upload: s3.example.com: <timeout> & more",
    safety="Yes. Every row that it read is still in the table.",
    next_steps=("archiver check --database shop", "Run it again: archiver run"),
    facts=(Fact("Error", "NetworkError"), Fact("Windows", "2026-05-04 to 2026-05-11")),
    lines=("first <line>", "second"),
    notes=("3 more like this were held back.",),
    link="https://dagster.example.com/runs/0123",
)
