"""Checkpoints of finished batches on local disk, so that a repeated step resumes at the batch."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from archiver_pipeline.codec.adapters import adapter_of

Value = TypeVar("Value")


def write_checkpoint(path: Path, value: object) -> None:
    """Replace the checkpoint at once or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(adapter_of(type(value)).dump_json(value))
    draft.replace(path)


def read_checkpoint(path: Path, kind: type[Value]) -> Value | None:
    """The value of a checkpoint; None when there is none or it is damaged, and the batch is then done again."""
    try:
        return adapter_of(kind).validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
