"""The page as a person uses it, in a headless Chromium, served by the command itself."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from explore_helpers import bad_files, png
from PIL import Image

from tests.cli.cli_helpers import exported


@contextlib.contextmanager
def serving(model, folder):
    """The process of the command, and the link that it prints."""
    command = [sys.executable, "-m", "stylegan_lightning.cli.main", "explore", str(model), "--no-open", "--port", "0"]
    folder.mkdir(exist_ok=True)
    command += ["--store", str(folder)]
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        link = server.stdout.readline().strip()
        yield server, link
        server.terminate()
    assert link.partition("token=")[2] not in (folder / "log").read_text()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with serving(exported(folder / "tiny faces.safetensors"), folder / "kept") as (_, place):
        yield place


@pytest.fixture
def open_page(browser, address):
    contexts, problems = [], []

    def go(link="", width=1280, height=800, refusals=False, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda m: ("status of 4" in m.text and refusals) or problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        own = (address.partition("?")[0], "blob:", "data:")
        page.on("request", lambda r: r.url.startswith(own) or problems.append(r.url))
        page.goto(f"{address}{link}")
        settled(page)
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []


def until(page, expression, argument=None, seconds=30):
    """Waits for it to be true. The page's policy forbids `wait_for_function`, which evaluates text."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, f"{expression} {argument}: {page.inner_text('#status')}"
        page.wait_for_timeout(20)


def settled(page):
    """The link of the picture that is shown, once it is the one of the address bar."""
    until(page, "document.getElementById('picture').dataset.state === location.hash.slice(1)")
    return page.evaluate("location.hash.slice(1)")


def shown(page):
    settled(page)
    data = page.evaluate(
        """() => { const p = document.getElementById('picture'), c = document.createElement('canvas');
        c.width = c.height = p.naturalWidth; c.getContext('2d').drawImage(p, 0, 0);
        return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data] }"""
    )
    return np.array(data)


def slide(page, selector, value):
    page.locator(selector).fill(str(value))
    page.locator(selector).dispatch_event("change")
    return settled(page)


def test_sliders_change_the_picture_and_undo_brings_it_back(open_page):
    page = open_page("#a=5")
    assert "tiny faces" in page.title() and "16 × 16" in page.inner_text("#facts")
    first = shown(page)
    assert slide(page, "#psi", 0.3) == "a=5&psi=0.3"
    truncated = shown(page)
    assert not np.array_equal(first, truncated)
    assert slide(page, "#move-0", 2) == "a=5&psi=0.3&d=sefa0:2"
    assert not np.array_equal(truncated, shown(page))
    page.click("#undo")
    assert settled(page) == "a=5&psi=0.3" and np.array_equal(truncated, shown(page))
    page.click("#undo")
    assert settled(page) == "a=5" and np.array_equal(first, shown(page)) and page.locator("#undo").is_disabled()
    page.click("#redo")
    assert settled(page) == "a=5&psi=0.3" and page.input_value("#psi") == "0.3"
    assert page.locator("#history button").count() == 3
    page.locator("#history button").nth(2).click()
    assert settled(page) == "a=5&psi=0.3&d=sefa0:2"
    page.dblclick("#move-0")
    assert settled(page) == "a=5&psi=0.3"


def test_dragging_draws_on_the_way_and_is_one_step(open_page):
    page = open_page("#a=5")
    before = page.locator("#history button").count()
    box = page.locator("#psi").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    page.mouse.down()
    for part in (0.7, 0.5, 0.3):
        page.mouse.move(box["x"] + box["width"] * part, box["y"] + box["height"] / 2)
        settled(page)
    drawn = page.evaluate("performance.getEntriesByType('resource').filter((e) => e.name.includes('psi=')).length")
    page.mouse.up()
    settled(page)
    assert drawn >= 2 and page.locator("#history button").count() == before + 1


def test_mixing_strip_and_swap(open_page):
    page = open_page("#a=1")
    assert page.locator("#mix").is_disabled() and page.locator("#strip").is_hidden()
    page.fill("#seed-b", "2")
    page.press("#seed-b", "Enter")
    assert settled(page) == "a=1&b=2&mix=0.5"
    page.click("#take-coarse")
    link = settled(page)
    assert re.fullmatch(r"a=1&b=2&mix=1(,1)*(,0)+", link)
    mixed = shown(page)
    page.click("#swap")
    assert settled(page).startswith("a=2&b=1&mix=0") and np.array_equal(mixed, shown(page))
    until(page, "[...document.querySelectorAll('#strip img')].every((i) => i.naturalWidth)")
    page.locator("#strip button").last.click()
    assert settled(page) == "a=2&b=1&mix=1"
    page.locator("summary").click()
    assert slide(page, "#layer-1", 0.25).startswith("a=2&b=1&mix=1,0.25,1")
    page.click("#none-b")
    assert settled(page) == "a=2"


