"""Take the pictures of the browser pages, with Chromium, npm, selenium and Gradio installed.

::

    python docs/images/make.py
    python docs/images/make.py runs/tagger runs/translator

The second command takes those of your own checkpoints' pages: a picture of each tab, after its button was pressed.
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
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
PAGES = {"minibert-tiny": ("Attention",), "minigpt-tiny": ("Go on with a text",)}
"""Of which tabs of the Gradio page a picture is taken."""
BUSY = "//*[contains(@class, 'eta-bar') or contains(@class, 'progress-text') or contains(@class, 'generating')]"
"""What the Gradio page shows while it computes."""
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
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
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


@contextmanager
def gradio_page(checkpoint: str, home: Path) -> Iterator[str]:
    """The address of `hf-minibert demo`, while the block runs."""
    command = [sys.executable, "-m", "hf_minibert", "demo", "--model_name_or_path", checkpoint]
    log = home / "demo.log"
    settings = {"PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "0"}
    with log.open("w") as output:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + SECONDS
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text())
            time.sleep(0.2)
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def take_tabs(driver: Any, address: str, name: str, titles: tuple[str, ...] | None) -> None:
    """A picture of tabs of a Gradio page, or of all of them, with what they answer to the texts that stand there."""

    def shown(path: str) -> list[Any]:
        return [element for element in driver.find_elements(By.XPATH, path) if element.is_displayed()]

    driver.get(address)
    wait = WebDriverWait(driver, SECONDS)
    tabs = wait.until(lambda _: [tab.text for tab in shown("//button[@role='tab']") if tab.text])
    for title in titles or tabs:
        next(tab for tab in shown("//button[@role='tab']") if tab.text == title).click()
        button = wait.until(lambda _: shown("//button[contains(@class, 'primary')]"))[0]
        button.click()
        time.sleep(1)  # until the page says that it computes
        wait.until(lambda _: not shown(BUSY))
        time.sleep(1)  # what has arrived fades in
        driver.save_screenshot(str(HERE / f"page-{name}-{title.split()[0].lower()}.png"))


def main(checkpoints: list[str]) -> None:
    """Take all pictures, or those of the pages of some checkpoints."""
    with tempfile.TemporaryDirectory() as home, chromium() as driver:
        driver.set_window_size(900, 1060)
        for checkpoint in checkpoints or PAGES:
            with gradio_page(checkpoint, Path(home)) as address:
                take_tabs(driver, address, Path(checkpoint).name, None if checkpoints else PAGES[checkpoint])
        driver.set_window_size(900, 720)
        for model, picture in () if checkpoints else PICTURES.items():
            folder = Path(home) / model
            browser.write(model_folder(model), str(folder))
            with served(folder) as address:
                use(driver, address)
                driver.save_screenshot(str(HERE / picture))


if __name__ == "__main__":
    main(sys.argv[1:])
