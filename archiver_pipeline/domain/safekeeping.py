"""What a store says of how it keeps an object: encrypted by what, and until when nobody can delete it."""

from dataclasses import dataclass
from datetime import datetime

GOVERNANCE = "GOVERNANCE"
COMPLIANCE = "COMPLIANCE"
KMS_ALGORITHMS = ("aws:kms", "aws:kms:dsse")
SSE_S3_ALGORITHM = "AES256"


@dataclass(frozen=True, slots=True)
class StoredEncryption:
    """As the store answers a HEAD. No algorithm means that it does not say it encrypted."""

    algorithm: str | None = None
    kms_key: str | None = None

    def __str__(self) -> str:
        if not self.algorithm:
            return "no encryption"
        return f"{self.algorithm} with the key {self.kms_key}" if self.kms_key else self.algorithm


@dataclass(frozen=True, slots=True)
class ObjectRetention:
    """S3 Object Lock on one version of an object. `until` is aware."""

    mode: str
    until: datetime

    def covers(self, wanted: "ObjectRetention") -> bool:
        """Whether it is as strong and as long. Nobody can lift COMPLIANCE, so it is as good as GOVERNANCE."""
        return self.mode in (wanted.mode, COMPLIANCE) and self.until >= wanted.until

    def __str__(self) -> str:
        return f"{self.mode} until {self.until:%Y-%m-%d %H:%M} UTC"


def is_same_key(configured: str, answered: str | None) -> bool:
    """Whether the key that the store names is the configured one, which may be an ARN or only the end of one.

    AWS answers with the key's ARN whichever was sent. An alias is never the same: nothing says which key it is.
    """
    if not answered:
        return False
    if configured.startswith("arn:"):
        return answered == configured
    return answered == configured or answered.endswith((f":key/{configured}", f":kms:{configured}"))
