"""Strips of pictures: everything is on the page, nothing overlaps, and the pictures keep their proportions."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from datamodules.videos import DataError
from reproduce.visual import pages as page_module
from reproduce.visual.pages import DPI, HEIGHT, MARKS, MUTED, STYLE, TEXT, WIDTH, Strip, evenly, save_strips, text_width, wrap


def picture(height: int = 64, width: int = 64, value: int = 120) -> np.ndarray:
    return np.full((height, width, 3), value, dtype=np.uint8)


def strip(columns: int = 6, rows: int = 2, caption: str = "clip · true: walking", good: bool | None = True, **size) -> Strip:
    pictures = [picture(**size) for _ in range(columns)]
    names = ["frames", "λ = 0", "learned glimpse of the network", *(f"row {number}" for number in range(rows))]
    labels = tuple(f"{number / 5:.1f} s" for number in range(columns))
    return Strip(caption, tuple((name, pictures) for name in names[:rows]), labels, good)


LONG = Strip(
    "class/" + "an_endless_name_without_a_space_" * 8 + " · true: $ickness & wealth · predicted: " + "apply eye makeup " * 9,
    (("a row whose label is long", [picture(40, 90)] * 3), ("frames", [picture(90, 40)] * 3)),
    ("0.0 s", "12345.6 s", "99999.9 s"),
    False,
)
UNUSUAL = [strip(1), strip(6, 3), strip(17, 1), strip(2, 12), strip(3, 2, height=33, width=81), strip(4, 2, width=9), LONG]


@pytest.fixture
def pages(monkeypatch):
    """The pages that are made, in place of their files."""
    made = []

    def keep(figures, path):
        made.extend(figures)
        return [path]

    monkeypatch.setattr(page_module, "save_pages", keep)
    return made


@given(st.integers(1, 400), st.integers(1, 40))
def test_columns_are_even(number, columns):
    chosen = evenly(number, columns)
    assert len(chosen) == min(number, columns) and chosen[0] == 0
    assert chosen[-1] == (number - 1 if columns > 1 else 0)
    steps = np.diff(chosen)
    assert (steps >= 1).all() and (len(steps) == 0 or steps.max() - steps.min() <= 1)


@given(st.text(alphabet="ab W_/.-é λ", max_size=200), st.floats(0.3, 7))
def test_wrapped_text_fits_and_loses_nothing(text, width):
    lines = wrap(text, width, 8)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(text_width(line, 8) <= width for line in lines)


def test_words_stay_whole_where_they_fit():
    words = "true: horse_riding predicted: trampoline_jumping"
    for line in wrap(words, 1.2, 8):
        assert line in words and set(line.split()) <= set(words.split())


def test_everything_is_on_the_page_and_nothing_overlaps(pages, tmp_path):
    title = "A title that takes more than one line of the page: " + "attention over time " * 5
    save_strips(UNUSUAL, tmp_path / "all", title, ["A note. " * 60, "Another."])
    assert len(pages) > 1
    for page in pages:
        page.dpi = DPI
        with rc_context(STYLE):
            FigureCanvasAgg(page).draw()
            boxes = [text.get_window_extent() for text in page.axes[0].texts]
        width, height = page.get_size_inches() * page.dpi
        assert page.get_size_inches()[0] == WIDTH and page.get_size_inches()[1] <= HEIGHT + 1e-6
        (axes,) = page.axes
        assert all(text.get_fontsize() >= 7 for text in axes.texts)  # pt: what print carries
        drawn = [image.get_window_extent() for image in axes.images]
        for box in [*boxes, *drawn]:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        for one, other in itertools.combinations([*boxes, *drawn], 2):
            overlap = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(overlap) <= 0.02 * page.dpi  # lines of one paragraph share a hair of their boxes
    captions = " ".join(text.get_text() for page in pages for text in page.axes[0].texts)
    assert "$ickness & wealth" in captions and captions.count("✗") == 1 and captions.count("✓") == 6


def test_pictures_keep_their_proportions(pages, tmp_path):
    save_strips([strip(4, 1, height=60, width=20), strip(3, 2, height=20, width=60)], tmp_path / "some", "Title")
    for image in pages[0].axes[0].images:
        left, right, bottom, top = image.get_extent()
        height, width, _ = image.get_array().shape
        assert (bottom - top) / (right - left) == pytest.approx(height / width)


def test_a_page_holds_what_fits_and_a_clip_is_never_split(pages, tmp_path):
    save_strips([strip(6, 4, f"clip {number}") for number in range(5)], tmp_path / "many", "Title")
    held = [[text.get_text() for text in page.axes[0].texts if text.get_text().startswith("clip")] for page in pages]
    assert sum(held, []) == [f"clip {number}" for number in range(5)]
    assert [len(page.axes[0].images) for page in pages] == [24 * len(clips) for clips in held]


def test_the_same_clips_make_the_same_files(tmp_path):
    clips = [strip(6, 6)] * 2
    first = {path: path.read_bytes() for path in save_strips(clips, tmp_path / "figure", "Title")}
    assert {path.name for path in first} == {"figure.png", "figure.2.png", "figure.pdf"}
    assert first == {path: path.read_bytes() for path in save_strips(clips, tmp_path / "figure", "Title")}
    (tmp_path / "figure-2.png").write_bytes(b"kept")  # of a video that is called so
    save_strips(clips[:1], tmp_path / "figure", "Title")
    assert {path.name for path in tmp_path.iterdir()} == {"figure.png", "figure.pdf", "figure-2.png"}
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width == WIDTH * DPI


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="as many pictures"):
        Strip("uneven", (("a", [picture()]), ("b", [picture()] * 2)))
    with pytest.raises(ValueError, match="at least one"):
        Strip("empty", (("a", []),))
    with pytest.raises(ValueError, match="1 column labels for 2 columns"):
        Strip("labels", (("a", [picture()] * 2),), ("0.0 s",))
    with pytest.raises(ValueError, match="no clip"):
        save_strips([], tmp_path / "none", "Title")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*set paths\.results"):
        save_strips([strip()], tmp_path / "file" / "figure", "Title")


def test_marks_differ_in_shape_and_in_grey():
    (right, one), (wrong, other) = MARKS[True], MARKS[False]
    assert right != wrong
    for colour in (one, other, MUTED, TEXT):
        assert _contrast(colour) >= 3.5  # to white paper


def _contrast(colour: str) -> float:
    """Of a colour to white, as WCAG defines it."""
    parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)
