"""Documents that decide whether rows may be deleted: read exactly as written, or refused."""

import json
from dataclasses import fields, replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver_pipeline.codec.documents import decode_document, encode_manifest, encode_mark
from archiver_pipeline.codec.versions import CTID, TABLEOID, XMIN, expand_xmin_runs, xmin_runs
from archiver_pipeline.domain.batch import Outcome
from archiver_pipeline.domain.manifest import Manifest, ManifestColumn, ManifestLeaf, Receipt, Superseded
from archiver_pipeline.errors import ManifestError

MARK = {
    "format_version": 1,
    "batch_id": "0123456789abcdef0123",
    "data_key": "p/db/t/x.jsonl.gz",
    "manifest_sha256": "00",
    "settled_by": "run",
    "run_id": "r",
    "settled_at": "2024-01-01T00:00:00+00:00",
}
RECEIPT = Receipt(
    **MARK,
    object_sha256="00",
    rows=2,
    rows_bytes=10,
    object_bytes=5,
    first_row_time="-infinity",
    last_row_time="2024-01-01 00:00:00+00",
    outcome=Outcome.deleted,
)
SUPERSEDED = Superseded(**MARK, reason="a row was locked")


def manifest():
    """A manifest with a value of the right type in every field."""
    values = {field.name: {int: 1, str: "x", bool: False}.get(field.type) for field in fields(Manifest)}
    values |= {
        "primary_key": ["id", "Ünï\n"],
        "columns": [ManifestColumn("id", "bigint", True, "native")],
        "keys": [[1, 2], ["a", "1"]],
        "xmin_runs": [[700, 2]],
        "leaf": ManifestLeaf("s", "t_2024", 1, "s", "t", "DEFAULT"),
    }
    return Manifest(**values)


DOCUMENTS = [
    (Manifest, manifest(), encode_manifest),
    (Receipt, RECEIPT, encode_mark),
    (Superseded, SUPERSEDED, encode_mark),
]
each_document = pytest.mark.parametrize(("kind", "document", "encode"), DOCUMENTS)


@each_document
def test_round_trip(kind, document, encode):
    assert decode_document(kind, encode(document), key="k") == document


@each_document
def test_a_document_ends_with_a_newline_and_is_plain_json(kind, document, encode):
    data = encode(document)
    assert data.endswith(b"\n")
    assert set(json.loads(data)) == {field.name for field in fields(kind)}


@each_document
def test_every_field_is_needed(kind, document, encode):
    for field in (one for one in fields(kind) if one.name != "leaf"):
        values = json.loads(encode(document))
        del values[field.name]
        with pytest.raises(ManifestError):
            decode_document(kind, json.dumps(values).encode(), key="k")


def test_a_manifest_without_a_leaf_is_written_as_before_there_were_any():
    plain = replace(manifest(), leaf=None)
    assert "leaf" not in json.loads(encode_manifest(plain))
    assert decode_document(Manifest, encode_manifest(plain), key="k") == plain


@each_document
def test_a_field_of_another_type_is_refused(kind, document, encode):
    for field in fields(kind):
        values = json.loads(encode(document)) | {field.name: {"un": "expected"}}
        with pytest.raises(ManifestError):
            decode_document(kind, json.dumps(values).encode(), key="k")


@each_document
def test_an_unknown_field_is_refused(kind, document, encode):
    values = json.loads(encode(document)) | {"compression": "none"}
    with pytest.raises(ManifestError, match="unknown fields: compression"):
        decode_document(kind, json.dumps(values).encode(), key="k")


@each_document
@pytest.mark.parametrize("version", [0, 2, None, "1", "latest"])
def test_an_unknown_version_is_refused(kind, document, encode, version):
    values = json.loads(encode(document)) | {"format_version": version}
    with pytest.raises(ManifestError, match="format version"):
        decode_document(kind, json.dumps(values).encode(), key="the-key")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"format_version": 1}'])
def test_what_is_no_document_is_refused(data):
    with pytest.raises(ManifestError, match="the-key"):
        decode_document(Receipt, data, key="the-key")


def test_a_receipt_is_no_manifest():
    with pytest.raises(ManifestError):
        decode_document(Manifest, encode_mark(RECEIPT), key="k")


@given(st.lists(st.sampled_from([3, 700, 701, 2**32 - 1]), max_size=50))
def test_runs_of_xmin_round_trip(xmins):
    versions = pa.table({TABLEOID: xmins, CTID: ["(0,1)"] * len(xmins), XMIN: pa.array(xmins, pa.int64())})
    runs = xmin_runs(versions)
    assert expand_xmin_runs(runs).to_pylist() == xmins
    assert len(runs) == sum(a != b for a, b in zip([None, *xmins], xmins, strict=False))
