"""Comics as files: read by other programs, and looked at as pictures."""

import asyncio
import colorsys
import io
import re
import shutil
import subprocess
import tracemalloc
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gateway.comics.export import cbz, pdf
from gateway.comics.export.faces import HOUSE, Faces, FontError
from gateway.comics.export.layouts import LAYOUTS, LayoutError, Lettering, Rect, load
from gateway.comics.export.lettering import ASCENT, LEADING, boxed
from gateway.comics.export.pages import Book, Chapter, Page, Panel, pages
from tests.gateway.test_comics import begun, chaptered, code_of, joined, seen
from tests.support.stack import Stack, User

FACES = Faces()
PORTRAIT = (216, 288)
CAPTIONS = [
    "The fox had not slept for three days.",
    None,
    "“Who goes there?” asked the hen — and the whole yard held its breath…",
    "Ελλάδα, Москва & Łódź ★",
    "Meanwhile, on the far side of the wood, somebody was counting. One. Two. Three.\nFour.",
    "No.",
    "x" * 90,
]
NEEDS_POPPLER = pytest.mark.skipif(not shutil.which("pdftoppm"), reason="poppler is not installed")


def color(n: int) -> tuple[int, int, int]:
    """Of the n-th panel; no two alike, and neither ink nor paper."""
    red, green, blue = colorsys.hsv_to_rgb(n * 0.618 % 1, 0.6, 0.75)
    return int(255 * red), int(255 * green), int(255 * blue)


def flat(n: int, size: tuple[int, int] = PORTRAIT) -> bytes:
    kept = io.BytesIO()
    Image.new("RGB", size, color(n)).save(kept, "PNG")
    return kept.getvalue()


def book_of(counts: Sequence[int], direction: Any = "ltr", size: tuple[int, int] = PORTRAIT) -> Book:
    """Chapters of so many panels; the key of a picture is the number of its panel."""
    numbers = iter(range(sum(counts)))
    facts = {"width": size[0], "height": size[1], "bucket": "generated-designs"}
    chapters = [
        Chapter(f"Chapter {n}", [_panel(next(numbers), facts) for _ in range(count)])
        for n, count in enumerate(counts, 1)
    ]
    return Book("The Fox", chapters, [], direction)


def _panel(n: int, facts: dict[str, Any]) -> Panel:
    return Panel(CAPTIONS[n % len(CAPTIONS)], {**facts, "key": str(n)})


def written(kind: Any, book: Book, laid: Sequence[Page], size: tuple[int, int] = PORTRAIT) -> bytes:
    writer, pieces = kind(book, laid, FACES), []
    for page in laid:
        writer.begin(page)
        for placed in page.panels:
            writer.place(placed, flat(int(placed.picture["key"]), size))
        pieces.append(writer.end())
    assert all(pieces), "every page is written out as soon as it is drawn"
    return b"".join([*pieces, writer.finish()])


def rendered(content: bytes, folder: Path, dpi: int = 72) -> list[Image.Image]:
    """A PDF's pages, as poppler draws them."""
    (folder / "book.pdf").write_bytes(content)
    subprocess.run(["pdftoppm", "-r", str(dpi), "-png", "book.pdf", "page"], cwd=folder, check=True)
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("page-*.png"))]


def unpacked(content: bytes) -> list[Image.Image]:
    """A CBZ's pages, as a reader would show them."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        return [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]


def assert_shows(drawn: Sequence[Image.Image], laid: Sequence[Page]) -> None:
    """Each panel's color in its place, a box where the lettering is, and paper between the places."""
    assert len(drawn) == len(laid)
    for image, page in zip(drawn, laid, strict=True):
        scale = image.width / page.size[0]
        for placed in page.panels:
            for x, y in _spots(placed.rect, placed.lettering.frame if placed.lettering else None):
                assert _near(image.getpixel((x * scale, y * scale)), color(int(placed.picture["key"])))
            if placed.lettering:
                assert_lettered(image, placed.lettering.frame, scale)
        for x, y in ((2, 2), (page.size[0] - 2, page.size[1] - 2)):
            assert _near(image.getpixel((x * scale, y * scale)), (255, 255, 255))


