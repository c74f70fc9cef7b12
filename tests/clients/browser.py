"""A headless Chromium that types, clicks and reads on a page, and takes pictures of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 600


class Browser:
    """What a person does with a page of Gradio."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.wait(lambda: self.shown("//button[@role='tab']"))

    def wait(self, found: Any) -> Any:
        """What a function finds, once it finds anything."""
        deadline = time.monotonic() + SECONDS
        while not (result := found()):
            assert time.monotonic() < deadline, self.driver.find_element("tag name", "body").text
            time.sleep(0.1)
        return result

    def shown(self, path: str) -> list[Any]:
        return [element for element in self.driver.find_elements("xpath", path) if element.is_displayed()]

    def tabs(self) -> list[str]:
        return [element.text for element in self.shown("//button[@role='tab']") if element.text]

    def tab(self, title: str) -> None:
        next(one for one in self.shown("//button[@role='tab']") if one.text == title).click()

    def write(self, label: str, text: str) -> None:
        """Replace what stands in a box."""
        (box,) = self.shown(f"//label[.//span[normalize-space()='{label}']]//*[self::textarea or self::input]")
        box.send_keys("\ue009" + "a" + "\ue000")  # Ctrl-A
        box.send_keys(text)

    def press(self, name: str) -> None:
        (button,) = self.shown(f"//button[contains(@class, 'primary') and normalize-space()='{name}']")
        button.click()

    def text(self) -> str:
        boxes = [box.get_attribute("value") or "" for box in self.shown("//textarea")]
        return "\n".join([self.driver.find_element("tag name", "body").text, *boxes])

    def reads(self, words: str) -> str:
        """The text of the page, once it has these words."""
        return str(self.wait(lambda: words in self.text() and self.text()))

    def picture(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(path))


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium and its driver, without a screen."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1000"):
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
