"""A process that takes, asks for and gives back a lock as it is told: the keeper, pickled, and then one order a line.

Every order is answered with one line: `ok` and the token, or the error.
"""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

from archiver_pipeline.errors import ArchiverError, LockHeldError
from archiver_pipeline_tests.locks.keepers import Keeper

ROUNDS = 25


def main() -> None:
    keeper: Keeper = pickle.load(sys.stdin.buffer)
    lock = None
    for line in sys.stdin.buffer:
        order = line.decode().strip()
        try:
            if order == "acquire":
                lock = keeper.acquire()
            elif order == "require":
                lock.require_held()
            elif order == "release":
                lock.release()
            elif order == "child":
                subprocess.Popen(["sleep", "20"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            elif order == "contend":
                print(contend(keeper, Path(sys.argv[1])), flush=True)
                continue
            print(f"ok {lock.token}", flush=True)
        except ArchiverError as error:
            print(f"{type(error).__name__} {error}", flush=True)


def contend(keeper: Keeper, folder: Path) -> str:
    """Take the lock as often as others let us, and be alone each time. How often that was, and how often it was not."""
    taken = crowded = 0
    while taken < ROUNDS:
        try:
            lock = keeper.acquire()
        except LockHeldError:
            time.sleep(0.001)
            continue
        crowded += not is_alone(folder / "inside")
        taken += 1
        lock.release()
    return f"{taken} {crowded}"


def is_alone(inside: Path) -> bool:
    try:
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    time.sleep(0.001)
    inside.unlink()
    return True


if __name__ == "__main__":
    main()
