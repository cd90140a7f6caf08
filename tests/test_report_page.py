"""`report.build`: the page shows what the folder holds, escapes it, and says what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from page_reader import Part, read_page
from run_folders import HOSTILE, history, png, write_run, write_section

from estimator import FolderError, MissingExtraError
from estimator.report import _album, _contents, _render, _sections, build

OWN = [
    *("Outcome", "Curves", "Learning rate", "Arguments", "Environment", "Log"),
    "Missing reports",
]


def page_of(folder: Path) -> dict[str, Part]:
    path = build(folder)
    assert path == folder / "report.html"
    assert [f.name for f in folder.iterdir() if f.name.startswith(".")] == []
    return read_page(path)


def gaps(page: dict[str, Part]) -> dict[str, str]:
    return {what: why for what, why in page["Missing reports"].tables[0][1:]}


def test_a_run_is_told_from_its_folder_alone(tmp_path: Path) -> None:
    again = [{"time": "2026-03-01T11:30:00+01:00", "epoch": 6, "step": 1878}, 3]
    ended = "2026-03-01T12:00:00"
    page = page_of(write_run(tmp_path / "mnist_r0", reason="why", resumed=again, ended=ended))
    assert list(page) == ["", *OWN]
    outcome = page["Outcome"]
    assert "completed" in page[""].text and "mnist_r0" in page[""].text
    for told in ("why", "4 min 12 s", "2026-03-01 12:00:00.", "2026-03-01 10:00:00 UTC", "3756"):
        assert told in outcome.text
    values = {row[0]: row[1:] for row in outcome.tables[0][1:]}
    assert values["val_accuracy"] == ["higher", "0.94222", "12", "0.94222"]
    assert values["val_loss"][0] == "lower"
    assert values["train_accuracy"] == ["not declared", "–", "–", "0.941862"]
    assert outcome.tables[1][1:] == [["2026-03-01 10:30:00 UTC", "6", "1878"]]
    assert ["trainers", "Trainer('adam', lr=0.001)"] in page["Arguments"].tables[0]
    assert ["seed", "7"] in page["Arguments"].tables[0]
    assert ["command", "train.py --lr 0.001"] in page["Environment"].tables[0]
    assert ["git: dirty", "no"] in page["Environment"].tables[0]
    assert "epoch 2 of 12" in page["Log"].text
    assert "Nothing is missing." in page["Missing reports"].text


def test_curves_have_a_line_a_split_and_a_table_twin(tmp_path: Path) -> None:
    curves = page_of(write_run(tmp_path))["Curves"]
    titles = re.findall(r"(\w+)\s*\n\s*last", curves.text)
    assert titles == ["loss", "accuracy"]
    classes = [tag.attributes["class"] for tag in curves.named("path") if "class" in tag.attributes]
    assert [name for name in classes if name.startswith("line ")].count("line line-1") == 4
    assert "train, epoch 1: 1.74" in curves.text
    heads, *rows = curves.tables[0]
    assert len(rows) == 12
    cells = dict(zip(heads, rows[-1], strict=True))
    expected = history().rows[-1]
    assert cells["val_loss"] == f"{expected['val_loss']:.6g}" and cells["complete"] == "yes"
    data = [json.loads(text) for text in re.findall(r"^\{.*\}$", curves.text, re.MULTILINE)]
    assert data[0]["x"] == list(range(1, 13))
    assert data[0]["y"][1][-1] == f"{expected['val_loss']:.6g}"


def test_sections_of_all_handlers_appear_by_order_and_title(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_section(run, "b", "B part", 300, tables=[
        {"title": "T", "columns": ["class", "F1"], "rows": [["a", 0.5], ["b", "NaN"], ["c", None]]}
    ])  # fmt: skip
    write_section(run / "a" / "deep", "a", "A part", 300, text="Said.\nTwice.")
    cards = [{
        "title": "uid 4", "facts": {"loss": 0.123456789, "class": "cat"}, "file": "4.txt",
        "pictures": [{"file": "4.png", "caption": "it"}],
    }]  # fmt: skip
    write_section(run / "w", "w", "Worst", 420, samples=cards)
    (run / "w" / "4.png").write_bytes(png())
    (run / "w" / "4.txt").write_text("uid=4")
    write_section(run, "last", "No order", "x", samples=None)  # type: ignore[arg-type]  # damaged on purpose
    page = page_of(run)
    assert list(page) == [
        *("", "Outcome", "Curves", "A part", "B part", "Worst", "Learning rate", "No order"),
        *OWN[3:],
    ]
    contents = [t.attributes["href"] for t in page[""].named("a") if "#s" in t.attributes["href"]]
    assert contents == [f"#{part.tags[0].attributes['id']}" for part in list(page.values())[1:]]
    assert page["B part"].tables == [[["class", "F1"], ["a", "0.5"], ["b", "NaN"], ["c", "–"]]]
    heads = page["B part"].named("th")
    assert ["number" in tag.attributes.get("class", "") for tag in heads] == [False, True]
    worst = page["Worst"]
    assert "0.123457" in worst.text
    assert worst.named("dd")[0].attributes == {"title": "0.123456789"}
    (image,) = worst.named("img")
    assert image.attributes["src"] == ("data:image/png;base64," + base64.b64encode(png()).decode())
    assert (image.attributes["alt"], image.attributes["width"]) == ("it", "28")
    assert [tag.attributes["href"] for tag in worst.named("a")] == ["./w/4.txt"]
    assert gaps(page) == {
        "samples of last.section.json": "some of it is not as a section should be"
    }
    assert "1 report is missing" in page["Outcome"].text


def test_hostile_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    table = history(3)
    table.columns.append(f"val_{HOSTILE}")
    for row in table.rows:
        row[f"val_{HOSTILE}"] = 1.0
    settings = {"arguments": {HOSTILE: HOSTILE}, "missing": {HOSTILE: HOSTILE}, "seed": HOSTILE}
    more = {"started": HOSTILE, "versions": {HOSTILE: HOSTILE}, "command": [HOSTILE]}
    run = write_run(tmp_path / "x", table, name=HOSTILE, reason=HOSTILE, **settings, **more)
    picture = {"file": HOSTILE, "caption": HOSTILE}
    write_section(
        *(run, "h", HOSTILE),
        text=HOSTILE,
        tables=[{"title": HOSTILE, "columns": [HOSTILE], "rows": [[HOSTILE], [f'"{HOSTILE}']]}],
        pictures=[picture, {"file": "ok.png", "caption": HOSTILE}],
        samples=[{"title": HOSTILE, "facts": {HOSTILE: HOSTILE}, "file": HOSTILE}],
    )
    (run / "ok.png").write_bytes(png())
    (run / "trainer.txt").write_text(HOSTILE)
    page = page_of(run)
    tags = [tag for part in page.values() for tag in part.tags]
    scripts = [tag for tag in tags if tag.name == "script" and "type" not in tag.attributes]
    assert len(scripts) == 1
    assert [t for t in tags if any(name.startswith("on") for name in t.attributes)] == []
    assert [t for t in tags if "style" in t.attributes] == []
    sources = [t.attributes["src"] for t in tags if "src" in t.attributes]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert {t.attributes["href"] for t in tags if t.name == "a"} <= {
        "#main", *(f"#section-{i}" for i in range(1, 20)),
    }  # fmt: skip
    assert HOSTILE in page and page[HOSTILE].tables[0][1] == [HOSTILE]
    for part in ("Arguments", "Environment", "Missing reports"):
        assert any(HOSTILE in cell for row in page[part].tables[0] for cell in row)
    assert HOSTILE in page["Log"].text and HOSTILE in page["Outcome"].text
    assert HOSTILE in page["Curves"].text, "the title of its chart"


def test_the_policy_lets_only_the_page_itself_run(tmp_path: Path) -> None:
    path = build(write_run(tmp_path))
    text = path.read_text("utf-8")
    (policy,) = (
        tag.attributes["content"]
        for tag in read_page(path)[""].named("meta")
        if tag.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind, pattern in (
        ("script", r"<script>(.*?)</script>"),
        ("style", r"<style>(.*?)</style>"),
    ):
        (content,) = re.findall(pattern, text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert "http://" not in text and "https://" not in text


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("gone.png", "it is not there"), ("../outside.png", "it lies outside the run folder"),
        ("/etc/hostname", "it lies outside the run folder"), ("link.png", "outside the run folder"),
        ("text.png", "it is no PNG, JPEG or GIF picture"), (7, "its name is no text"),
        ("a\0b", "it cannot be read"), ("folder.png", "it is not there"), ("large.png", "limit"),
    ],
)  # fmt: skip
def test_a_picture_that_cannot_be_shown_is_named(
    file: object, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_album, "PICTURE_BYTES", 10_000)
    run = write_run(tmp_path / "run")
    (tmp_path / "outside.png").write_bytes(png())
    (run / "link.png").symlink_to(tmp_path / "outside.png")
    (run / "text.png").write_text("<svg onload='alert(1)'/>")
    (run / "large.png").write_bytes(png() + bytes(20_000))
    (run / "folder.png").mkdir()
    write_section(run, "p", "Pictures", pictures=[{"file": file, "caption": "x"}])
    page = page_of(run)
    ((what, found),) = gaps(page).items()
    assert what.startswith("the picture") and why in found
    assert page["Pictures"].named("img") == []


def test_what_does_not_fit_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_album, "PAGE_BYTES", len(png()) * 4 // 3 + 700)
    run = write_run(tmp_path)
    (run / "p.png").write_bytes(png())
    pictures = [{"file": "p.png", "caption": ""}] * 3
    write_section(run, "p", "Much", pictures=pictures)
    full = [{"title": "F", "columns": ["a"], "rows": [["x" * 390]]}]
    write_section(run, "q", "Too much", 310, tables=full, samples=[{"facts": {"y" * 400: 1}}])
    page = page_of(run)
    assert len(page["Much"].named("img")) == 1
    found = gaps(page)
    assert "they are in the folder" in found["2 pictures"]
    assert found["the table F of q.section.json"] == "the page is full"
    assert page["Too much"].named("dd") == []


def test_large_tables_and_many_samples_are_cut_and_it_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    columns = [f"c{i}" for i in range(250)]
    tables = [{"title": "T", "columns": columns, "rows": [columns] * 120}]
    cards = [{"title": f"uid {i}", "facts": {"x": 1}} for i in range(205)]
    write_section(run, "p", "Much", tables=tables, samples=cards)
    much = page_of(run)["Much"]
    note = "Shown: 200 of 250 columns, 100 of 120 rows. All are in p.section.json."
    assert note in much.text
    assert len(much.tables[0]) == 101 and {len(row) for row in much.tables[0]} == {200}
    assert len(much.named("article")) == 200 and "200 of 205 samples are shown" in much.text


def test_damaged_sections_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for name, content in {
        "cut": '{"schema": 1, "title":', "list": "[1]", "deep": "[" * 200_000, "empty": "",
        "schema": '{"schema": 2}', "nothing": '{"schema": 1}',
    }.items():  # fmt: skip
        (run / f"{name}.section.json").write_text(content)
    (run / "folder.section.json").mkdir()
    parts: dict[str, Any] = {
        "tables": [{"columns": 1, "rows": [3, ["x"]]}, 5],
        "pictures": {},
        "order": "NaN",
    }
    odd = {"title": 5, "facts": [1], "file": "none.txt"}
    write_section(run, "odd", "Odd \ud800", text=5, samples=[odd], **parts)
    page = page_of(run)
    assert {what: why.split(":")[0] for what, why in gaps(page).items()} == {
        "the section cut.section.json": "it is no JSON",
        "the section deep.section.json": "it is no JSON",
        "the section empty.section.json": "it is no JSON",
        "the section list.section.json": "it holds a list in place of an object",
        "the section schema.section.json": "it has schema 2, not 1",
        "tables of odd.section.json": "some of it is not as a section should be",
        "pictures of odd.section.json": "some of it is not as a section should be",
        "the text none.txt": "it is not there",
    }
    assert "Odd ?" in page and "Without a title" in page


def test_a_folder_without_anything_gives_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "not recorded" in page[""].text and "run.json: it is not there" in page["Outcome"].text
    (tmp_path / "history.csv").write_text("epoch,complete\n")
    assert "There are no values yet." in page_of(tmp_path)["Curves"].text
    assert "There is no history." in page["Curves"].text
    assert "run.json holds no arguments." in page["Arguments"].text
    assert "run.json holds no environment." in page["Environment"].text
    assert "Log" not in page and "Learning rate" not in page


def test_damage_of_the_run_itself_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    (run / "run.json").write_text("[]")
    (run / "history.csv").write_text("epoch,val_loss\n1,0.5\n2")
    page = page_of(run)
    assert "damaged" in page[""].text and "2 reports are missing" in page["Outcome"].text
    assert gaps(page) == {
        "what run.json holds": "it holds a list in place of an object",
        "some of the history": "history.csv: rows of another length were left out: 1",
    }


def test_only_a_folder_has_a_page(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"build\(folder=\.\.\.\) must be the folder of a run"):
        build(tmp_path / "none")


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(folder: Path, onerror: object) -> list[object]:
        assert callable(onerror)
        onerror(PermissionError(13, "Permission denied", "closed"))
        return []

    monkeypatch.setattr("os.walk", walk)
    assert gaps(page_of(write_run(tmp_path))) == {"the folder closed": "Permission denied"}


def test_bounds_on_sections_charts_rates_and_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sections, "MOST_SECTIONS", 2)
    for name, bound in (("_MOST_CHARTS", 1), ("_MOST_LINES", 1), ("_MOST_GAPS", 2)):
        monkeypatch.setattr(_contents, name, bound)
    table = history(2)
    table.columns.append("lr_b")
    missing = {f"report {i}": "full" for i in range(5)}
    run = write_run(tmp_path, table, missing=missing)
    for i in range(4):
        write_section(run, f"s{i}", f"S{i}")
    page = page_of(run)
    assert "S1" in page and "S2" not in page
    assert "1 of 2 charts are shown." in page["Curves"].text
    assert "1 of 2 rates are shown." in page["Learning rate"].text
    assert "2 of 6 are shown." in page["Missing reports"].text


def test_the_recorded_rates_join_the_section_of_their_handler(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    folder = run / "lr_recorder"
    write_section(folder, "lr", "Learning rate", 600, text="By the recorder.")
    (folder / "lr.csv").write_text("epoch,step,adam,sgd/group0\n1,10,0.1,\n2,20,0.01,0.5\n")
    part = page_of(run)["Learning rate"]
    assert "By the recorder." in part.text
    assert "adam" in part.text and "sgd/group0" in part.text
    assert "adam, step 10: 0.1" in part.text
    (folder / "lr.csv").write_text("epoch,step,adam\n1,10,\n")
    assert page_of(run)["Learning rate"].named("figure") == []


def test_the_page_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    _render._environment.cache_clear()
    with pytest.raises(MissingExtraError, match=r"torch-estimator\[report\]"):
        build(write_run(tmp_path))