def assert_lettered(image: Image.Image, frame: Rect, scale: float) -> None:
    """Dark on white, and white right behind its edge."""
    inner = frame.inset(1.5)
    corners = (inner.x, inner.y, inner.x + inner.width, inner.y + inner.height)
    grey = image.crop(tuple(round(each * scale) for each in corners)).convert("L")
    assert grey.getextrema()[0] < 110, "ink"
    assert grey.getextrema()[1] > 240, "paper"
    rim = [grey.getpixel((x, y)) for x in range(grey.width) for y in (0, grey.height - 1)]
    assert min(rim) > 200, "text up to the edge of its box"


def _spots(rect: Rect, covered: Rect | None) -> list[tuple[float, float]]:
    """Near the corners and in the middle of a place, where no box is."""
    inner = rect.inset(4)
    xs = (inner.x, inner.x + inner.width / 2, inner.x + inner.width)
    ys = (inner.y, inner.y + inner.height / 2, inner.y + inner.height)
    return [(x, y) for x in xs for y in ys if covered is None or not _within(x, y, covered)]


def _within(x: float, y: float, rect: Rect, slack: float = 3) -> bool:
    across = rect.x - slack <= x <= rect.x + rect.width + slack
    return across and rect.y - slack <= y <= rect.y + rect.height + slack


def _near(given: Any, wanted: tuple[int, int, int]) -> bool:
    return max(abs(a - b) for a, b in zip(given, wanted, strict=True)) <= 12


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: str(layout.name))
@pytest.mark.parametrize("panels", [1, 2, 3, 4, 5, 7, 12, 23])
def test_every_number_of_panels_fills_pages(layout: Any, panels: int) -> None:
    laid = list(pages(book_of([panels]), layout, FACES))
    shown = [placed.picture["key"] for page in laid for placed in page.panels]
    assert shown == [str(n) for n in range(panels)]
    for page in laid:
        for n, placed in enumerate(page.panels):
            assert _inside(placed.rect, Rect(0, 0, *layout.size))
            assert not any(_overlap(placed.rect, other.rect) for other in page.panels[:n])
            assert placed.part == pytest.approx((0, 0, 1, 1), abs=0.02), "a panel's own shape is shown whole"


WRONG = {
    'pages = [["A B", "A C D"], ["A"]]': "is no grid",
    'pages = [["A B", "B C"], ["A"]]': "B is no rectangle",
    'pages = [["A C"], ["A"]]': "names no places from A on",
    'pages = [["A B"]]': "none has a single place",
    'pages = [["A"]]\ncolumns = [[1, 1]]': "do not fit",
    'pages = [["A"]]\nrows = [[-1]]': "do not fit",
    'pages = [["A"]]\nbleed = 3': "bleed",
    'pages = [["A"]]\ngutter_mm = -1': "gutter_mm",
}


@pytest.mark.parametrize(("wrong", "reason"), WRONG.items())
def test_a_file_that_is_no_layout_says_why(wrong: str, reason: str, tmp_path: Path) -> None:
    head = 'label = "a"\npage_mm = [100, 150]\nmargins_mm = [9, 9, 9, 9]\ncrop = 0.1\n'
    gutter = "" if "gutter" in wrong else "gutter_mm = 4\n"
    tail = '\n[lettering]\nplace = "top"\nsize_pt = [9, 6]\nshare = 0.5\n'
    (tmp_path / "mine.toml").write_text(f"{head}{gutter}{wrong}{tail}")
    with pytest.raises(LayoutError, match=re.escape(reason)):
        load(tmp_path)


