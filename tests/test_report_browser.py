"""The report in a real browser, wide and narrow: it fits, it is whole, and it asks the network for nothing."""

import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from rasura.report import page

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = [(1280, 900), (375, 812)]
SAMPLES: dict[str, Any] = runpy.run_path(str(Path(__file__).with_name("test_report.py")))


def long_names() -> dict[str, Any]:
    """A finding whose names are as long as names get."""
    made = SAMPLES["finding"](name="unlearning-method_with-a-name-that-does-not-break" * 2)
    made["data"]["classes"][1] = made["request"]["forget"] = "Donaudampfschifffahrtsgesellschaftskapitän" * 2
    made["models"]["model"]["training"] = {"file": "/a/very/long/path" * 12}
    return made


PAGES = {
    "one": lambda: [SAMPLES["finding"]()],
    "several": lambda: [SAMPLES["finding"](name=name) for name in ("damp", "finetune", "logit-mask")],
    "no references": lambda: [SAMPLES["without_references"]()],
    "long names": lambda: [
        long_names(),
        long_names() | {"verdict": "NOT FORGOTTEN", "where": "linear probe, head input"},
    ],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    assert CHROMIUM and CHROMEDRIVER
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {name: folder / f"{name}.html" for name in PAGES}
    for name, path in made.items():
        path.write_text(page(PAGES[name]()), encoding="utf-8")
    return made


def opened(browser: webdriver.Chrome, path: Path, size: tuple[int, int], scheme: str = "light") -> None:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme_feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme_feature})
    browser.get(path.as_uri())


def asked(browser: webdriver.Chrome, expression: str) -> Any:
    return browser.execute_script(f"return {expression}")  # pyright: ignore[reportUnknownMemberType]


def fits(browser: webdriver.Chrome) -> bool:
    return asked(browser, "document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", SIZES, ids=["wide", "narrow"])
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_and_is_whole(
    browser: webdriver.Chrome, files: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    opened(browser, files[name], size)
    assert asked(browser, "innerWidth") == size[0]
    assert fits(browser)
    verdict = browser.find_element(By.CSS_SELECTOR, ".verdict strong")
    assert verdict.is_displayed() and verdict.text
    figures = "[...document.querySelectorAll('figure svg')].map(one => one.getBoundingClientRect())"
    assert asked(browser, f"{figures}.length") >= 1
    assert asked(browser, f"{figures}.every(box => box.width > 250 && box.height > 100)")
    assert asked(browser, "[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    assert asked(browser, "document.images.length") > 0


@pytest.mark.parametrize("size", SIZES, ids=["wide", "narrow"])
@pytest.mark.parametrize("name", PAGES)
def test_details_open_on_a_click_and_still_fit(
    browser: webdriver.Chrome, files: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    opened(browser, files[name], size)
    for summary in browser.find_elements(By.TAG_NAME, "summary"):
        summary.click()
    assert asked(browser, "[...document.querySelectorAll('details')].every(one => one.open)")
    assert browser.find_element(By.CSS_SELECTOR, "details table").is_displayed()
    assert fits(browser)


def test_nothing_is_asked_of_the_network_and_nothing_complains(
    browser: webdriver.Chrome, files: dict[str, Path]
) -> None:
    browser.get_log("browser")  # forget what earlier pages said
    for path in files.values():
        opened(browser, path, SIZES[0])
        loaded = asked(browser, "performance.getEntriesByType('resource').map(one => one.name)")
        assert [one for one in loaded if not one.startswith("data:")] == []
    assert browser.get_log("browser") == []


def test_links_lead_to_the_models(browser: webdriver.Chrome, files: dict[str, Path]) -> None:
    opened(browser, files["several"], SIZES[0])
    for number in (3, 2, 1):
        asked(browser, "scrollTo(0, 0)")
        browser.find_element(By.CSS_SELECTOR, f"tbody a[href='#model-{number}']").click()
        top = asked(browser, f"document.getElementById('model-{number}').getBoundingClientRect().top")
        assert abs(top) < 2


def test_markup_in_names_stays_text(browser: webdriver.Chrome, tmp_path: Path) -> None:
    made = SAMPLES["finding"](name="<img src=x onerror=\"document.title='broken'\">")
    made["data"]["classes"][0] = "</text></svg><script>document.title='broken'</script>"
    path = tmp_path / "nasty.html"
    path.write_text(page([made]), encoding="utf-8")
    opened(browser, path, SIZES[0])
    assert browser.title.startswith("Forget cat")
    assert browser.find_element(By.TAG_NAME, "h2").text == made["name"]
    assert asked(browser, "document.scripts.length") == 0


CONTRAST = """
const seen = [];
const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * x + .7152 * y + .0722 * z;
};
const behind = one => {
  for (; one; one = one.parentElement) {
    const color = parse(getComputedStyle(one).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
};
const drawn = one => one.ownerSVGElement ? getComputedStyle(one).fill : getComputedStyle(one).color;
for (const one of document.querySelectorAll('body *:not(title):not(desc)')) {
  if (![...one.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
  const [a, b] = [light(parse(drawn(one))), light(behind(one))];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) seen.push([ratio, one.className.baseVal ?? one.className, one.textContent.slice(0, 40)]);
}
return JSON.stringify(seen);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(browser: webdriver.Chrome, files: dict[str, Path], scheme: str) -> None:
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3) for every text on the page, those of figures included."""
    opened(browser, files["several"], SIZES[0], scheme)
    assert json.loads(browser.execute_script(CONTRAST)) == []  # pyright: ignore[reportUnknownMemberType]
