"""Take the pictures of the browser pages: `python docs/images/make.py`, with Chromium, npm and selenium installed."""

import functools
import http.server
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from hf_minibert.assets import model_folder
from hf_minibert.export import browser

HERE = Path(__file__).parent
PICTURES = {"minibert-tiny": "demo-fill-mask.png", "minigpt-tiny": "demo-text-generation.png"}
SECONDS = 120


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on this machine, while the block runs."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def chromium() -> Iterator[Any]:
    """A Chromium without a window."""
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--window-size=900,720", "--force-color-profile=srgb"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options)
    try:
        yield driver
    finally:
        driver.quit()


def use(driver: Any, address: str, text: str | None = None) -> str:
    """Open a page, type a text if one is given, press the button, and return what the page answers.

    Raises:
        RuntimeError: the page tells of an error.
    """
    if address:
        driver.get(address)
    wait = WebDriverWait(driver, SECONDS)
    ready = "#run:not([disabled]), #trouble:not([hidden])"
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ready))
    if text is not None:
        field = driver.find_element(By.ID, "text")
        field.clear()
        field.send_keys(text)
    driver.find_element(By.ID, "run").click()
    wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, ready))
    if trouble := driver.find_element(By.ID, "trouble").text:
        raise RuntimeError(trouble)
    return str(driver.find_element(By.ID, "result").text)


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as home, chromium() as driver:
        for model, picture in PICTURES.items():
            folder = Path(home) / model
            browser.write(model_folder(model), str(folder))
            with served(folder) as address:
                use(driver, address)
                driver.save_screenshot(str(HERE / picture))


if __name__ == "__main__":
    main()
