"""PostgreSQL 15 with pg_repack out of Debian's packages, unpacked below .cache: nothing is installed, nobody is root.

python -m archiver_pipeline_tests.repack.debian     downloads and unpacks them
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MAJOR = 15
PACKAGES = (f"postgresql-{MAJOR}", f"postgresql-client-{MAJOR}", f"postgresql-{MAJOR}-repack", "libpq5")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "debian"
SECONDS = 300
_ROOT, _STAMP = "root", "packages"
_PROGRAMS = Path("usr", "lib", "postgresql", str(MAJOR), "bin")


def unpacked_root() -> Path:
    """The folder that stands for /, downloaded at first use; many processes may ask.

    Raises RuntimeError where apt has no such packages.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = CACHE / _STAMP
        if not stamp.exists() or stamp.read_text() != " ".join(PACKAGES):
            _unpack(CACHE / _ROOT)
            stamp.write_text(" ".join(PACKAGES))
    return CACHE / _ROOT


def programs_in(root: Path) -> Path:
    """Where the programs are; PostgreSQL finds its other files from there."""
    return root / _PROGRAMS


def libraries_in(root: Path) -> list[Path]:
    """Folders with libpq, for machines that have none."""
    return [path.parent for path in root.glob("usr/lib/*/libpq.so.5")]


def readable_copy(root: Path, into: Path) -> Path:
    """A copy that the account of the servers can read, wherever the repository is."""
    copy = into / _ROOT
    shutil.copytree(root, copy, symlinks=True)
    into.chmod(0o755)
    return copy


def _unpack(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        _download(Path(folder))
        for package in Path(folder).glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(root)], root.parent)
    shutil.rmtree(programs_in(root).parent / "lib" / "bitcode", ignore_errors=True)


def _download(folder: Path) -> None:
    """With the lists that apt has; with lists of our own when it has none, or old ones."""
    try:
        _run(["apt-get", "download", *PACKAGES], folder)
    except RuntimeError:
        own = [f"-o=Dir::State::lists={CACHE}/lists", f"-o=Dir::Cache={CACHE}/archives", "-o=APT::Sandbox::User=root"]
        for made in ("lists/partial", "archives/partial"):
            (CACHE / made).mkdir(parents=True, exist_ok=True)
        _run(["apt-get", *own, "-qq", "update"], folder)
        _run(["apt-get", *own, "download", *PACKAGES], folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, check=False, capture_output=True, text=True, timeout=SECONDS, env=os.environ
        )
    except FileNotFoundError as error:
        raise RuntimeError(f"{command[0]} is not here: these tests need Debian's apt and dpkg") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    print(unpacked_root(), file=sys.stderr)
