"""A page of made records, and a real Chromium that looks at it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_leaderboard import policy, record

from benchmark.records import EqualFixed, Guarantee, Measured, Reported
from leaderboard import Leaderboard
from leaderboard.published import Dynamic, Published, load_published

HOSTILE = """</script><script>document.title='owned'</script><img src=x onerror="document.title='owned'">'"&"""
PROMISE = Guarantee(epsilon=0.005, delta=0.05, risk=f"drop {HOSTILE}")
NOT_REACHED = EqualFixed(timesteps=None, latency=None, accuracy=None, saving_latency=None)
PAPER = load_published()[0].source


def made_records() -> list[Any]:
    """Two tables: one with preludes, missing values, guarantees and hostile texts; one with a single record."""
    return [
        record(
            "qcfs",
            method_options={"levels": 4},
            policies=(
                policy(guarantee=PROMISE, selection="ltt", latency=9.125, accuracy=0.761),
                policy("margin", latency=8.0, accuracy=0.70, equal_fixed=NOT_REACHED, energy={"fp32": 1.0}),
                policy("entropy", latency=8.5, accuracy=0.761, guarantee=PROMISE, gap_closed=0.256),
            ),
            measured=Measured(
                static_seconds=2.0,
                dynamic_seconds=1.0,
                speedup=2.0,
                ideal_speedup=2.5,
                device="cpu",
                batch_size=1,
                images=1000,
                policy="margin",
                differing_images=0,
            ),
        ),
        record(
            "qcfs", method_options={"levels": 8}, accuracy=0.7701, policies=(policy(latency=10.5), policy("margin"))
        ),
        record("srp", prelude=4, flags=(f"Remark {HOSTILE}",), policies=(policy(f"own {HOSTILE}", latency=12.25),)),
        record("cos", status="oom", reason=f"out of memory {HOSTILE}"),
        record("qffs", model="vgg", policies=(), reported=Reported(accuracy=0.9, latency=8, source=HOSTILE)),
    ]


PUBLISHED = (
    Published(
        method="qcfs", dataset="digits", network="CNN", prelude=2, accuracy={8: 76.0, 64: 77.0}, source=PAPER, where="t"
    ),
    Published(
        method=HOSTILE,
        dataset="digits",
        network="cnn",
        dynamic=Dynamic(rule="margin", latency=7.5, accuracy=75.5),
        source=PAPER,
        where=HOSTILE,
        quoted=True,
    ),
    Published(method="other", dataset="cifar10", network="cnn", accuracy={8: 76.0}, source=PAPER, where="t"),
)


@pytest.fixture(scope="session")
def board() -> Leaderboard:
    return Leaderboard.from_records(made_records(), [f"a/b.json: {HOSTILE}"], published=PUBLISHED)


@pytest.fixture(scope="session")
def page(board: Leaderboard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as a file; the first record of the first table is linked."""
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    first = board.tables[0].records[0]
    board.write_html(path, {first.id: f"reports/{first.id}.html?a='\"<b>"})
    return path


@dataclass
class Browser:
    """Chromium, and what tests ask of it again and again."""

    driver: Any

    def open(
        self,
        page: Path,
        state: str = "",
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        script: bool = True,
    ) -> None:
        """Load the page anew."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.cdp("Emulation.setDeviceMetricsOverride", **size)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.cdp("Emulation.setEmulatedMedia", features=features)
        self.cdp("Emulation.setScriptExecutionDisabled", value=not script)
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(page.as_uri() + (f"#{state}" if state else ""))

    def cdp(self, command: str, **arguments: Any) -> Any:
        """A command of Chrome's own protocol."""
        return self.driver.execute_cdp_cmd(command, arguments)

    def js(self, script: str, *arguments: Any) -> Any:
        """The value of `return ...`."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str, inside: Any = None) -> list[Any]:
        """Every element of a selector."""
        return (inside or self.driver).find_elements("css selector", selector)

    def one(self, selector: str, inside: Any = None) -> Any:
        """The first element of a selector; fails without any."""
        return (inside or self.driver).find_element("css selector", selector)

    def rows(self, table: int = 0) -> list[Any]:
        """The rows of a table that are seen."""
        return [row for row in self.all("tbody tr", self.all("main table")[table]) if row.is_displayed()]

    def column(self, key: str, table: int = 0) -> list[str | None]:
        """The values by which the seen rows are sorted."""
        return self.js(
            "const table = document.querySelectorAll('main table')[arguments[1]];"
            "const number = [...table.tHead.rows[0].cells].findIndex((cell) => cell.dataset.key === arguments[0]);"
            "return [...table.tBodies[0].rows].map((row) => row.cells[number].dataset.value ?? null);",
            key,
            table,
        )

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What stands in the console."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A headless Chromium without network; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs Chromium and its driver (Debian: chromium, chromium-driver) on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # Root has no sandbox; the page has no network to be guarded from.
    unboxed = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", *unboxed):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    try:
        browser = Browser(running)
        browser.cdp("Network.enable")
        browser.cdp(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )
        yield browser
    finally:
        running.quit()


@pytest.fixture
def opened(chromium: Browser, page: Path) -> Callable[..., Browser]:
    """The page in the browser, loaded anew with the given state of its address, size and preferences."""

    def open_page(state: str = "", **options: Any) -> Browser:
        chromium.open(options.pop("page", page), state, **options)
        return chromium

    yield open_page
    chromium.cdp("Emulation.setScriptExecutionDisabled", value=False)
