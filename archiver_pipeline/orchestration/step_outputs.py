"""What the ops of a run hand on, kept in the store, so that a re-execution on another machine finds it.

Dagster's default is a file in DAGSTER_HOME, which another pod does not have. JSON of known types rather than Dagster's
pickles: whoever can write to the bucket must not be able to make a run execute code of theirs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import ValidationError

from archiver_pipeline.codec.adapters import adapter_of
from archiver_pipeline.config.effective import StoreSettings
from archiver_pipeline.domain.layout import step_output_key
from archiver_pipeline.errors import ArchiverError
from archiver_pipeline.storage.s3 import ObjectExistsError, ObjectMissingError, S3Store

_MAX_RETRIES = 3
_RETRY_SECONDS = 5
_AGAIN = "nothing is lost: launch the run again, not from its failure"


class StepOutputsInStore(dg.IOManager):
    """Step outputs as documents below `{prefix}/_dagster/steps/`, by run, step and output. Nothing removes them."""

    def __init__(self, settings: StoreSettings) -> None:
        self._prefix = settings.prefix
        self._store = S3Store(settings)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write an output. Safe to repeat: the last one counts."""
        key = step_output_key(self._prefix, context.get_identifier())
        data = adapter_of(_kind(context)).dump_json(obj)
        with _told():
            self._write(key, data)
        context.add_output_metadata({"step_output": dg.MetadataValue.path(key)})

    def load_input(self, context: dg.InputContext) -> Any:
        """Read what an earlier step of this run, or of the run that it re-executes, wrote."""
        output = context.upstream_output
        if output is None:
            raise dg.Failure("this input comes from no step of a run")
        key = step_output_key(self._prefix, output.get_identifier())
        with _told():
            data = self._store.read_document(key)
        try:
            return adapter_of(_kind(context)).validate_json(data)
        except ValidationError as error:
            raise dg.Failure(
                f"{key} is not what this version of archiver_pipeline hands from step to step; {_AGAIN}",
                allow_retries=False,
            ) from error

    def _write(self, key: str, data: bytes) -> None:
        try:
            self._store.put_document(key, data)
        except ObjectExistsError:
            found = self._store.read_versioned(key)
            self._store.replace_document(key, data, etag=found[1] if found else None)


def _kind(context: dg.OutputContext | dg.InputContext) -> type:
    """The type that the op declares. Raises Failure for an op that declares none: nothing is guessed."""
    kind: Any = context.dagster_type.typing_type
    if not isinstance(kind, type) or kind is object:
        raise dg.Failure(f"{context.dagster_type.display_name} is no type that can be written as a document")
    return kind


@contextmanager
def _told() -> Iterator[None]:
    """Errors of the store in Dagster's words: the step is tried again, or the run fails and says why."""
    try:
        yield
    except ObjectMissingError as error:
        raise dg.Failure(f"{error.message}; {_AGAIN}", allow_retries=False) from error
    except ArchiverError as error:
        if error.transient:
            raise dg.RetryRequested(max_retries=_MAX_RETRIES, seconds_to_wait=_RETRY_SECONDS) from error
        raise dg.Failure(str(error), allow_retries=False) from error
