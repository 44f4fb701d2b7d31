"""Messages out of reports and errors. Pure: no clock, nothing is looked up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.filesize import decimal

from archiver_pipeline.domain.alert import Activity, Alert, AlertKind, Fact, Severity
from archiver_pipeline.domain.alert_memory import HeldBack
from archiver_pipeline.domain.alert_texts import error_words, next_steps, safety_words
from archiver_pipeline.domain.batch import Plan
from archiver_pipeline.domain.restore import RestoreOutcome, RestoreReport
from archiver_pipeline.domain.table import TableName
from archiver_pipeline.domain.validation import ValidationReport
from archiver_pipeline.engine.report import ArchiveReport
from archiver_pipeline.orchestration.history import Failure

_SHOWN = 10
_FAILED = {Activity.archive: "Archive", Activity.restore: "Restore", Activity.validate: "Validation"}


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Which run a message is about. `windows` names its partitions in words; `link` is None without dagster_url."""

    run_id: str | None = None
    windows: str = ""
    host: str = ""
    link: str | None = None

    @property
    def facts(self) -> tuple[Fact, ...]:
        named = (("Windows", self.windows), ("Run", self.run_id or ""), ("Host", self.host))
        return tuple(Fact(name, value) for name, value in named if value)


def failed(activity: Activity, table: TableName, failure: Failure, place: RunPlace) -> Alert:
    """An archive or a validation that did not do what it should."""
    options = table_options(table)
    again = f"archiver {'run' if activity is Activity.archive else 'validate'} {options}"
    steps = next_steps(failure.error, again, table=options)
    alert = _failed(activity, str(table), failure, place)
    return replace(alert, subject=str(table), next_steps=steps)


def restore_failed(database_id: str, table: TableName | None, failure: Failure, place: RunPlace) -> Alert:
    """A restore that did not do what it should; `table` is None when its target is not known."""
    alert = _failed(Activity.restore, f"{table or f'tables of {database_id}'}", failure, place)
    steps = next_steps(failure.error, "the same archiver restore", table=f"--database {database_id}")
    return replace(alert, subject=restore_subject(database_id), next_steps=steps)


def _failed(activity: Activity, name: str, failure: Failure, place: RunPlace) -> Alert:
    where = f" in its step {failure.step}" if failure.step else ""
    return Alert(
        kind=AlertKind.failed,
        severity=Severity.error,
        activity=activity,
        subject=name,
        reason=failure.error,
        title=f"{_FAILED[activity]} of {name} failed: {error_words(failure.error)}",
        happened=f"The run failed{where}: {failure.message}",
        safety=safety_words(activity, failure.step),
        facts=(Fact("Error", failure.error), *place.facts),
        link=place.link,
    )


def started(plan: Plan, place: RunPlace) -> Alert:
    """A run that has planned what it will do."""
    table, rows = plan.shape.name, f"{plan.eligible_rows:,}"
    return Alert(
        kind=AlertKind.started,
        severity=Severity.info,
        activity=Activity.archive,
        subject=str(table),
        title=f"Archiving {rows} rows of {table}",
        happened=f"Planned: {rows} rows older than {plan.cutoff} in {len(plan.batches):,} batches.",
        facts=place.facts,
        link=place.link,
    )


def archived(report: ArchiveReport, place: RunPlace) -> Alert:
    """A run that ended well, perhaps with rows left behind; or whose uploads failed and wait on the local disk."""
    if report.kept:
        return _kept(report, place)
    table, left = report.table, 0 if report.truncated else report.left_behind_rows
    title = f"Archived {report.rows:,} rows of {table}" if report.rows else f"Nothing to archive in {table}"
    batches = sum(window.batches for window in report.windows)
    return Alert(
        kind=AlertKind.succeeded,
        severity=Severity.warning if left else Severity.good,
        activity=Activity.archive,
        subject=str(table),
        title=f"{title}; {left:,} left behind" if left else title,
        happened=f"{batches:,} batches were read back, compared, and then deleted from the table."
        if report.rows
        else "The run found no eligible row in its windows.",
        safety=f"Yes. {left:,} eligible rows stay in the table: {report.left_behind_reason}." if left else "",
        next_steps=(f"Nothing, if they go with the next run; else look for old open transactions on {table}.",)
        if left
        else (),
        facts=(*_archive_facts(report), *place.facts),
        notes=tuple(report.warnings),
        link=place.link,
    )


