"""What loads without a word."""

import pytest

from archiver_pipeline_tests.config.conftest import MINIMAL, with_database, with_s3, with_table


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL,
        with_s3("encryption: SSE-KMS\nkms_key_id: k"),
        with_s3("local_fallback_dir: /x"),
        with_table("lock_type: postgresql"),
        with_table("legal_hold: true"),
        f"{MINIMAL}legal_holds: {{enabled: true}}\n",
        with_table("lock_type: redis"),
        with_database("lock_type: file"),
        f"{MINIMAL}defaults: {{lock_type: file}}\n",
        f"{MINIMAL}restore_watermark: {{storage_type: both}}\n",
        f"{MINIMAL}monitoring: {{metrics_enabled: true, health_check_enabled: true}}\n",
        f"{MINIMAL}compliance: {{enforce_encryption: true}}\n",
    ],
)
def test_features_that_load_without_a_warning(load, text):
    assert load(text).warnings == ()