def test_a_link_brings_the_picture_back(open_page):
    page = open_page("#a=1&b=2&psi=0.7&mix=0.3&d=sefa1%3A-1.5")
    link, picture = settled(page), shown(page)
    again = open_page(f"#{link}")
    assert settled(again) == link and np.array_equal(picture, shown(again))
    assert again.input_value("#psi") == "0.7" and again.input_value("#mix") == "0.3"
    again.evaluate("location.hash = 'a=9'")
    until(again, "document.getElementById('picture').dataset.state === 'a=9'")
    again.click("#undo")
    assert settled(again) == link


def test_keys(open_page):
    page = open_page("#a=5")
    page.keyboard.press("ArrowRight")
    assert settled(page) == "a=6"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert settled(page) == "a=4"
    page.keyboard.press("u")
    assert settled(page) == "a=5"
    page.keyboard.press("Shift+U")
    page.keyboard.press("Control+z")
    assert settled(page) == "a=5"
    page.keyboard.press("r")
    page.keyboard.press("b")
    assert re.fullmatch(r"a=\d+&b=\d+&mix=0.5", settled(page))
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("r")
    page.keyboard.press("Escape")
    page.focus("#psi")
    page.keyboard.press("ArrowLeft")
    assert "psi=0.95" in settled(page)
    page.fill("#seed-a", "7")
    page.focus("#seed-a")
    page.keyboard.press("r")  # typed into a field, it is no key of the page
    page.keyboard.press("Tab")
    assert settled(page).startswith("a=7&")
    page.fill("#seed-a", "-3")
    page.keyboard.press("Tab")
    assert "whole number" in page.inner_text("#status") and settled(page).startswith("a=7&")


def test_everything_is_reached_by_tab(open_page):
    page = open_page("#a=1&b=2&mix=0.5")
    wanted = {"help", "random", "png", "kind", "seed-a", "random-b", "mix", "psi", "move-0", "still", "file"}
    seen = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id"))
    assert wanted <= seen


def test_saving(open_page):
    page = open_page("#a=3", refusals=True)
    with page.expect_download() as saved:
        page.click("#png")
    assert saved.value.suggested_filename == "a_3.png"
    assert Image.open(saved.value.path()).size == (16, 16)
    with page.expect_download() as saved:
        page.click("#codes")
    assert saved.value.suggested_filename.endswith(".safetensors")
    with open(saved.value.path(), "rb") as file:
        content = file.read()
    page.set_input_files("#file", {"name": "back.safetensors", "mimeType": "", "buffer": content})
    until(page, "location.hash.startsWith('#a=w')")
    assert np.array_equal(shown(page), shown(open_page("#a=3")))
    page.click("#film")
    until(page, "document.getElementById('status').textContent.includes('second picture')")


def test_saving_a_film(open_page):
    page = open_page("#a=3&b=4&mix=0.5")
    page.select_option("#kind", "gif")
    with page.expect_download() as saved:
        page.click("#film")
    assert Image.open(saved.value.path()).n_frames > 10


def test_a_film_is_cancelled(open_page):
    page = open_page("#a=3&b=4&mix=0.5", refusals=True)
    page.select_option("#kind", "gif")
    page.select_option("#seconds", "8")
    page.click("#film")
    until(page, "document.getElementById('film').textContent === 'Cancel film'")
    until(page, "document.getElementById('status').textContent.includes('of 192')")
    page.keyboard.press("ArrowRight")  # the page goes on
    assert settled(page).startswith("a=4")
    page.click("#film")
    until(page, "document.getElementById('status').textContent.includes('the film was cancelled')")
    assert page.inner_text("#film") == "Save film"
    page.select_option("#seconds", "2")
    with page.expect_download():
        page.click("#film")


