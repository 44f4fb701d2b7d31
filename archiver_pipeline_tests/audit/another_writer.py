"""Another process that writes to a trail."""

import json
import sys
from pathlib import Path

from pydantic import SecretStr

from archiver_pipeline.config.effective import StoreSettings
from archiver_pipeline.config.enums import AddressingStyle, Encryption, StorageClass
from archiver_pipeline.domain.audit import AuditKind
from archiver_pipeline.storage.s3 import S3Store
from archiver_pipeline_tests.audit.trails import trail

if __name__ == "__main__":
    orders = json.load(sys.stdin)
    settings = StoreSettings(
        bucket=orders["bucket"],
        endpoint=orders["endpoint"],
        prefix=orders["prefix"],
        region=orders["region"],
        storage_class=StorageClass.STANDARD,
        encryption=Encryption.NONE,
        kms_key_id=None,
        multipart_threshold_bytes=64 << 20,
        access_key_id=orders["key"],
        secret_access_key=SecretStr(orders["secret"]),
        addressing_style=AddressingStyle.PATH,
        local_fallback_dir=Path("unused"),
    )
    writer = trail(S3Store(settings))
    for number in range(orders["entries"]):
        writer.record(AuditKind.override, number=f"{orders['writer']}-{number:03d}")
