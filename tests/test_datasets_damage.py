"""Files of data sets that are missing, damaged, or do not belong together."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from made_data import save_image, write_all

from estimator import ArgumentError, DataError, datasets


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made files, found by the environment variable."""
    monkeypatch.setenv("ESTIMATOR_DATA", str(tmp_path))
    return write_all(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["cifar10_subset", "rt_polarity", "multi30k", "dsb2018_nuclei", "bccd", "titanic",
     "california_housing"],
)  # fmt: skip
def test_a_missing_folder_says_where_the_files_can_be_had(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = getattr(datasets, name)
    with pytest.raises(DataError, match=r"nowhere', which is no folder.*https://"):
        read(tmp_path / "nowhere")
    monkeypatch.delenv("ESTIMATOR_DATA", raising=False)
    with pytest.raises(DataError, match=r"ESTIMATOR_DATA; received neither\."):
        read()


def test_made_files_are_found_by_the_environment_variable(made: Path) -> None:
    assert len(datasets.mnist(held_out=10).train[0]) == 30
    assert len(datasets.cifar10_subset().val[1]) == 800
    assert len(datasets.multi30k().test[0]) == 2


def test_a_missing_file_is_named(made: Path) -> None:
    (made / "mnist/t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"must hold the file 't10k-labels-idx1-ubyte', or .*holds"):
        datasets.mnist()
    with pytest.raises(DataError, match="it is no folder"):
        datasets.mnist(made / "none")


def test_sentences_in_another_encoding(made: Path) -> None:
    with pytest.raises(DataError, match=r"rt-polarity\.neg: .*'utf-8'; line 1 has the byte 0x85"):
        datasets.rt_polarity(encoding="utf-8")
    with pytest.raises(ArgumentError, match="received 'cp9999'"):
        datasets.rt_polarity(encoding="cp9999")
    (made / "rt-polarity/rt-polarity.pos").write_bytes(b"")
    with pytest.raises(DataError, match=r"rt-polarity\.pos: .*it is empty"):
        datasets.rt_polarity()


def test_pairs_that_do_not_match(made: Path) -> None:
    path = made / "multi30k/val.de.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"val\.de\.gz: .*its gzip is cut or damaged"):
        datasets.multi30k()
    path.write_bytes(b"ein Satz\n")
    with pytest.raises(DataError, match=r"val\.de\.gz: .* of val\.en\.gz, 3; received 1 lines"):
        datasets.multi30k()
    with pytest.raises(ArgumentError, match="Did you mean 'test_2017_flickr'"):
        datasets.multi30k(test="test_2017_flicker")


def test_nuclei_whose_files_do_not_match(made: Path) -> None:
    import numpy as np

    folder = made / "dsb2018-nuclei/train"
    save_image(folder / "labels/1.png", np.zeros((4, 8), np.uint8))
    with pytest.raises(DataError, match=r"labels/1\.png: .*\(8, 8\) as 0\.png has; .*\(4, 8\)"):
        datasets.dsb2018_nuclei()
    for i in range(3):
        save_image(folder / f"labels/{i}.png", np.zeros((4, 8), np.uint8))
    with pytest.raises(DataError, match=r"must have one size; received \(8, 8\) and \(4, 8\)"):
        datasets.dsb2018_nuclei()
    (folder / "labels/2.png").unlink()
    with pytest.raises(DataError, match=r"without a partner: \['2\.png'\]"):
        datasets.dsb2018_nuclei()


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    import numpy as np

    paths = [
        save_image(tmp_path / f"{side}.png", np.full((side, 4), side, np.uint8)) for side in (4, 6)
    ]
    with pytest.raises(DataError, match=r"6\.png: .*Let them be stretched to one: size="):
        datasets.read_pictures(paths)
    images = datasets.read_pictures(paths, size=(3, 2))
    assert images.shape == (2, 3, 3, 2) and images[:, 0, 0, 0].tolist() == [4, 6]
    paths[0].write_bytes(paths[0].read_bytes()[:40])
    with pytest.raises(DataError, match=r"4\.png: an image that can be read is needed"):
        datasets.read_picture(paths[0])
    with pytest.raises(DataError, match="one image or more; received none"):
        datasets.read_pictures([])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("RBC", "cat", r"a\.xml: classes are RBC, WBC, Platelets; received 'cat'"),
        ("<xmin>1</xmin>", "", r"a\.xml: an object needs bndbox .* of 'RBC'"),
        ("</annotation>", "", r"a\.xml: an annotation of Pascal VOC .*Is it cut\?"),
    ],
)
def test_damaged_annotations(made: Path, old: str, new: str, message: str) -> None:
    path = made / "bccd/Annotations/a.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError, match=message):
        datasets.bccd()


def test_bad_boxes_are_dropped_cut_or_refused(made: Path) -> None:
    path = made / "bccd/Annotations/a.xml"
    path.write_text(path.read_text().replace("<xmax>5<", "<xmax>500<"))
    with pytest.raises(DataError, match=r"2 others: a\.xml: RBC at .* outside the image; b\.xml"):
        datasets.bccd(on_bad_box="raise")
    with pytest.warns(UserWarning, match="2 boxes without area or outside"):
        data = datasets.bccd()
    assert data.train["boxes"].tolist() == [[[1.0, 2.0, 12.0, 6.0]]]
    assert data.val["valid"].tolist() == [[False]]
    with pytest.raises(ArgumentError, match="'drop' or 'raise'; received 'ignore'"):
        datasets.bccd(on_bad_box="ignore")  # type: ignore[arg-type]  # what it is for
    for name in "ab":
        path = made / f"bccd/Annotations/{name}.xml"
        path.write_text(path.read_text().replace("<xmax>3<", "<xmax>4<").replace(">500<", ">9<"))
        path.write_text(path.read_text().replace("<ymax>3<", "<ymax>4<"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.bccd(on_bad_box="raise").val["valid"].all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,y\n1,2\n3\n", r"t\.csv: line 3 must have 2 cells, as the header; received 1"),
        ("a,y\n1,2\nx,4\n", r"t\.csv: the column 'a' must hold finite numbers; line 3 has 'x'"),
        ("a,y\n1,2\n-inf,4\n", r"t\.csv: .* 'a' must hold finite numbers; line 3 has '-inf'"),
        ("b,y\n1,2\n", r"t\.csv: there must be a column 'a'\. There are: b, y"),
        ("a,y\n\n", r"t\.csv: there must be rows below the header"),
    ],
)
def test_damaged_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        datasets.read_table(tmp_path / "t.csv", ["a"], target="y")


def test_a_cell_may_hold_a_comma_and_a_line_end(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfa,name,y\r\n1,"x, \r\ny",2\r\n\r\n3,z,4\r\n')
    table = datasets.read_table(tmp_path / "t.csv", ["a"], words=["name"], target="y")
    assert {name: column.tolist() for name, column in table.items()} == {
        "a": [1, 3], "name=x, \ny": [1, 0], "name=z": [0, 1], "y": [2, 4],
    }  # fmt: skip


def test_words_that_are_missing_are_no_class(made: Path) -> None:
    """The error names the column of the file, and not those that are made of it."""
    path = made / "titanic/train.csv"
    path.write_text(path.read_text().replace(",S\n", ",NaN\n", 1))
    with pytest.raises(DataError, match=r"received 1 in 'Age', 2 in 'Embarked', of 20 rows"):
        datasets.titanic()
    assert "Embarked=NaN" not in datasets.titanic(missing="fill").columns