def test_the_token_is_in_no_address_and_out_of_reach_of_scripts(open_page, browser, address):
    page = open_page("#a=5")
    token = address.partition("token=")[2]
    assert (
        len(token) >= 32
        and page.evaluate("[location.href, document.cookie, document.referrer].join()").count(token) == 0
    )
    assert page.url.endswith("/#a=5") and page.evaluate("history.length") <= 2
    asked = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name).join()")
    assert "api/image" in asked and token not in asked
    (cookie,) = page.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Lax"
    page.goto(f"{address.partition('?')[0]}?shared#a=7")  # a link of somebody, in a browser that has the cookie
    assert settled(page) == "a=7"
    stranger = browser.new_page()
    assert stranger.goto(f"{address.partition('?')[0]}#a=7").status == 401 and "token" in stranger.inner_text("body")
    stranger.close()


def test_a_photo_is_projected_with_live_progress(open_page):
    page = open_page("#a=1")
    page.set_input_files("#file", {"name": "me.png", "mimeType": "image/png", "buffer": png(40)})
    page.wait_for_selector("#jobs li[data-state=running]")
    page.wait_for_selector("#jobs li[data-state=done]", timeout=120_000)
    asked = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert any("preview.png?step=" in name for name in asked), "pictures on the way"
    link = settled(page)
    assert link.startswith("a=w") and "dB" in page.inner_text("#jobs") and page.inner_text(".kept >> nth=0") == "me"
    page.click("#undo")
    assert settled(page) == "a=1"
    page.get_by_role("button", name="Use as B").click()
    assert settled(page).startswith("a=1&b=w")
    assert slide(page, "#move-0", 1).endswith("d=sefa0:1")


def test_bad_files_are_refused_in_plain_words(open_page):
    page = open_page("#a=1", refusals=True)
    before = shown(page)
    for name, (content, why) in bad_files().items():
        page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
        until(page, "(n) => document.getElementById('upload-error').textContent.startsWith(n)", name)
        said = page.inner_text("#upload-error")
        assert why in said and len(said) < 300 and "Traceback" not in said, said
    assert page.locator("#jobs li").count() == 0 and np.array_equal(before, shown(page))
    page.set_input_files("#file", {"name": "good.png", "mimeType": "image/png", "buffer": png(40)})
    page.wait_for_selector("#jobs li")
    assert page.locator("#upload-error").is_hidden()
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("#jobs li[data-state=cancelled]", timeout=60_000)


def test_closing_in_the_middle_frees_the_line_and_tabs_are_apart(open_page):
    page, other = open_page("#a=1"), open_page("#a=2")
    page.set_input_files("#file", [{"name": f"{i}.png", "mimeType": "", "buffer": png(40, i)} for i in range(3)])
    page.wait_for_selector("#jobs li[data-state=running]", timeout=60_000)
    assert other.locator("#jobs li").count() == 0
    start = time.monotonic()
    for value in (0.2, 0.4, 0.6):
        assert slide(other, "#psi", value) == f"a=2&psi={value}"
    assert time.monotonic() - start < 20
    page.close(run_before_unload=False)
    other.set_input_files("#file", {"name": "mine.png", "mimeType": "", "buffer": png(40, 9)})
    other.wait_for_selector("#jobs li[data-state=done]", timeout=120_000)
    assert settled(other).startswith("a=w")


def test_on_a_phone(open_page):
    page = open_page("#a=1", width=390, height=844, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#move-7").scroll_into_view_if_needed()
    box, picture = page.locator("#move-7").bounding_box(), page.locator("#picture").bounding_box()
    assert picture["y"] + picture["height"] > 100 and box["y"] >= picture["y"] + picture["height"], "slider and picture"
    page.locator("#random").tap()
    assert settled(page) != "a=1"
    assert page.locator("#random").bounding_box()["height"] >= 40


def test_classes_and_a_server_that_goes_away(browser, tmp_path):
    model = exported(tmp_path / "G.safetensors", "stylegan2", "data.classes=hair", "model.c_dim=4")
    with serving(model, tmp_path) as (server, place):
        page = browser.new_page()
        page.goto(f"{place}#a=5")
        assert settled(page) == "a=5c0"
        first = shown(page)
        page.select_option("#class-a", "2")
        assert settled(page) == "a=5c2" and not np.array_equal(first, shown(page))
        page.click("#random-b")
        assert re.fullmatch(r"a=5c2&b=\d+c0&mix=0.5", settled(page))
        server.terminate()
        assert server.wait(20) is not None
        page.keyboard.press("r")
        until(page, "document.getElementById('status').textContent.includes('does not answer')")
        page.close()
