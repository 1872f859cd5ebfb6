"""The report: complete, self-contained, escaped, the same numbers everywhere."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SOAK
from illustrated_run import illustrated_run
from PIL import Image
from synthetic_run import CHANCE, write_run

from analysis.errors import RunFolderError
from analysis.pictures import Pictures, inside
from analysis.report import Report, render, write_report
from analysis.results import assemble
from analysis.terminal import summary_lines
from analysis.words import compare, number, p_words, percent, points, verdict_sentence, with_interval

HOSTILE = "<script>alert(1)</script>|`$\\frac{$ \u202e\u05d0\u05d1 \U0001f600 "


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    tasks = tuple(CHANCE) if SOAK else ("flickr30k", "vqa", "gqa", "hateful_memes")
    folder = write_run(tmp_path_factory.mktemp("runs") / "shown", tasks=tasks, num_rows=320)
    return write_report(folder, num_resamples=200)


class Page(html.parser.HTMLParser):
    """Collects what matters of a page: tags, ids, addresses and text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action"):
                self.addresses.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_complete_and_needs_nothing_else(report: Report) -> None:
    page = Page(report.html.read_text(encoding="utf-8"))
    for section in ("verdict", "provenance", "scores", "contributions", "interactions", "errors", "controls"):
        assert section in page.ids
    for section in ("examples", "sensitivity", "slices", "attention", "similarity", "cost", "training", "limits"):
        assert section in page.ids
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address[:1] == "#"} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("script") == 1 and "iframe" not in page.tags
    assert report.html.stat().st_size < 5_000_000


def test_every_figure_is_a_file_with_an_alternative_text(report: Report) -> None:
    files = sorted(report.figures.glob("*.svg"))
    kinds = "coalitions contributions interactions moebius errors double-fault exclusive controls slices attention cost"
    names = {f"{task}-{kind}" for task in report.results["tasks"] for kind in kinds.split()}
    with_logprob = [t for t, found in report.results["tasks"].items() if "not_run" not in found["logprob"]]
    names |= {f"{task}-interactions-logprob" for task in with_logprob}
    assert {path.stem for path in files} == {*names, "similarity-cka", "similarity-errors", "training"}
    assert {path.stem for path in report.figures.glob("*.png")} == {path.stem for path in files}
    for path in report.figures.glob("*.png"):
        with Image.open(path) as image:
            assert image.format == "PNG" and min(image.size) > 150
    for path in files:
        ElementTree.parse(path)
    markdown = report.markdown.read_text(encoding="utf-8")
    linked = re.findall(r"!\[(.+?)\]\(figures/(.+?)\.svg\)", markdown)
    assert {name for _, name in linked} == {path.stem for path in files}
    assert all(len(alt) > 20 for alt, _ in linked)


def test_numbers_are_the_same_in_page_markdown_and_json(report: Report) -> None:
    text = "".join(Page(report.html.read_text(encoding="utf-8")).text)
    markdown = report.markdown.read_text(encoding="utf-8")
    results = json.loads(report.json.read_text())

    def shown(words: str) -> bool:
        return words in text and words in markdown

    for task in results["tasks"].values():
        for leaf in (*task["coalitions"], *(one["double_fault"] for one in task["overlap"]), *task["exclusive"]):
            assert shown(percent(leaf))
        for leaf in (*task["shapley"].values(), *task["shortfall"], *task["moebius"], *task["interaction"]):
            assert shown(points(leaf))
        for leaf in (*task["higher_interaction"], *(one["gain"] for one in task["verdict"])):
            assert shown(points(leaf))
        for leaf in (*task["ensemble"].values(), *(e["rescue"] for e in task["flips"].values())):
            assert shown(percent(leaf))
        for value in task["slices"]["factor"].values():
            assert all(shown(points(leaf)) and shown(p_words(leaf["p_bh"])) for leaf in value["shapley"].values())
        if "not_run" not in task["logprob"]:
            for leaf in task["logprob"]["shapley"].values():
                assert shown(with_interval(leaf, digits=3))
        if isinstance(task["information"], list):
            assert all(shown(with_interval(one["synergy"], digits=3)) for one in task["information"])