def _kept(report: ArchiveReport, place: RunPlace) -> Alert:
    """The run itself did not fail, but its work did: nobody may sleep through that."""
    table, count = report.table, len(report.kept)
    batches = f"{count:,} batch{'' if count == 1 else 'es'}"
    return Alert(
        kind=AlertKind.failed,
        severity=Severity.error,
        activity=Activity.archive,
        subject=str(table),
        reason="kept",
        title=f"{batches} of {table} could not be uploaded",
        happened=f"The store did not take them; they are kept on the local disk. {report.rows:,} rows were archived.",
        safety="Yes. The rows of these batches are still in the table, and leave it only after an upload is proved.",
        next_steps=(
            f"See what is wrong with the store: archiver check {table_options(table)}",
            f"Upload them, or leave it to the next run: archiver upload-pending {table_options(table)}",
        ),
        facts=place.facts,
        lines=tuple(str(kept) for kept in report.kept[:_SHOWN]),
        link=place.link,
    )


def _archive_facts(report: ArchiveReport) -> tuple[Fact, ...]:
    ratio = f", {report.rows_bytes / report.object_bytes:.1f} times smaller" if report.object_bytes else ""
    per_second = report.rows / report.total_seconds if report.total_seconds else 0
    facts = {
        "Stored": f"{decimal(report.object_bytes)}{ratio}",
        "Table on disk": f"{decimal(report.table_bytes_before)} before, {decimal(report.table_bytes_after)} after"
        f" (vacuum: {report.vacuum})",
        "Duration": f"{report.total_seconds:,.1f} s, {per_second:,.0f} rows/s",
    }
    if report.protected_rows:
        facts["Protected"] = f"{report.protected_rows:,} rows, {report.protected_reason}"
    if report.truncated:
        facts["More to come"] = f"the run's limit was reached; {report.left_behind_rows:,} eligible rows follow"
    return tuple(Fact(name, value) for name, value in facts.items())


def far_from_usual(table: TableName, topics: Sequence[str], lines: Sequence[str], place: RunPlace) -> Alert:
    """A run that ended well and is not like the others. `topics` name what is unusual, `lines` say it in words."""
    return Alert(
        kind=AlertKind.threshold,
        severity=Severity.warning,
        activity=Activity.archive,
        subject=str(table),
        reason="+".join(sorted(topics)),
        title=f"Unusual run of {table}: {', '.join(topics)}",
        happened="The run succeeded, but it is not like this table's other runs:",
        lines=tuple(lines),
        safety="Yes. Every deleted row was proved in the store first.",
        next_steps=("Nothing at once. Find out what changed: the application, the database, or the schedule of runs.",),
        facts=place.facts,
        link=place.link,
    )


def restored(report: RestoreReport, place: RunPlace) -> Alert:
    """A restore that ended well, or that goes on when its archives are readable."""
    waiting = report.count(RestoreOutcome.waiting)
    archives = f"{report.count(RestoreOutcome.restored):,} archives"
    happened = f"{archives} from {report.source} were proved and merged; {report.skipped_rows:,} rows were skipped."
    if waiting:
        happened += f" {waiting:,} archives are being retrieved from a cold class, readable at about {report.ready_at}."
    return Alert(
        kind=AlertKind.succeeded,
        severity=Severity.good,
        activity=Activity.restore,
        subject=restore_subject(report.target.database),
        title=f"Restored {report.restored_rows:,} rows into {report.target}",
        happened=happened,
        next_steps=(f"Run the same restore again after {report.ready_at}, or start the sensor of the database.",)
        if waiting
        else (),
        facts=(
            Fact("Replaced", f"{report.replaced_rows:,} rows"),
            Fact("Protected until", str(report.protected_until or "not protected")),
            Fact("Duration", f"{report.seconds:,.1f} s"),
            *place.facts,
        ),
        notes=tuple(report.warnings),
        link=place.link,
    )


def validated(report: ValidationReport, place: RunPlace) -> Alert:
    """A validation that could look: clean, with findings, or with nothing to look at."""
    if report.findings:
        return _found(report, place)
    table = report.table
    archives = report.batches.get("receipted", 0)
    return Alert(
        kind=AlertKind.threshold if report.is_empty else AlertKind.succeeded,
        severity=Severity.warning if report.is_empty else Severity.good,
        activity=Activity.validate,
        subject=str(table),
        reason="empty" if report.is_empty else "",
        title=f"No archives of {table} to validate" if report.is_empty else f"Archives of {table} are valid",
        happened="Nothing was validated, so nothing is proved."
        if report.is_empty
        else f"{archives:,} archives agree with their documents; {report.read_objects:,} were read back.",
        next_steps=("If it was archived before: look at bucket and prefix. archiver list " + table_options(table),)
        if report.is_empty
        else (),
        facts=place.facts,
        link=place.link,
    )


