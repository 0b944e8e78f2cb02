"""The report in a real browser, at the width of a phone and of a desk, light and dark."""

from __future__ import annotations

import itertools
import json
import re
import shutil

import numpy as np
import pytest
from folders import write_run

import gradmix_ext as gx

WIDTHS = (360, 1280)
SCHEMES = ("light", "dark")
ATTACK = "<img src=x onerror=console.error(1)>"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    installed = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as api:
        try:
            found = api.chromium.launch(executable_path=installed)  # None: playwright's own
        except playwright.Error as error:
            pytest.skip(f"no browser to test in: {error.message.splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    arms = ("finetune", "er", "random-mask", "gradmix", "joint")
    return write_run(tmp_path_factory.mktemp("runs") / "run", arms=arms, epochs=3)


@pytest.fixture(scope="module")
def html(folder):
    return gx.report.write([folder], folder.parent / "report.html")


@pytest.fixture
def show(browser):
    """Opens a page; afterwards it must have made no request and no complaint."""
    complaints: list[str] = []
    contexts = []

    def open_page(file, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda r: r.url == file.as_uri() or complaints.append(r.url))
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def picture(page, section):
    return page.evaluate(f"document.querySelector('#{section} canvas').toDataURL()")


def slide(page, section, position):
    page.locator(f"#{section} input[type=range]").fill(str(position))


def read_cell(page, section, row, column):
    """What the page says of a cell of a map, reached by the keyboard."""
    canvas = page.locator(f"#{section} canvas")
    canvas.press("Escape")
    for key in ["ArrowDown"] * (row + 1) + ["ArrowRight"] * column:
        canvas.press(key)
    text = page.locator(f"#{section} .readout").inner_text()
    assert page.locator("#live").inner_text() == text
    return text


@pytest.mark.parametrize(("width", "scheme"), list(itertools.product(WIDTHS, SCHEMES)))
def test_everything_fits_and_can_be_read(show, html, width, scheme):
    page = show(html, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for selector, count in (("svg[role=img]", 3), ("canvas", 2), (".matrix", 5)):
        assert page.locator(selector).count() == count
    # Nothing is drawn beyond the edge of a chart, and nothing but tables scrolls.
    assert page.evaluate("""[...document.querySelectorAll('.chart svg[role=img] text')].every(t => {
        const box = t.getBoundingClientRect();
        return box.left >= 0 && box.right <= innerWidth })""")
    assert page.evaluate("""[...document.querySelectorAll('main *')].every(e =>
        e.closest('.scroll') || e.closest('.unseen') || e.getBoundingClientRect().right
        <= innerWidth + 1)""")
    paper = [int(v) for v in re.findall(r"\d+", colours(page, "paper")["paper"])]
    assert (np.mean(paper) < 60) == (scheme == "dark")


def colours(page, *names):
    return page.evaluate(
        """names => Object.fromEntries(names.map(name => {
            const probe = document.body.appendChild(document.createElement('i'));
            probe.style.color = `var(--${name})`;
            const colour = getComputedStyle(probe).color;
            probe.remove();
            return [name, colour] }))""",
        names,
    )


def contrast(one, other):
    """Of two colours as rgb(...), by the definition of WCAG 2."""

    def luminance(text):
        channels = np.array([int(v) for v in re.findall(r"\d+", text)[:3]]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ (0.2126, 0.7152, 0.0722)

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_colours_can_be_told_from_the_paper(show, html, scheme):
    lines = [f"c{i}" for i in range(1, 8)] + ["lower", "upper"]
    found = colours(
        show(html, scheme=scheme),
        *("paper", "raised", "neutral", "full", "ink", "soft", "help", "harm"),
        *lines,
    )
    for name, ground in itertools.product(("ink", "soft", "help", "harm"), ("paper", "raised")):
        assert contrast(found[name], found[ground]) >= 4.5, (name, ground)
    for ground in ("neutral", "full"):
        assert contrast(found["ink"], found[ground]) >= 4.5
    for name in lines:
        assert contrast(found[name], found["paper"]) >= 3, name


def test_the_button_switches_between_light_and_dark(show, html):
    page = show(html, scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark, map_in_dark = page.evaluate(background), picture(page, "pairs")
    page.click("#theme")
    assert page.evaluate(background) != dark
    assert picture(page, "pairs") != map_in_dark
    page.click("#theme")
    assert (page.evaluate(background), picture(page, "pairs")) == (dark, map_in_dark)


@pytest.mark.parametrize("section", ["pairs", "confusion"])
def test_sliders_change_the_map(show, html, section):
    page = show(html, 360)
    slider = page.locator(f"#{section} input[type=range]")
    last = picture(page, section)
    slider.press("Home")
    first = picture(page, section)
    assert first != last
    slider.press("ArrowRight")
    assert picture(page, section) not in (first, last)
    assert slider.get_attribute("aria-valuetext") == (
        page.locator(f"#{section} output").inner_text()
    )
    slider.press("End")
    assert picture(page, section) == last


def test_play_goes_through_all_positions_and_stops(show, html):
    page = show(html)
    page.clock.install()
    button, position = (page.locator(f"#confusion .player {part}") for part in ("button", "output"))
    button.click()
    for task in (1, 2, 3):
        assert position.inner_text() == f"After task {task} of 3"
        assert button.inner_text() == ("⏸ Pause" if task < 3 else "▶ Play")
        page.clock.run_for(350)
    assert position.inner_text() == "After task 3 of 3"


def wait_for(locator, text):
    locator.and_(locator.page.get_by_text(text, exact=True)).wait_for()


def test_the_class_pair_map_says_what_the_file_says(show, html, folder):
    page = show(html)
    order = class_order(folder, "gradmix", 1)
    with np.load(folder / "class_pairs" / "gradmix-seed-1.npz") as maps:
        later = maps["task"] > 0
        allowed, scores = maps["allowed"][later], maps["scores"][later]
    page.locator("#pairs select").nth(1).select_option("seed 1")
    for position, row, column in ((5, 0, 5), (4, 3, 1), (0, 1, 2)):
        slide(page, "pairs", position)
        a, b = order[row], order[column]
        said = read_cell(page, "pairs", row, column)
        verdict = "helpful" if allowed[position, a, b] else "detrimental"
        assert said.startswith(f"{a} with {b}: {verdict}, score ")
        value = float(said.split()[-1].replace("−", "-"))
        unit = float(np.abs(scores[position]).max() / 127)
        assert value == pytest.approx(scores[position, a, b], abs=unit)
    assert "Task 2, after epoch 1 of 3" in page.locator("#pairs output").inner_text()


@pytest.mark.parametrize(
    ("label", "title", "words", "note"),
    [
        (
            "random-mask",
            "Mixed or not",
            ("mixed, chosen at random", "not mixed, chosen at random"),
            "which pairs are mixed is chosen at random",
        ),
        (
            "shuffled-scores",
            "Chosen or not",
            ("chosen (at random, without effect)", "not chosen (at random, without effect)"),
            "may mix every pair, at odds dealt out to the pairs at random",
        ),
    ],
)
def test_the_map_of_a_control_judges_no_pair(show, tmp_path, label, title, words, note):
    folder = write_run(tmp_path / "run", arms=("er", "gradmix", label))
    page = show(gx.report.write([folder], tmp_path / "report.html"))
    pairs = page.locator("#pairs")
    assert "Helpful or not" in pairs.locator("fieldset").inner_text()
    assert "control" not in pairs.locator(".key").inner_text()
    judged = picture(page, "pairs")
    pairs.locator("select").first.select_option(label)
    assert pairs.locator("fieldset").inner_text().split("\n")[0] == title
    assert picture(page, "pairs") != judged
    assert note in pairs.locator(".key").inner_text()
    assert f"{words[0].split()[0].rstrip(',')} in " in read_cell(page, "pairs", 0, 1)
    pairs.locator("select").nth(1).select_option("seed 1")
    order = class_order(folder, label, 1)
    with np.load(folder / "class_pairs" / f"{label}-seed-1.npz") as maps:
        allowed = maps["allowed"][-1]  # where the slider stands
    said = set()
    for row, column in itertools.product(range(6), range(6)):
        text = read_cell(page, "pairs", row, column)
        expected = words[0] if allowed[order[row], order[column]] else words[1]
        assert f": {expected}, score " in text
        said.add(expected)
    assert said == set(words)
    for mode in (title, "Score"):
        pairs.get_by_text(mode, exact=True).click()
        shown = pairs.locator(".map").inner_text()
        assert ": helpful" not in shown
        assert "detrimental" not in shown
        assert note in shown


@pytest.mark.parametrize(
    ("label", "score"),
    [
        ("gradmix", "mean of the scores of its two classes"),
        ("gradmix[criterion=mixed]", "gradient of the pair's mixed samples"),
        ("gradmix[criterion=gram]", "inner product of the mean gradients of its two classes"),
        ("gradmix[update=online]", "moving average of the inner products"),
    ],
)
def test_the_score_is_explained_by_the_criterion_of_the_arm(show, tmp_path, label, score):
    folder = write_run(tmp_path / "run", arms=("er", label), seeds=(0,))
    page = show(gx.report.write([folder], tmp_path / "report.html"))
    page.locator("#pairs").get_by_text("Score", exact=True).click()
    assert score in page.locator("#pairs .key").inner_text()


def test_a_seed_alone_and_all_together_differ_in_names(show, html):
    page = show(html)
    assert read_cell(page, "pairs", 0, 1).startswith("#1 with #2: helpful in ")
    assert "Seeds differ in class order" in page.locator("#pairs .key").inner_text()
    helpful = picture(page, "pairs")
    page.get_by_text("Score", exact=True).click()
    assert picture(page, "pairs") != helpful


def test_confusion_says_what_the_file_says(show, html, folder):
    page = show(html)
    page.locator("#confusion select").first.select_option("joint")
    page.locator("#confusion select").nth(1).select_option("seed 2")
    slide(page, "confusion", 1)
    order = class_order(folder, "joint", 2)
    counts = np.zeros((3, 6, 6), dtype=int)
    for task, true, predicted, count in result(folder, "joint", 2)["confusion"]:
        counts[task, true, predicted] = count
    a, b = order[3], order[0]
    total = counts[1, a].sum()
    assert read_cell(page, "confusion", 3, 0) == (
        f"{a} taken for {b}: {100 * counts[1, a, b] / total:.1f} % ({counts[1, a, b]} of {total})"
    )


def result(folder, label, seed):
    return json.loads((folder / "matrices" / label / f"seed-{seed}.json").read_text())


def class_order(folder, label, seed):
    return [k for task in result(folder, label, seed)["task_classes"] for k in task]


def test_matrices_of_a_seed_and_of_task_il(show, html, folder):
    page = show(html)
    page.locator("#matrix select").select_option("seed 2")
    page.locator("#matrix fieldset").get_by_text("Task-IL").click()
    table = page.locator("#matrix table", has_text="gradmix")
    cells = [float(text) for text in table.locator("td:not(.mean)").all_inner_texts()]
    R = np.array(result(folder, "gradmix", 2)["task_il_matrix"])
    np.testing.assert_allclose(cells, 100 * R.ravel(), atol=0.051)
    means = [float(text) for text in table.locator("td.mean").all_inner_texts()]
    np.testing.assert_allclose(means, [100 * R[t, : t + 1].mean() for t in range(3)], atol=0.06)


def test_the_curve_can_be_read_by_keyboard_and_pointer(show, html, folder):
    page = show(html)
    chart = page.locator("#accuracy svg[role=img]")
    chart.press("ArrowLeft")  # enters at the end
    R = [result(folder, "er", seed)["accuracy_matrix"] for seed in (0, 1, 2)]
    expected = 100 * np.mean([np.mean(r[-1]) for r in R])
    text = page.locator("#tip").inner_text()
    assert "after task 3" in text
    assert f"{expected:.1f} ± " in text
    assert f"er {expected:.1f} ± " in page.locator("#live").inner_text()
    chart.press("Escape")
    assert not page.locator("#tip").is_visible()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 100)
    assert "after task 1" in page.locator("#tip").inner_text()


def test_the_legend_switches_an_arm_off_in_all_charts(show, html):
    page = show(html)
    for section in ("accuracy", "forgetting", "loss"):
        assert page.locator(f"#{section} path.line").count() == 5
    button = page.locator("#loss .legend button", has_text="joint")
    button.focus()
    assert page.locator("#loss g.lit path.line").count() == 1
    assert page.locator("#loss g.faded path.line").count() == 4
    button.press("Enter")
    for section in ("accuracy", "forgetting", "loss"):
        assert page.locator(f"#{section} path.line").count() == 4
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate("document.activeElement.value") == "joint"


def test_numbers_baseline_and_copy(show, html):
    page = show(html)
    page.locator("#accuracy summary").click()
    rows = page.locator("#accuracy .numbers tbody tr")
    rows.first.wait_for()  # written when the browser gets round to telling that it was opened
    assert rows.count() == 3
    page.locator("#baseline").select_option("gradmix")
    assert (
        page.locator("#results table:visible caption")
        .nth(1)
        .inner_text()
        .startswith("Arm minus gradmix")
    )
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".copy").click()
    wait_for(page.locator(".copy"), "Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "gradmix compare --seeds 3"


def test_what_a_run_contains_does_not_run(show, tmp_path):
    folder = write_run(tmp_path / "run", arms=("er", "gradmix"), command=ATTACK, dataset=ATTACK)
    config = json.loads((folder / "config.json").read_text())
    config["class_names"] = [ATTACK + str(k) for k in range(6)]
    config["arms"][1]["label"] = ATTACK
    (folder / "config.json").write_text(json.dumps(config))
    for seed in (0, 1, 2):
        name = f"{ATTACK}-seed-{seed}.npz"
        shutil.move(folder / f"class_pairs/gradmix-seed-{seed}.npz", folder / "class_pairs" / name)
    shutil.move(folder / "matrices" / "gradmix", folder / "matrices" / ATTACK)
    page = show(gx.report.write([folder], tmp_path / "page.html"), 360)
    page.locator("#accuracy svg[role=img]").press("ArrowRight")
    page.locator("#pairs select").first.select_option("seed 1")
    assert ATTACK in read_cell(page, "pairs", 0, 0)
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "shape",
    [
        {"seeds": (0,), "sizes": (4,)},
        {"seeds": (0,), "confusion": False},
        {"sizes": (3, *[1] * 19), "epochs": 1},
        {"seeds": (0, 1), "sizes": (50, 50)},
    ],
    ids=["one task", "no confusion", "many tasks", "many classes"],
)
def test_runs_of_other_shapes(show, tmp_path, shape, width):
    folder = write_run(tmp_path / "run", **shape)
    page = show(gx.report.write([folder], tmp_path / "page.html"), width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for canvas in page.locator("canvas").all():
        assert canvas.bounding_box()["height"] > 200


def test_what_is_missing_is_said(show, tmp_path):
    folder = write_run(tmp_path / "run", arms=("er", "joint"), confusion=False)
    (folder / "metrics.jsonl").unlink()
    page = show(gx.report.write([folder], tmp_path / "page.html"))
    assert "no arm here judges class pairs" in page.locator("#pairs").inner_text()
    assert "Not saved for: er, joint" in page.locator("#confusion").inner_text()
    assert "No loss of every epoch" in page.locator("#loss").inner_text()


def test_it_can_be_printed(show, html):
    page = show(html, scheme="dark")
    page.emulate_media(media="print")
    page.wait_for_timeout(100)
    assert np.mean([int(v) for v in re.findall(r"\d+", colours(page, "paper")["paper"])]) > 240
    assert not page.locator("#pairs .controls").is_visible()
    assert len(page.pdf()) > 20_000