def test_baselines_stand_beside_each_score(report: Report) -> None:
    markdown = report.markdown.read_text(encoding="utf-8")
    results = json.loads(report.json.read_text())
    for name, task in results["tasks"].items():
        assert task["majority"] == pytest.approx(task["chance"] + 0.05)
        assert (task["prior"] is not None) == (name in ("vqa", "gqa"))
    assert markdown.count("(guessing)") == markdown.count("(most frequent answer)") == len(results["tasks"])
    assert markdown.count("(most frequent of its type)") == 2
    assert number(results["tasks"]["gqa"]["prior"], scale=100) in markdown


def test_the_page_says_what_it_may_not_claim(report: Report) -> None:
    text = "".join(Page(report.html.read_text(encoding="utf-8")).text)
    assert "conditional on the one seed" in text
    assert "so longer training may change what it shows" in text
    assert "controls not run: duplicate, seeds, matched, averaged" in text
    assert "attention describes where the model looks" in text
    assert "established.</" not in text


def test_dataset_strings_do_no_harm(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "hostile", tasks=("gqa",), num_rows=200, strings=HOSTILE)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": HOSTILE * 200, "run": HOSTILE}))
    report = write_report(folder, num_resamples=50)
    source = report.html.read_text(encoding="utf-8")
    assert "<script>alert" not in source
    assert Page(source).tags.count("script") == 1
    assert "alert(1)" in "".join(Page(source).text)
    assert "<script" not in report.markdown.read_text(encoding="utf-8")
    for path in report.figures.glob("*.svg"):
        tags = [element.tag for element in ElementTree.parse(path).iter()]
        assert not any(tag.endswith("script") for tag in tags)


def test_what_was_not_run_is_named(report: Report) -> None:
    text = "".join(Page(report.html.read_text(encoding="utf-8")).text)
    for name in ("sensitivity › zero", "sensitivity › retrained", "controls › duplicate", "overlap › union seeds"):
        assert name in text
    assert "Not run: zero, mean, permuted, retrained (the run holds no such cells)." in text
    assert "Not run: mutual nearest neighbours" in text


def test_other_removals_are_shown_where_they_were_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "removed", tasks=("gqa",), num_rows=100)
    for path in list((folder / "answers").glob("gqa.0.masked.drop.*")):
        if ".select." not in path.name:
            table = pq.read_table(path)
            zero = table.set_column(table.column_names.index("removal"), "removal", pa.array(["zero"] * table.num_rows))
            pq.write_table(zero, path.with_name(path.name.replace(".drop.", ".zero.")))
    report = write_report(folder, num_resamples=50)
    text = "".join(Page(report.html.read_text(encoding="utf-8")).text)
    found = report.results["tasks"]["gqa"]["sensitivity"]["zero"]
    assert "Removal 'zero' ranks" in text and "Ways of removing an encoder" in text
    assert points(found["leave_one_out"]["clip"]) in text


def test_examples_come_with_texts_and_small_pictures(tmp_path: Path) -> None:
    folder = illustrated_run(tmp_path / "run", tasks=("gqa",), num_rows=100, text="where is it?")
    (folder / "pictures" / "images" / "3.jpg").write_bytes(b"no picture")
    source = write_report(folder, num_resamples=50).html.read_text(encoding="utf-8")
    pictures = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", source)
    assert len(pictures) >= 12 and "where is it? " in source
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.size == (96, 58)
    (folder / "pictures").rename(tmp_path / "moved")
    report = write_report(folder, num_resamples=50)
    without = report.html.read_text(encoding="utf-8")
    assert "base64" not in without and without.count("no picture: ") >= 12
    render(folder, report.results, report.json, images={"gqa": tmp_path / "moved"})
    assert report.html.read_text(encoding="utf-8") == source


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", "..\\secret.jpg", "", "\0"])
def test_no_picture_is_taken_from_outside_its_folder(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.jpg")
    (tmp_path / "images").mkdir()
    assert inside(tmp_path / "images", name) is None
    assert Pictures({"gqa": tmp_path / "images"}).get("gqa", name) is None


def test_a_picture_that_cannot_be_shown_costs_the_picture_alone(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "small.png")
    Image.new("I;16", (300, 200)).save(tmp_path / "deep.png")
    Image.new("P", (300, 200)).save(tmp_path / "palette.gif")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "small.png").read_bytes()[:30])
    (tmp_path / "folder.jpg").mkdir()
    pictures = Pictures({"gqa": tmp_path})
    for name in ("bomb.png", "cut.jpg", "folder.jpg", "none.jpg", "x" * 10_000):
        assert pictures.get("gqa", name) is None, name
    for name, size in (("small.png", (9, 9)), ("deep.png", (96, 64)), ("palette.gif", (96, 64))):
        with Image.open(io.BytesIO(pictures.get("gqa", name) or b"")) as image:
            assert image.size == size and image.format == "JPEG"
    assert pictures.get("vqa", "small.png") is None