def _found(report: ValidationReport, place: RunPlace) -> Alert:
    count = len(report.findings)
    more = count - _SHOWN
    lines = [f"{f.kind.value}: {f.subject}: {f.message} Next: {f.next_step}" for f in report.findings[:_SHOWN]]
    kinds = sorted({finding.kind.value for finding in report.findings})
    return Alert(
        kind=AlertKind.failed,
        severity=Severity.error,
        activity=Activity.validate,
        subject=str(report.table),
        reason="findings:" + "+".join(kinds),
        title=f"{count:,} finding{'' if count == 1 else 's'} in the archives of {report.table}: {', '.join(kinds)}",
        happened="The validation read old archives and found what should not be:",
        lines=(*lines, *([f"and {more:,} more"] if more > 0 else [])),
        safety="Not known for the archives named here, until each finding is settled. The validation changed nothing.",
        next_steps=(
            "Don't delete any object, and don't let a lifecycle rule do so.",
            f"See all findings, each with its next step: archiver validate {table_options(report.table)}",
        ),
        facts=place.facts,
        link=place.link,
    )


def could_not_look(table: TableName, error: str, message: str) -> Alert:
    """Nobody could ask the table what is due: no run was made."""
    options = table_options(table)
    return Alert(
        kind=AlertKind.failed,
        severity=Severity.error,
        activity=Activity.archive,
        subject=str(table),
        reason=error,
        title=f"{table} could not be asked what is due: {error_words(error)}",
        happened=f"No run was made: {message}",
        safety="Yes. Nothing was read, and nothing was deleted.",
        next_steps=next_steps(error, f"archiver run {options}", table=options),
        facts=(Fact("Table", str(table)), Fact("Error", error)),
    )


def look_subject(database_id: str) -> str:
    """What messages about looks of sensors and schedules are about."""
    return f"looks for due rows in {database_id}"


def not_looked(database_id: str, problems: Sequence[tuple[str, Exception]]) -> Alert:
    """A sensor or schedule could not ask tables what is due."""
    kinds = sorted({type(error).__name__ for _, error in problems})
    more = len(problems) - _SHOWN
    return Alert(
        kind=AlertKind.failed,
        severity=Severity.error,
        activity=Activity.archive,
        subject=look_subject(database_id),
        reason="+".join(kinds),
        title=f"{database_id} could not be asked what is due: {error_words(kinds[0])}",
        happened="The sensor or schedule made no run for:",
        lines=(*(f"{name}: {error}" for name, error in problems[:_SHOWN]), *([f"and {more} more"] if more > 0 else [])),
        safety="Yes. Nothing was read, and nothing was deleted.",
        next_steps=(
            f"What is wrong: archiver check --database {database_id}",
            "Nothing else: it asks again by itself.",
        ),
    )


def looked_again(database_id: str) -> Alert:
    """The all-clear to `not_looked`."""
    return Alert(
        kind=AlertKind.succeeded,
        severity=Severity.good,
        activity=Activity.archive,
        subject=look_subject(database_id),
        title=f"{database_id} can be asked again what is due",
        happened="The sensor or schedule could ask every table.",
    )


def held_back(held: Sequence[HeldBack]) -> Alert:
    """What quiet hours held back."""
    return Alert(
        kind=AlertKind.held_back,
        severity=Severity.info,
        activity=Activity.alerts,
        subject="quiet hours",
        title=f"{len(held):,} message{'' if len(held) == 1 else 's'} of the quiet hours",
        happened="None of them was a failure: those are sent at once.",
        lines=tuple(f"{one.at:%H:%M} UTC {one.title}" for one in sorted(held, key=lambda one: one.at)),
    )


def trial(host: str) -> Alert:
    """What `archiver alert test` sends."""
    return Alert(
        kind=AlertKind.test,
        severity=Severity.info,
        activity=Activity.alerts,
        subject="test",
        title="Test message of archiver",
        happened="Somebody wants to know whether alerts arrive here. They do: nothing happened, nothing is to be done.",
        facts=(Fact("Sent from", host),),
    )


def restore_subject(database_id: str) -> str:
    """What messages about restores are about: their targets may be tables that no configuration knows."""
    return f"restores into {database_id}"


def table_options(table: TableName) -> str:
    """The options that name the table on the command line."""
    return f"--database {table.database} --table {table.schema}.{table.table}"