def test_places_follow_their_shares_and_gutters(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'label = "a"\npage_mm = [110, 100]\nmargins_mm = [0, 0, 0, 0]\ngutter_mm = 10\ncrop = 0\n'
        'pages = [["A B", "A C"], ["A"]]\ncolumns = [[1, 3]]\nrows = [[2, 1]]\n'
        '[lettering]\nplace = "top"\nsize_pt = [9, 6]\nshare = 0.5\n'
    )
    layout = load(tmp_path)["mine"]
    rects = layout.grids[0].rects(layout.area, layout.gutter)
    in_mm = [tuple(round(each * 25.4 / 72, 6) for each in rect) for rect in rects]
    assert in_mm == [(0, 0, 25, 100), (35, 0, 75, 60), (35, 70, 75, 30)]


def test_a_picture_of_another_shape_is_cut_a_little_or_shown_whole() -> None:
    for size, whole in (((832, 1216), False), ((512, 768), False), ((1024, 1024), True), ((1600, 900), True)):
        ((placed, *_),) = [page.panels for page in pages(book_of([4], size=size), LAYOUTS["four"], FACES)]
        left, upper, right, lower = placed.part
        assert ((right - left) * (lower - upper) == 1) == whole
        shown = size[0] * (right - left) / (size[1] * (lower - upper))
        assert placed.rect.width / placed.rect.height == pytest.approx(shown, rel=0.01), "never stretched"


# Lettering


@settings(deadline=None, max_examples=150)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=500),
    width=st.floats(30, 500),
    height=st.floats(30, 700),
    from_right=st.booleans(),
)
def test_no_text_leaves_its_box_and_no_box_its_picture(
    text: str, width: float, height: float, from_right: bool
) -> None:
    picture = Rect(11, 13, width, height)
    style = Lettering(place="bottom", size_pt=(9.5, 6.5), share=0.4)
    box = boxed(text, picture, style, FACES, from_right=from_right)
    assert _inside(box.frame, picture)
    for line in box.lines:
        top = line.y - ASCENT * box.size
        drawn = Rect(line.x, top, FACES.width(line.text, box.size), LEADING * box.size)
        assert _inside(drawn, box.frame)
    kept = "".join("".join(line.text for line in box.lines).split())
    assert kept == "".join(_letters(text))


def _letters(text: str) -> list[str]:
    from gateway.comics.export.faces import plain

    return plain(text).split()


def test_type_gets_smaller_only_where_it_must() -> None:
    style, picture = LAYOUTS["four"].lettering, Rect(0, 0, 210, 280)
    sizes = [boxed("word " * n, picture, style, FACES, from_right=False).size for n in (1, 20, 60, 100)]
    assert sizes[0] == style.size_pt[0]
    assert sizes == sorted(sizes, reverse=True)
    assert style.size_pt[0] > sizes[3] >= style.size_pt[1], "500 characters are still read"


def test_the_operators_fonts_come_before_the_houses(tmp_path: Path) -> None:
    import reportlab

    vera = Path(reportlab.__file__).parent / "fonts" / "Vera.ttf"
    faces = Faces([vera])
    drawn_by = [face.path for face, _, _ in faces.runs("aД", 10)]
    assert drawn_by == [vera, HOUSE[1]]
    (tmp_path / "font.ttf").write_bytes(b"not a font")
    with pytest.raises(FontError, match=r"font\.ttf"):
        Faces([tmp_path / "font.ttf"])


# Files


@NEEDS_POPPLER
@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_of_a_pdf_show_each_panel_in_its_place(layout: str, direction: str, tmp_path: Path) -> None:
    book = book_of([7, 2], direction)
    laid = list(pages(book, LAYOUTS[layout], FACES))
    assert_shows(rendered(written(pdf.Pdf, book, laid), tmp_path, dpi=110), laid)