def test_a_broken_folder_writes_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "broken", tasks=("gqa",), num_rows=60)
    (folder / "answers" / "gqa.0.masked.drop.vit.parquet").unlink()
    with pytest.raises(RunFolderError):
        write_report(folder, num_resamples=50)
    assert not list(folder.glob("re*")) and not (folder / "figures").exists()


def test_rendering_twice_gives_the_same_bytes_in_seconds(report: Report) -> None:
    before = {path.name: path.read_bytes() for path in report.figures.iterdir()}
    page = report.html.read_bytes()
    start = time.process_time()
    render(report.html.parent, report.results, report.json)
    assert time.process_time() - start < 60
    assert {path.name: path.read_bytes() for path in report.figures.iterdir()} == before
    assert report.html.read_bytes() == page


def test_a_run_with_little_in_it_still_renders(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "bare", tasks=("snli_ve",), num_rows=60)
    for name in ("attention.parquet", "similarity.json", "cost.json", "environment.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "train")
    for path in (folder / "answers").glob("*select*"):
        path.unlink()
    text = "".join(Page(write_report(folder, num_resamples=50).html.read_text(encoding="utf-8")).text)
    assert "not compared with the best single encoder" in text


def test_summary_has_a_line_a_task_with_intervals(report: Report) -> None:
    lines = summary_lines(report.results)
    for task in report.results["tasks"]:
        [line] = [line for line in lines if line.startswith(f"{task} ")]
        assert line.count(" to ") == 4
    assert lines[-1] == report.results["interval_note"]
    assert all(len(line) <= 140 for line in lines)


def test_wording_follows_the_interval() -> None:
    def leaf(value: float, low: float, high: float) -> dict[str, object]:
        return {"value": value, "ci95": [low, high], "n": 10}

    plain = str.maketrans({"\u00a0": " "})
    assert compare(leaf(0.05, 0.02, 0.08), what="x").translate(plain) == "5.0 pt (2.0 to 8.0) above x"
    assert compare(leaf(-0.05, -0.08, -0.02), what="x").translate(plain) == "5.0 pt (2.0 to 8.0) below x"
    undecided = compare(leaf(0.01, -0.02, 0.04), what="x").translate(plain)
    assert undecided == "not told apart from x (+1.0 pt (−2.0 to 4.0))"
    assert number(-0.0001, scale=100, sign=True) == "0.0"
    entry = {"encoder": "clip", "gain": leaf(0.01, -0.02, 0.04), "p_holm": 0.5, "detectable": 0.04, "comparisons": 8}
    entry |= {"grade": "undetermined", "replaceable_by": [], "lacking": []}
    said = verdict_sentence(entry, []).translate(plain)
    assert said == (
        "Dropping clip costs 1.0 pt (−2.0 to 4.0); its interval includes zero (Holm p = 0.500; "
        "among 8 comparisons this design detects 4.0 pt or more)."
    )


def test_results_need_no_rendering_library(report: Report) -> None:
    assert assemble(report.html.parent, num_resamples=200) == report.results
