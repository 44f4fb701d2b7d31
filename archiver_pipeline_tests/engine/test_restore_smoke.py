from collections import Counter
import pytest
from archiver_pipeline.config.enums import ObjectFormat

@pytest.mark.parametrize("fmt", list(ObjectFormat))
def test_round(archiving, audit, restoring, fmt):
    before = Counter(audit.table_rows())
    archiving.archive(format=fmt)
    assert len(audit.table_rows()) < before.total()
    report = restoring.restore()
    print(report)
    assert Counter(audit.table_rows()) == before
    again = restoring.restore()
    assert again.remembered == len(report.objects)
    again = restoring.restore(ignore_watermark=True)
    assert again.skipped_rows == report.restored_rows
    assert again.restored_rows == 0
