"""The page of the chatbot in Chromium, headless."""

import re
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
if not (EXAMPLES / "chatbot").exists():
    pytest.skip("needs the source tree", allow_module_level=True)
for name in ("starlette", "uvicorn", "selenium"):
    pytest.importorskip(name, reason=f"needs {name}")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))

from chatbot import network, server  # noqa: E402
from chatbot.talker import Talker  # noqa: E402
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # selenium's sockets
]

HTML = '<img src="x" onerror="document.title=1"> & <b>bold</b>'
PAIRS = [("Hello", HTML), ("Who are you?", "I am a test."), ("What's up?", "Nothing much.")]
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update --window-size=1100,900"""


@pytest.fixture(scope="module")
def talker():
    size = {"width": 12, "units": 16, "dropout": 0.0, "noise": 0.0}
    model, questions, answers = network.train(PAIRS, epochs=200, verbose=0, **size)
    return Talker(model, questions, answers, {"starters": ["What's up?"], "corpus": "a test"})


class Site:
    """A server in a thread, which can be stopped in the middle of a test."""

    def __init__(self, talker, **options):
        self.server = server.Server(server.make_app(talker, **options), port=0)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = self.server.url

    def stop(self):
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def site(talker):
    site = Site(talker)
    yield site
    site.stop()


@pytest.fixture
def page(browser, site):
    browser.get(site.url)
    browser.execute_script("sessionStorage.clear()")
    browser.refresh()
    wait(browser, lambda: texts(browser, "#starters button"))
    return browser


def wait(browser, condition):
    WebDriverWait(browser, 20, 0.02).until(lambda _: condition())


def texts(browser, selector):
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def field(browser):
    return browser.find_element(By.ID, "question")


def ask(browser, question):
    """Type a question, and return the answer that comes."""
    before = len(texts(browser, ".theirs button"))
    field(browser).send_keys(question + Keys.ENTER)
    wait(browser, lambda: len(texts(browser, ".theirs button")) > before)
    return texts(browser, ".theirs .text")[-1]


def severe(browser):
    return [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]


def test_ask_and_reload(page):
    assert ask(page, "Who are you?") == "I am a test."
    assert ask(page, "what's up") == "Nothing much."
    assert texts(page, "#map thead th span") == ["what", "is", "up", "probability"]
    assert texts(page, "#map tbody th") == ["Nothing", "much", ".", "(end)"]
    assert texts(page, "#best .chosen span")[0] == "Nothing much."
    assert re.fullmatch(r"\d+ %", texts(page, "#best .percent")[0])
    assert page.find_element(By.ID, "status").get_property("textContent") == (
        "Chatbot: Nothing much."
    )
    assert page.switch_to.active_element == field(page)
    page.refresh()
    wait(page, lambda: len(texts(page, ".theirs button")) == 2)
    assert texts(page, ".theirs .text") == ["I am a test.", "Nothing much."]
    page.find_elements(By.CSS_SELECTOR, ".theirs button")[0].click()
    assert page.find_element(By.ID, "asked").text == "Who are you?"
    page.find_element(By.ID, "clear").click()
    assert not texts(page, "#turns li") and "What's up?" in texts(page, "#starters button")
    assert not severe(page)


def test_texts_are_no_html(page):
    answer = ask(page, "Hello")
    assert answer.startswith("<img") or answer.startswith("< img")
    assert ask(page, "<i>who</i> <script>document.title=2</script>")
    assert (
        texts(page, ".mine span:last-child")[-1] == "<i>who</i> <script>document.title=2</script>"
    )
    assert not page.find_elements(By.CSS_SELECTOR, "#turns img, #turns i, #turns script, #best img")
    assert page.title == "npdl chatbot"
    assert not severe(page)


def test_by_keyboard_only(page):
    def press(*keys):
        page.switch_to.active_element.send_keys(*keys)
        return page.switch_to.active_element

    page.execute_script("document.body.tabIndex = -1; document.body.focus()")
    press(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the question"
    assert press(Keys.ENTER, Keys.TAB)  # to the question, and on to the button
    field(page).send_keys("what's up")
    assert press(Keys.TAB).text == "Send"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(page, lambda: texts(page, ".theirs button"))
    assert page.switch_to.active_element == field(page)
    press(Keys.TAB)
    mode = press(Keys.TAB)
    assert mode.get_attribute("value") == "greedy"
    assert press(Keys.ARROW_RIGHT).get_attribute("value") == "sampled"
    slider = press(Keys.TAB)
    assert slider.get_attribute("id") == "temperature"
    press(Keys.ARROW_RIGHT)
    assert page.find_element(By.ID, "degrees").text == "0.6"
    assert ask(page, "who are you")


def test_starters_and_sampling(page):
    page.find_element(By.CSS_SELECTOR, "#starters button").click()
    wait(page, lambda: texts(page, ".theirs button"))
    assert texts(page, ".mine span:last-child") == ["What's up?"]
    page.find_element(By.CSS_SELECTOR, "input[value=sampled]").click()
    slider = page.find_element(By.ID, "temperature")
    slider.send_keys(Keys.END)
    assert page.find_element(By.ID, "degrees").text == "1.5"
    assert ask(page, "who are you")


def error_message(browser):
    wait(browser, lambda: browser.find_element(By.ID, "error").is_displayed())
    return browser.find_element(By.ID, "error").text


def test_errors_are_said_and_mended(page, site):
    field(page).send_keys(Keys.ENTER)
    assert error_message(page) == "Please type a question first."
    assert ask(page, "who are you")
    assert not page.find_element(By.ID, "error").is_displayed()
    field(page).send_keys("x " * 25 + Keys.ENTER)
    wait(page, lambda: "at most 20 words" in error_message(page))
    assert field(page).get_property("value").startswith("x x")  # it can be mended
    field(page).clear()
    field(page).send_keys("y" * 300)
    assert len(field(page).get_property("value")) == server.LONGEST
    assert page.find_element(By.ID, "count").text == "200 of 200 characters"
    field(page).clear()
    site.stop()
    field(page).send_keys("who are you" + Keys.ENTER)
    wait(page, lambda: "Is it still running?" in error_message(page))
    assert field(page).get_property("value") == "who are you"
    assert len(texts(page, ".theirs")) == 1


def test_too_fast(browser, talker):
    site = Site(talker, rate=0.01, burst=1)
    try:
        browser.get(site.url)
        assert ask(browser, "who are you")
        field(browser).send_keys("and now" + Keys.ENTER)
        assert "too fast" in error_message(browser)
    finally:
        site.stop()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1100])
def test_colours_and_widths(page, scheme, width):
    """Nothing overflows the page, and text has enough contrast."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        assert ask(page, "what's up")
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
        colours = page.execute_script(
            """const style = getComputedStyle(document.documentElement);
            return ["ink", "soft", "accent", "bad", "card", "theirs", "mine", "bad-back", "back"]
                .map((name) => [name, style.getPropertyValue("--" + name).trim()]);"""
        )
        light = {name: luminance(colour) for name, colour in colours}
        assert (light["card"] > 0.5) == (scheme == "light")
        for front in ("ink", "soft", "accent"):
            for back in ("card", "back"):
                assert contrast(light[front], light[back]) >= 4.5, (front, back)
        for front, back in [("ink", "mine"), ("ink", "theirs"), ("bad", "bad-back")]:
            assert contrast(light[front], light[back]) >= 4.5, (front, back)
        assert contrast(light["accent"], light["theirs"]) >= 4.5
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a, b):
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)
