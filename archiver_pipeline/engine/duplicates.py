"""Finds row versions that lie in two receipted objects, with no more in memory than windows that overlap."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from archiver_pipeline.domain.manifest import Manifest
from archiver_pipeline.domain.validation import Finding, FindingKind, Severity

_BATCH = "_batch"
_NEXT_STEP = (
    "keep both objects; the rows are in both, so restore only one of the two, and report it: this must never happen"
)


@dataclass(frozen=True, slots=True)
class ArchivedVersions:
    """The row versions of one receipted batch: `versions` holds xmin and key columns."""

    data_key: str
    system_identifier: str
    window_start: datetime
    window_end: datetime
    versions: pa.Table

    @classmethod
    def of_manifest(cls, manifest: Manifest, versions: pa.Table) -> "ArchivedVersions":
        """Raises ValueError when the manifest's window is no time range."""
        return cls(
            data_key=manifest.data_key,
            system_identifier=manifest.system_identifier,
            window_start=datetime.fromisoformat(manifest.window_start),
            window_end=datetime.fromisoformat(manifest.window_end),
            versions=versions,
        )


class DuplicateSearch:
    """Takes batches in the order of their windows' starts; compares those whose windows overlap.

    A row version has one timestamp, so two objects that share it are of windows that overlap, also when the table's
    window unit was changed in between. Versions of different clusters, and keys of other columns, are not comparable.
    """

    def __init__(self) -> None:
        self._group: list[ArchivedVersions] = []
        self._group_end: datetime | None = None

    def add(self, batch: ArchivedVersions) -> Iterator[Finding]:
        """Take the next batch; yields what the windows that end before it have twice."""
        if self._group_end is not None and batch.window_start >= self._group_end:
            yield from self.finish()
        self._group.append(batch)
        self._group_end = max(self._group_end or batch.window_end, batch.window_end)

    def finish(self) -> Iterator[Finding]:
        """Compare what is left. Safe to repeat."""
        group, self._group, self._group_end = self._group, [], None
        comparable: dict[tuple[str, tuple[tuple[str, str], ...]], list[ArchivedVersions]] = {}
        for batch in group:
            columns = tuple((field.name, str(field.type)) for field in batch.versions.schema)
            comparable.setdefault((batch.system_identifier, columns), []).append(batch)
        for batches in comparable.values():
            yield from _duplicates(batches)


def _duplicates(batches: list[ArchivedVersions]) -> Iterator[Finding]:
    names = batches[0].versions.column_names
    numbered = [
        batch.versions.append_column(_BATCH, pa.array([number] * batch.versions.num_rows, pa.int32()))
        for number, batch in enumerate(batches)
    ]
    counted = (
        pa.concat_tables(numbered)
        .group_by(names, use_threads=False)
        .aggregate([(_BATCH, "count"), (_BATCH, "min"), (_BATCH, "max")])
    )
    twice = counted.filter(pc.greater(counted[f"{_BATCH}_count"], 1))
    pairs = twice.group_by([f"{_BATCH}_min", f"{_BATCH}_max"]).aggregate([(f"{_BATCH}_count", "count")])
    for pair in pairs.to_pylist():
        first, second = batches[pair[f"{_BATCH}_min"]], batches[pair[f"{_BATCH}_max"]]
        rows = pair[f"{_BATCH}_count_count"]
        yield Finding(
            FindingKind.duplicated,
            Severity.finding,
            second.data_key,
            f"{rows} of its row versions are also in {first.data_key}"
            if first is not second
            else f"{rows} of its row versions are in it more than once",
            _NEXT_STEP,
        )
