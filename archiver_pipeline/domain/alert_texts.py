"""The words of failure messages: what an error is called, what became of rows, what to do next."""

from archiver_pipeline.domain.alert import Activity

_NAMES = {
    "AlertError": "an alert could not be sent",
    "ConfigError": "the configuration is wrong",
    "LockHeldError": "another run holds the table's lock",
    "LockLostError": "the table's lock was lost",
    "ManifestError": "a manifest or receipt can't be used",
    "NetworkError": "database or store can't be reached",
    "PermissionDeniedError": "permission denied",
    "PreflightError": "the environment is not ready",
    "ResourcesError": "disk, memory or connections ran out",
    "RunDied": "the run was killed",
    "SourceError": "PostgreSQL refused",
    "StoreError": "the object store refused",
    "VerificationError": "what was read back is not what was read from the table",
}
_BEFORE_DELETE = frozenset({"plan", "extract", "compress", "upload", "verify"})
_READ_STOPPED = "Yes. The run stopped before its delete step: every row that it read is still in the table."
_IN_DELETE = (
    "Yes. Each batch is either deleted, with its proof in the store, or rolled back and still in the table."
    " The next run settles what was open."
)
_AFTER_DELETE = "Yes. Every delete of this run was proved and finished; only the vacuum or the report after it failed."
_ANYWHERE = (
    "Yes. Rows leave the table only after their copy was proved, batch by batch. The next run settles"
    " the batch that was open."
)
_RESTORE = (
    "Yes. An archive is merged whole or not at all, and none was removed from the store."
    " Archives that were restored before the failure stay restored."
)
_VALIDATE = "A validation only reads: nothing was changed. It could not look, so nothing is proved either."


def error_words(error: str) -> str:
    """An error class in words."""
    return _NAMES.get(error, f"unexpected error {error}")


def safety_words(activity: Activity, step: str | None) -> str:
    """What became of rows, by the step that failed; None when it is not known."""
    if activity is Activity.restore:
        return _RESTORE
    if activity is Activity.validate:
        return _VALIDATE
    if step is None:
        return _ANYWHERE
    if step == "report":
        return _AFTER_DELETE
    return _READ_STOPPED if step in _BEFORE_DELETE else _IN_DELETE


def next_steps(error: str, again: str, *, table: str) -> tuple[str, ...]:
    """What to do about an error. `again` is the command that tries again, `table` its options that name the table."""
    run_again = f"Run it again: {again}"
    by_error = {
        "ConfigError": ("Mend what the error names, then: archiver check",),
        "LockHeldError": (
            "Wait for the run that the error names, or stop it. Nothing needs to be unlocked by hand.",
            run_again,
        ),
        "LockLostError": (
            "Connect past a connection pooler; a restart or failover of the database does this once.",
            run_again,
        ),
        "ManifestError": ("Don't delete any object. See what the store holds: archiver list " + table, run_again),
        "NetworkError": (f"Several tries failed. What can't be reached: archiver check {table}", run_again),
        "PermissionDeniedError": (f"Grant what the error names, then: archiver check {table}",),
        "PreflightError": (f"What is missing, and how to mend it: archiver check {table}",),
        "ResourcesError": (
            "Free what the error names: local disk (staging_dir, max_staged_bytes) or connections.",
            run_again,
        ),
        "RunDied": (
            "Find out why: out of memory, a node that went away, a deployment. Dagster's log of the run ends there.",
            run_again,
        ),
        "VerificationError": (
            "Look at the store: its disk, a proxy, a lifecycle rule. Don't delete any object.",
            f"Prove what was archived before: archiver validate {table}",
            run_again,
        ),
    }
    return by_error.get(error, ("Read the error in the run's log.", run_again))
