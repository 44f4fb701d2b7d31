"""Takes the screenshots in this folder: `archiver demo --ui`, looked at by a real browser.

    python docs/images/take.py            needs playwright (pip) and Chromium (chromium or google-chrome on the PATH)

It also launches a restore from the launchpad, and fails when that run does. Not one of the tests: look at the images.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ASSET = "/assets/shop/public/audit_log"
LOCATION = "/locations/archiver_pipeline.definitions"
SIZE = {"width": 1200, "height": 640}
START_SECONDS = 180
RUN_SECONDS = 90
RUNS = "{ runsOrError { ... on Runs { results { runId status jobName } } } }"
RESTORE = """ops:
  shop__restored:
    ops:
      select:
        config:
          table: audit_log
          start_date: "{start}"
          end_date: "{end}"
          conflict_strategy: skip
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, demo_ui(Path(folder) / "demo") as url, browser_page() as page:
        page.set_default_timeout(60_000)
        open_page(page, url)
        page.get_by_text("Hide navigation").click()
        take_graph(page, url)
        take_partitions(page, url)
        take_plots(page, url)
        take_run(page, url)
        take_restore(page, url)


def take_graph(page: Page, url: str) -> None:
    open_page(page, f"{url}/asset-groups")
    page.get_by_text("100% filled").first.wait_for()
    page.get_by_text("Never materialized").first.wait_for()
    save(page, "asset-graph")


def take_partitions(page: Page, url: str) -> None:
    open_page(page, f"{url}{ASSET}?view=partitions")
    page.get_by_text(a_monday().isoformat(), exact=True).first.click()
    page.get_by_text("compression_ratio").first.wait_for()
    save(page, "partitions")


def take_plots(page: Page, url: str) -> None:
    open_page(page, f"{url}{ASSET}?view=overview")
    page.get_by_role("button", name="Plots").click()
    page.get_by_text("delete_seconds", exact=True).first.scroll_into_view_if_needed()
    page.mouse.move(400, 400)
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(3_000)
    save(page, "plots")


def take_run(page: Page, url: str) -> None:
    [run] = [run for run in runs(url) if run["jobName"] == "__ASSET_JOB"]
    open_page(page, f"{url}/runs/{run['runId']}")
    page.get_by_text("RUN_SUCCESS").first.wait_for()
    # Higher, because a search field lies over the end of the chart.
    page.set_viewport_size(SIZE | {"height": 860})
    page.wait_for_timeout(1_500)
    save(page, "run")
    page.set_viewport_size(SIZE)


def take_restore(page: Page, url: str) -> None:
    open_page(page, f"{url}{LOCATION}/jobs/restore_shop/playground")
    page.locator(".CodeMirror").first.wait_for()
    config = RESTORE.format(start=a_monday(), end=a_monday() + timedelta(days=6))
    page.evaluate("text => document.querySelector('.CodeMirror').CodeMirror.setValue(text)", config)
    page.get_by_text("No errors").first.wait_for()
    save(page, "restore-launchpad")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url("**/runs/*")
    wait_for_success(url, page.url.rpartition("/")[2])


def a_monday() -> date:
    """A week of the demo that is archived: its rows are of the last 200 days and kept for 90."""
    day = date.today() - timedelta(days=140)
    return day - timedelta(days=day.weekday())


def open_page(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1_500)


def save(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.screenshot(path=HERE / f"{name}.png")
    print(f"{name}.png")


def runs(url: str) -> list[dict[str, Any]]:
    body = json.dumps({"query": RUNS}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]["runsOrError"]["results"]


def wait_for_success(url: str, run_id: str) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while (status := next(run["status"] for run in runs(url) if run["runId"] == run_id)) != "SUCCESS":
        if status in {"FAILURE", "CANCELED"} or time.monotonic() > deadline:
            sys.exit(f"the restore that was launched in the UI is {status}")
        time.sleep(1)


@contextlib.contextmanager
def browser_page() -> Iterator[Page]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser.new_page(viewport=SIZE)
        browser.close()


@contextlib.contextmanager
def demo_ui(folder: Path) -> Iterator[str]:
    """The demo with its UI, in a process group of its own, until the end of the block."""
    command = [str(Path(sys.executable).with_name("archiver")), "demo", "--ui", "--folder", str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"COLUMNS": "200"}
    )
    try:
        yield address(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + START_SECONDS
    for line in process.stdout:
        if line.startswith("Dagster UI: "):
            return line.split()[2]
        if time.monotonic() > deadline:
            break
    sys.exit("the demo's UI did not start")


if __name__ == "__main__":
    main()