@pytest.mark.parametrize("direction", ["ltr", "rtl"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pages_of_a_cbz_show_each_panel_in_its_place(layout: str, direction: str) -> None:
    book = book_of([7, 2], direction)
    laid = list(pages(book, LAYOUTS[layout], FACES))
    assert_shows(unpacked(written(cbz.Cbz, book, laid)), laid)


def test_from_right_to_left_the_first_panel_stands_right() -> None:
    four = LAYOUTS["four"]
    (left,), (right,) = [list(pages(book_of([4], each), four, FACES)) for each in ("ltr", "rtl")]
    assert [placed.rect.x for placed in right.panels] == pytest.approx(
        [placed.rect.mirrored(four.size[0]).x for placed in left.panels]
    )
    assert right.panels[0].rect.x > right.panels[1].rect.x


@NEEDS_POPPLER
@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_of_a_pdf_is_text_in_reading_order_and_inside_its_boxes(layout: str, tmp_path: Path) -> None:
    book = book_of([7, 2])
    laid = list(pages(book, LAYOUTS[layout], FACES))
    (tmp_path / "book.pdf").write_bytes(written(pdf.Pdf, book, laid))
    command = ["pdftotext", "-raw", "-bbox", "book.pdf", "words.xml"]
    subprocess.run(command, cwd=tmp_path, check=True)
    name = "{http://www.w3.org/1999/xhtml}"
    found = ElementTree.parse(tmp_path / "words.xml").iter(f"{name}page")  # noqa: S314
    for drawn, page in zip(found, laid, strict=True):
        words = [(word.text or "", _box(word)) for word in drawn.iter(f"{name}word")]
        for placed in page.panels:
            for line in placed.lettering.lines if placed.lettering else ():
                assert placed.lettering is not None
                for wanted in line.text.split():
                    rects = [rect for text, rect in words if text == wanted]
                    assert any(_inside(rect, placed.lettering.frame, slack=1) for rect in rects), wanted
    read = " ".join(page.extract_text() for page in pypdf.PdfReader(tmp_path / "book.pdf").pages)
    captions = [panel.caption for chapter in book.chapters for panel in chapter.panels if panel.caption]
    at = 0
    for caption in captions:
        at = "".join(read.split()).index("".join(caption.split()), at) + 1


def test_a_pdf_embeds_its_fonts_and_lists_its_chapters() -> None:
    book = book_of([5, 1, 2], "rtl")
    content = written(pdf.Pdf, book, list(pages(book, LAYOUTS["four"], FACES)))
    reader = pypdf.PdfReader(io.BytesIO(content), strict=True)
    assert reader.metadata is not None
    assert reader.metadata.title == "The Fox"
    starts = {str(each.title): reader.get_destination_page_number(each) for each in _outline(reader)}
    assert starts == {"Chapter 1": 0, "Chapter 2": 2, "Chapter 3": 3}
    assert reader.root_object["/ViewerPreferences"]["/Direction"] == "/R2L"
    used = [font for page in reader.pages for font in _fonts(page) if "+" in font["/BaseFont"]]
    assert {font["/BaseFont"].partition("+")[2] for font in used} == {path.stem for path in HOUSE}
    assert all("/FontFile2" in font["/FontDescriptor"] for font in used)


def _outline(reader: pypdf.PdfReader) -> list[Any]:
    return list(reader.outline)


def _fonts(page: pypdf.PageObject) -> list[Any]:
    resources: Any = page["/Resources"]
    return [font.get_object() for font in resources["/Font"].values()]


def test_a_cbz_tells_readers_about_itself() -> None:
    book = Book("Fox & <Hen>\x01", book_of([5, 1]).chapters, ["Chapter 3"], "rtl")
    content = written(cbz.Cbz, book, list(pages(book, LAYOUTS["four"], FACES)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        about = ElementTree.fromstring(archive.read("ComicInfo.xml"))  # noqa: S314
    assert names == ["ComicInfo.xml", "0001.jpg", "0002.jpg", "0003.jpg"]
    assert [(each.tag, each.text) for each in about if each.tag != "Pages"] == [
        ("Title", "Fox & <Hen>"),
        ("Series", "Fox & <Hen>"),
        ("Notes", "Left out, not finished: Chapter 3"),
        ("PageCount", "3"),
        ("Manga", "YesAndRightToLeft"),
    ]
    listed = [(page.get("Image"), page.get("Bookmark")) for page in about.iter("Page")]
    assert listed == [("0", "Chapter 1"), ("1", None), ("2", "Chapter 2")]
    first, *_ = unpacked(content)
    assert [about.find("Pages/Page").get(f"Image{side}") for side in ("Width", "Height")] == [
        str(first.width),
        str(first.height),
    ]


def test_the_same_book_is_the_same_cbz() -> None:
    book = book_of([3])
    laid = list(pages(book, LAYOUTS["four"], FACES))
    assert written(cbz.Cbz, book, laid) == written(cbz.Cbz, book, laid)


@pytest.mark.parametrize("kind", [cbz.Cbz, pdf.Pdf])
def test_what_is_written_is_forgotten(kind: Any) -> None:
    """A book of forty noisy pages takes the memory of a page, not of the file."""
    book = book_of([40])
    laid = list(pages(book, LAYOUTS["single"], FACES))
    noise = io.BytesIO()
    Image.effect_noise((900, 1200), 120).convert("RGB").save(noise, "PNG", compress_level=1)
    tracemalloc.start()
    try:
        writer, size = kind(book, laid, FACES), 0
        for page in laid:
            writer.begin(page)
            for placed in page.panels:
                writer.place(placed, noise.getvalue())
            size += len(writer.end())
        size += len(writer.finish())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 15 * 2**20
    assert peak < size / 2, (peak, size)


# Over HTTP


async def drawn(product: Stack, owner: User, chapter_id: str, count: int, first: int = 0) -> list[str]:
    """Panels that are ready, with flat pictures in the bucket; their ids."""
    ids = []
    assert product.app is not None
    bucket = product.app.state.buckets["generated-designs"]
    for n in range(first, first + count):
        content, job = flat(n), uuid4()
        key = f"{owner.id}/{job}/0-1-0.png"
        await bucket.put(key, content, "image/png")
        row = product.rows(
            READY_PANEL,
            *(job, owner.id, uuid4(), key, len(content), *PORTRAIT, chapter_id, chapter_id),
            CAPTIONS[n % len(CAPTIONS)],
        )
        ids.append(str(row[0]["id"]))
    return ids


READY_PANEL = """
with job as (
  insert into public.generation_jobs (
    id, user_id, prompt_input, prompt_final, model, width, height, seed, status, wake_at)
  values (%s, %s, 'a', 'a', 'instant', 64, 64, 1, 'completed', null) returning id, user_id
),
picture as (
  insert into public.generated_assets (
    id, user_id, job_id, n, kind, key, content_type, bytes, sha256, width, height, seed, visibility)
  select %s, user_id, id, 0, 'panel', %s, 'image/png', %s, repeat('a', 64), %s, %s, 1, 'private' from job
  returning id
)
insert into public.comic_panels (chapter_id, position, prompt, status, image_id, caption)
select %s, (select count(*) + 1 from public.comic_panels where chapter_id = %s), 'a', 'ready', id, %s
from picture returning id
"""


async def export(user: User, comic: dict[str, Any], **query: str) -> Any:
    return await user.http.get(f"/v1/comics/{comic['id']}/export", params=query)


async def test_an_export_that_makes_no_sense_is_refused(product: Stack) -> None:
    user = product.new_user()
    comic, other = await begun(user), await begun(user)
    await drawn(product, user, comic["chapters"][0]["id"], 1)
    assert code_of(await export(user, comic, format="epub")) == (422, "validation_failed", "format")
    assert code_of(await export(user, comic, layout="spiral")) == (400, "unknown_layout", "layout")
    foreign = other["chapters"][0]["id"]
    assert code_of(await export(user, comic, chapter_id=foreign))[:2] == (404, "not_found")
    assert code_of(await export(user, comic, chapter_id=str(uuid4())))[:2] == (404, "not_found")


async def test_only_members_export_and_viewers_do(product: Stack) -> None:
    owner = product.new_user()
    comic = await begun(owner)
    await drawn(product, owner, comic["chapters"][0]["id"], 1)
    viewer = await joined(product, owner, comic, "viewer")
    assert (await export(viewer, comic)).status_code == 200
    stranger = product.new_user()
    foreign, missing = await export(stranger, comic), await export(stranger, {"id": uuid4()})
    assert [code_of(each)[:2] for each in (foreign, missing)] == [(404, "not_found")] * 2
    assert foreign.json().keys() == missing.json().keys()


async def test_chapters_that_are_not_finished_are_left_out(product: Stack) -> None:
    user = product.new_user()
    comic = await begun(user)
    first, second, third = await chaptered(user, comic, 3)
    await drawn(product, user, first, 2)
    (panel, _) = await drawn(product, user, second, 2, first=2)
    product.rows("update public.comic_panels set status = 'generating' where id = %s returning id", panel)
    for empty_or_unfinished in (second, third):
        answer = await export(user, comic, chapter_id=empty_or_unfinished)
        assert code_of(answer) == (409, "chapter_not_finished", "chapter_id")
    answer = await export(user, comic, format="cbz")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert b"Left out, not finished: Chapter 2, Chapter 3" in archive.read("ComicInfo.xml")
        assert len(archive.namelist()) == 2
    product.rows(
        "update public.comic_panels set status = 'pending' where chapter_id = %s returning id", first
    )
    assert code_of(await export(user, comic))[:2] == (409, "nothing_finished")


async def test_a_picture_that_is_gone_is_noticed_before_the_first_byte(product: Stack) -> None:
    user = product.new_user()
    comic = await begun(user)
    ids = await drawn(product, user, comic["chapters"][0]["id"], 2)
    (row,) = product.rows(
        "select a.* from public.generated_assets a join public.comic_panels p on p.image_id = a.id"
        " where p.id = %s",
        ids[1],
    )
    assert product.app is not None
    bucket = product.app.state.buckets["generated-designs"]
    content = await bucket.get(row["key"])
    await bucket.delete([row["key"]])
    assert code_of(await export(user, comic))[:2] == (409, "content_missing")
    await bucket.put(row["key"], content, "image/png")
    assert (await export(user, comic)).status_code == 200
    assert (await user.http.delete(f"/v1/images/{row['id']}")).status_code == 204
    assert code_of(await export(user, comic))[:2] == (409, "nothing_finished")


@pytest.mark.parametrize("text", ["狐", "שועל", "fox 🦊"])
async def test_text_that_no_font_draws_is_refused_by_name(product: Stack, text: str) -> None:
    user = product.new_user()
    comic = await begun(user)
    (panel,) = await drawn(product, user, comic["chapters"][0]["id"], 1)
    product.rows("update public.comic_panels set caption = %s where id = %s returning id", text, panel)
    answer = await export(user, comic)
    assert code_of(answer)[:2] == (409, "lettering_not_covered")
    assert "caption of panel 1 of Chapter 1" in answer.json()["detail"]
    assert text[-1] in answer.json()["detail"]


@NEEDS_POPPLER
async def test_a_comic_is_exported_in_the_order_its_panels_have_now(product: Stack, tmp_path: Path) -> None:
    user = product.new_user()
    comic = await begun(user, name="Füchse / Hühner")
    first, second = await chaptered(user, comic, 2)
    ids = await drawn(product, user, first, 5)
    await drawn(product, user, second, 1, first=5)
    order = [4, 2, 0, 1, 3]
    place = f"/v1/comics/chapters/{first}/panels/order"
    assert (await user.http.put(place, json={"ids": [ids[n] for n in order]})).status_code == 200
    laid = list(pages(_reordered(book_of([5, 1]), order), LAYOUTS["four"], FACES))
    answer = await export(user, comic)
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"Fuchse _ Huhner.pdf\"; filename*=UTF-8''F%C3%BCchse%20_%20H%C3%BChner.pdf"
    )
    assert_shows(rendered(answer.content, tmp_path, dpi=110), laid)
    answer = await export(user, comic, format="cbz")
    assert answer.headers["content-type"] == "application/vnd.comicbook+zip"
    assert_shows(unpacked(answer.content), laid)
    answer = await export(user, comic, format="cbz", chapter_id=second, layout="single", direction="rtl")
    (alone,) = unpacked(answer.content)
    assert _near(alone.getpixel((alone.width / 2, alone.height / 2)), color(5))
    assert "Chapter%202.cbz" in answer.headers["content-disposition"]


def _reordered(book: Book, order: Sequence[int]) -> Book:
    first, *rest = book.chapters
    shuffled = Chapter(first.name, [first.panels[n] for n in order])
    return Book("Füchse / Hühner", [shuffled, *rest], [], "ltr")


async def test_what_has_not_changed_is_not_sent_again(product: Stack) -> None:
    user = product.new_user()
    comic = await begun(user)
    (panel,) = await drawn(product, user, comic["chapters"][0]["id"], 1)
    tag = (await export(user, comic)).headers["etag"]
    known = {"If-None-Match": tag}
    address = f"/v1/comics/{comic['id']}/export"
    again = await user.http.get(address, headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert (await user.http.get(f"{address}?format=cbz", headers=known)).status_code == 200
    product.rows("update public.comic_panels set caption = 'b' where id = %s returning id", panel)
    assert (await user.http.get(address, headers=known)).status_code == 200


async def test_panels_that_the_api_draws_become_a_book(product: Stack) -> None:
    user = product.new_user()
    comic = await begun(user)
    place = f"/v1/comics/chapters/{comic['chapters'][0]['id']}/panels"
    colors = []
    for seed in (3, 4):
        body = {"prompt": "a fox", "caption": f"Panel of seed {seed}", "seed": seed, "enhance": False}
        panel = (await user.http.post(place, json=body, headers={"Prefer": "wait=30"})).json()
        content = (await user.http.get(panel["image"]["url"])).content
        colors.append(Image.open(io.BytesIO(content)).convert("RGB").getpixel((1700, 100)))
    content = (await export(user, comic, format="cbz", layout="single")).content
    shown = [page.getpixel((page.width * 0.94, page.height * 0.11)) for page in unpacked(content)]
    assert all(_near(a, b) for a, b in zip(shown, colors, strict=True)), (shown, colors)
    assert not _near(colors[0], colors[1])
    book = pypdf.PdfReader(io.BytesIO((await export(user, comic)).content))
    assert [f"Panel of seed {seed}" in book.pages[0].extract_text() for seed in (3, 4)] == [True, True]


async def test_several_at_once_come_out_whole(product: Stack) -> None:
    user = product.new_user()
    comic = await begun(user)
    await drawn(product, user, comic["chapters"][0]["id"], 6)
    answers = await asyncio.gather(*(export(user, comic, format=kind) for kind in ("pdf", "cbz") * 4))
    assert {len(pypdf.PdfReader(io.BytesIO(each.content)).pages) for each in answers[::2]} == {2}
    assert {each.content for each in answers[1::2]} == {answers[1].content}
    assert len((await seen(user, comic))["chapters"][0]["panels"]) == 6


def _inside(inner: Rect, outer: Rect, slack: float = 1e-6) -> bool:
    return (
        inner.x >= outer.x - slack
        and inner.y >= outer.y - slack
        and inner.x + inner.width <= outer.x + outer.width + slack
        and inner.y + inner.height <= outer.y + outer.height + slack
    )


def _overlap(one: Rect, other: Rect) -> bool:
    across = one.x < other.x + other.width and other.x < one.x + one.width
    return across and one.y < other.y + other.height and other.y < one.y + one.height


def _box(word: ElementTree.Element) -> Rect:
    left, top, right, bottom = (float(word.attrib[name]) for name in ("xMin", "yMin", "xMax", "yMax"))
    return Rect(left, top, right - left, bottom - top)
