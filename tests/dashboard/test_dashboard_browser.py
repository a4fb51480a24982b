"""The page as a person sees it, in a headless Chromium."""

from __future__ import annotations

import pytest
from dashboard_helpers import make_run, write_result

from stylegan_lightning.dashboard.__main__ import main


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for i, gamma in enumerate([0.1, 1.0, 10.0]):
        make_run(folder / f"run{i}", [900 - 10 * i, 500, 300 + 50 * i], r1_gamma=gamma, augment=["none", "ada"][i % 2])
    make_run(folder / "<script>alert(1)<", [900, 700], r1_gamma=3.0, pictures=())
    write_result(folder / "failed", status="failed", reason="<b>no</b> memory", overrides=["model.r1_gamma=50"])
    main([str(folder), "--out", str(folder / "report.html")])
    return folder / "report.html"


@pytest.fixture
def open_page(browser, report):
    contexts, problems = [], []

    def go(width=1280, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(r.url))
        page.goto(report.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert problems == []


def names(page):
    return page.locator("#table tbody th a").all_inner_texts()


BEST_FIRST = ["run0", "run1", "run2", "<script>alert(1)<", "failed"]


def test_table_sorts(open_page):
    page = open_page()
    assert names(page) == BEST_FIRST
    assert "<b>no</b> memory" in page.locator("#table tbody tr").last.inner_text()
    head = page.locator("#table thead th", has_text="r1_gamma")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending" and names(page) == [
        *BEST_FIRST[:2],
        BEST_FIRST[3],
        "run2",
        "failed",
    ]
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending" and names(page)[0] == "failed"
    best = page.locator("#table thead th", has_text="best").get_by_role("button")
    best.click(), best.click()
    assert names(page) == [*reversed(BEST_FIRST[:4]), "failed"]  # missing values stay last
    assert page.locator("#table thead th[aria-sort=ascending]").count() == 0


def test_curves_follow_choices(open_page):
    page = open_page()
    lines = page.locator("#curves polyline")
    assert lines.count() == 4
    before = lines.last.get_attribute("points")
    page.locator("#log").click()
    assert lines.last.get_attribute("points") != before
    page.locator("#column").select_option("loss/G")
    assert "loss/G over kimg" in page.locator("#curves svg").get_attribute("aria-label")
    page.get_by_label("show run1").uncheck()
    assert lines.count() == 3 and page.locator("#samples figure").count() == 5
    page.get_by_role("button", name="none").click()
    assert lines.count() == 0 and page.get_by_label("show run0").is_checked() is False


def test_values_under_the_pointer_and_by_keys(open_page):
    page = open_page()
    plot, tip = page.locator("#curves svg"), page.locator("#tip")
    assert tip.is_hidden()
    plot.scroll_into_view_if_needed()
    for _ in range(100):  # the page may still move under the pointer, or be drawn anew
        box = plot.bounding_box()
        page.mouse.move(5, 5)
        page.mouse.move(box["x"] + box["width"] - 15, box["y"] + box["height"] - 60)
        page.wait_for_timeout(100)
        if tip.is_visible():
            break
    tip.wait_for()
    assert tip.inner_text().split("\n") == ["run0", "300 at 4 kimg"]
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden")
    plot.focus()
    page.keyboard.press("ArrowLeft")
    assert "500 at 2 kimg" in tip.inner_text()
    page.keyboard.press("ArrowDown")
    assert tip.inner_text().split("\n") == ["run1", "500 at 2 kimg"]


def test_slider_changes_the_grids(open_page):
    page = open_page()
    shown = lambda: [i.get_attribute("src") for i in page.locator("#samples img").all()]  # noqa: E731
    captions = page.locator("#samples figcaption").all_inner_texts
    last = shown()
    assert (
        len(last) == 4
        and captions()[0].startswith("real images")
        and "no samples" in page.locator("#samples").inner_text()
    )
    assert "8 kimg" in captions()[1]
    page.locator("#moment").focus()
    page.keyboard.press("ArrowLeft")
    assert shown()[0] == last[0] and shown()[1] != last[1]
    assert "4 kimg · fid 300" in " ".join(captions()[1].split())
    page.locator("#samples figure button").nth(1).click()
    assert page.locator("figure.wide").count() == 1


def test_keys_and_importance(open_page):
    page = open_page()
    assert page.locator("#keys .parallel").count() == 4
    assert "r1_gamma" in page.locator("#keys svg").get_attribute("aria-label")
    assert "Spearman" in page.locator("#importance").inner_text()


def test_commands_are_copied(open_page):
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    button = page.locator("#next details").first.get_by_role("button").first
    button.click()
    page.locator("#next details button", has_text="copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("python train.py resume=")
    page.locator("#table tbody th a").nth(2).click()
    assert page.locator("#next details").nth(2).get_attribute("open") is not None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_scroll_down_only(open_page, scheme):
    page = open_page(width=400, color_scheme=scheme, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#curves svg").tap()
    assert page.locator("#tip").is_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(244, 245, 247)") == (scheme == "light")


def test_ticks_end(open_page):
    page = open_page()
    ends = [[1e17, 1e17], [1e17, 1e17 + 64], [0, 5e-324], [5, 5], [-1.7e308, 1.7e308], [5e-324, 1.7e308]]
    counts = page.evaluate(
        """ends => [...ends, [0, Infinity], [-Infinity, 1], [NaN, NaN], [Infinity, Infinity]].flatMap(
            ([a, b]) => [niceTicks(a, b, 6), logTicks(a, b)].map((t) => t.every(Number.isFinite) ? t.length : -1))""",
        ends,
    )
    assert len(counts) == 20 and min(counts) >= 0 and max(counts) <= 101
    assert page.evaluate("niceTicks(0, 10, 5)") == [0, 2, 4, 6, 8, 10] and page.evaluate("niceTicks(5, 5, 5)") == [5]
    assert page.evaluate("logTicks(1, 100)") == [1, 3, 10, 30, 100]


def test_curves_of_the_largest_numbers_are_drawn(browser, tmp_path):
    for name, values in {"a": [-1.7e308, 1.7e308], "b": [1e17, 1e17], "c": [5e-324, 1.7e308]}.items():
        make_run(tmp_path / name, values, pictures=())
    main([str(tmp_path), "--out", str(tmp_path / "report.html")])
    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    for _ in range(2):
        page.locator("#log").click()
        for line in page.locator("#curves polyline").all():
            assert "NaN" not in line.get_attribute("points") and "Infinity" not in line.get_attribute("points")
    page.close()
    assert problems == []
