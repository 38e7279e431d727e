"""A user's own images, listed in a table."""

import unicodedata

import pytest
import torch

import datasets.files.decode
import datasets.sources.from_files
from datasets import load_data
from tests.support.pictures import noise, options, save
from utils.errors import UserError
from utils.options.digests import content_digest, forget_digests


def write_table(root, counts=(10, 5), header="path,label", mark=b"", row="{path},{label}"):
    rows = [header]
    for k, (label, count) in enumerate(zip(("oak", "élm"), counts, strict=True)):
        for i in range(count):
            path = f"images/{k}_{i}.png"
            save(root / path, noise(32, 32, 3, seed=100 * k + i))
            rows.append(row.format(path=path, label=label, split=("train", "Test", "valid")[i % 3]))
    (root / "table.csv").write_bytes(mark + "\n".join(rows).encode())
    return root / "table.csv"


ROW = "{path},{label},{split}"


def csv_data(path, *flags):
    return load_data(options("--dataset", "csv", "--data_root", path, *flags))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_table_without_a_split_is_split_by_fraction(tmp_path, mark, stream):
    data = csv_data(write_table(tmp_path, mark=mark), "--stream", stream, "-j", 0)
    assert data.class_names == ["oak", "élm"] and data.class_counts == [8, 4]
    assert torch.bincount(data.test.labels).tolist() == [2, 1]
    assert all(name.startswith("images/") for name in data.train.files + data.test.files)


def test_the_splits_of_a_table_are_kept(tmp_path):
    table = write_table(tmp_path, header="Label, Path ,SPLIT", row="{label}, {path} ,{split}")
    data = csv_data(table, "--select_on", "heldout")
    assert data.class_counts == [4, 2] and len(data.test) == 5 and len(data.heldout) == 4
    assert {int(name.split("_")[1][:-4]) % 3 for name in data.test.files} == {1}


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_columns_may_be_separated_by_semicolons_or_tabs(tmp_path, delimiter, mark):
    with_commas = csv_data(write_table(tmp_path, header="path,label,split", row=ROW))
    header, row = "path,label,split".replace(",", delimiter), ROW.replace(",", delimiter)
    data = csv_data(write_table(tmp_path, header=header, row=row, mark=mark))
    assert data.train.files == with_commas.train.files
    assert data.fingerprint == with_commas.fingerprint


def test_a_label_may_have_semicolons(tmp_path):
    data = csv_data(write_table(tmp_path, row="{path},{label}; a; tree; of; a; kind"))
    assert data.class_names == [f"{name}; a; tree; of; a; kind" for name in ("oak", "élm")]


def test_paths_may_have_the_backslashes_of_windows(tmp_path):
    expected = csv_data(write_table(tmp_path)).train.files
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace("/", "\\"))
    assert csv_data(table).train.files == expected
    # A file whose name has a backslash keeps it.
    (tmp_path / "images" / "0_0.png").rename(tmp_path / "images\\0_0.png")
    data = csv_data(table)
    assert "images\\0_0.png" in data.train.files + data.test.files


@pytest.mark.parametrize(("of_file", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_accent_in_a_path_may_be_one_character_or_two(of_file, in_table, tmp_path):
    name, listed = (f"images/{unicodedata.normalize(f, 'élm.png')}" for f in (of_file, in_table))
    table = write_table(tmp_path)
    (tmp_path / "images" / "0_0.png").rename(tmp_path / name)
    table.write_text(table.read_text().replace("images/0_0.png", listed))
    data = csv_data(table)
    assert name in data.train.files + data.test.files
    table.write_text(f"{table.read_text()}\n{name},oak\n")
    with pytest.raises(UserError, match=r"line 17: .* is already listed in line 2"):
        csv_data(table)


def test_an_accent_in_a_label_may_be_one_character_or_two(tmp_path):
    table = write_table(tmp_path)
    decomposed = unicodedata.normalize("NFD", "élm")
    table.write_text(table.read_text().replace("élm", decomposed, 2))
    assert csv_data(table).class_names == ["oak", "élm"]


def test_cells_behind_the_last_column_may_be_empty(tmp_path):
    table = write_table(tmp_path, header="path,label,,", row="{path},{label},, ,")
    assert csv_data(table).class_counts == [8, 4]


def test_rows_of_nothing_but_delimiters_and_spaces_are_passed_over(tmp_path):
    table = write_table(tmp_path)
    before = csv_data(table).fingerprint
    table.write_text(f"{table.read_text()}\n,\n  \n , \n")
    assert csv_data(table).fingerprint == before
    # The size of the table's folder, which changes, is no part of the data.
    forget_digests()
    digest = content_digest(str(table), is_table=True)
    for i in range(100):
        (tmp_path / f"{i:0200}").touch()
    forget_digests()
    assert content_digest(str(table), is_table=True) == digest


def test_other_columns_are_named(tmp_path):
    assert "ignored" not in csv_data(write_table(tmp_path, header="path,label,,")).account()
    table = write_table(tmp_path, header="id,path,label,Set,", row="1,{path},{label},{split}")
    assert csv_data(table).account().endswith("; ignored: other columns (id, set)")


def test_a_table_is_decoded_once_into_a_cache_beside_it(tmp_path, monkeypatch):
    table = write_table(tmp_path)
    first = csv_data(table)
    assert (tmp_path / "table.decoded-32.npz").is_file()
    monkeypatch.setattr(datasets.files.decode, "read_pixels", None)
    assert torch.equal(csv_data(table).train.images, first.train.images)


def test_nothing_is_decoded_if_a_listed_file_is_missing(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(datasets.sources.from_files, "decode_once", refuse)
    table = write_table(tmp_path)
    (tmp_path / "images" / "0_1.png").unlink()
    (tmp_path / "images" / "1_1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 faults: .*0_1\.png: no such file.*1_1\.png: not an"):
        csv_data(table)


def test_nothing_is_decoded_if_a_class_has_no_training_images(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.sources.from_files, "decode_once", None)
    table = write_table(tmp_path, header="path,label,split", row=ROW)
    table.write_text(table.read_text().replace("élm,train", "élm,val"))
    with pytest.raises(UserError, match="label 'élm' has no training images"):
        csv_data(table)


def test_a_quoted_label_may_have_commas_and_quotation_marks(tmp_path):
    table = write_table(tmp_path, row='{path}, "{label}, the ""tree"""')
    assert csv_data(table).class_names == ['oak, the "tree"', 'élm, the "tree"']


def test_an_absolute_path_is_the_relative_one(tmp_path, monkeypatch):
    save(tmp_path / "a.png", noise(32, 32, 3))
    (tmp_path / "t.csv").write_text(f"path,label,split\na.png,x,train\n{tmp_path}/a.png,x,test\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"line 3: .*/a\.png is already listed in line 2"):
        csv_data("t.csv")


def test_whole_numbers_are_sorted_as_numbers_before_other_labels(tmp_path):
    lines = ["path,label"]
    for label in ("oak", 10, 9, 2):
        for i in range(2):
            save(tmp_path / f"{label}_{i}.png", noise(32, 32, 3))
            lines.append(f"{label}_{i}.png,{label}")
    (tmp_path / "t.csv").write_text("\r\n".join(lines))
    assert csv_data(tmp_path / "t.csv").class_names == ["2", "9", "10", "oak"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must name the columns path,label"),
        ("file;label\na.png;x", "file;label"),
        ("path,label\n", "no images are listed"),
        ("path,label\na.png", "line 2: no label for a.png"),
        ("path,label\n,x", "line 2: no path"),
        ("path,label\na.png,x\nb.png,y\na.png,y", "line 4: a.png is already listed in line 2"),
        ("path,label\na.png,x\n./b.png,y\n./c/../a.png,y", "a.png is already listed in line 2"),
        ('path,label\na.png,"x\nb.png,y\n', "lines 2 to 3: not a row of a table"),
        ('path,label\na.png,"x\nb.png,"y"\n', "lines 2 to 3: not a row of a table"),
        ('path,label\na.png,"x\nb.png,"\n', "line break; is a quotation mark left open?"),
        ('path,label\n\nb.png,"y"z', "line 3: not a row of a table (',' expected after '\"')"),
        ('path,label,"note\na.png,x,"\nb.png,y,', "the first line ends inside quotation marks"),
        ("path,label\na.png,Smith, Ann", "a cell with ',' in it needs quotation marks"),
        ("path,label\na.png,x,,test", "line 2: 'test' is in no column of the first line"),
        ("path,label,\na.png,x,test", "line 2: 'test' is in no column of the first line"),
        ("path,label,Label\na.png,x,y", "line 1: two columns have the name label"),
        ("path,label,split\na.png,x,trian", "line 2: split 'trian'"),
        ("path,label,split\na.png,x,test", "no line of the split train"),
        ("path,label\na.png,x\nb.png,x", "x is the only class there; a data set has two classes"),
        ("path,label,split\na.png,x,train\nb.png,y,test", "label 'y' has no training images"),
        ("path,label\nmissing.png,x\na.png,x\nb.png,y", "missing.png: no such file"),
        ("path,label\na.png,x\nb.png,\xff".encode("latin-1"), "save it as one (in Excel: CSV UTF"),
        ('"path" ,label\na.png,x', "not a table (line 1: ',' expected after '\"')"),
        (b"path,label\na\x00.png,x", "no path"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, text, says):
    for name in "ab":
        save(tmp_path / f"{name}.png", noise(32, 32, 3))
    (tmp_path / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UserError) as raised:
        csv_data(tmp_path / "t.csv")
    assert says in str(raised.value) and str(tmp_path / "t.csv") in str(raised.value)


@pytest.mark.parametrize("text", ["nan", "NaN", "NA", "n/a", "<NA>", "NULL", "#N/A"])
def test_a_class_that_looks_like_an_empty_cell_is_told(text, tmp_path):
    table = write_table(tmp_path)
    assert "label" not in csv_data(table).account()
    table.write_text(table.read_text().replace("élm", text))
    told = csv_data(table).account()
    assert told.endswith(f"; the class {text} may be images without a label (4 training)")


@pytest.mark.parametrize("text", ["a|b", "b ; a", "a|a"])
def test_a_class_that_joins_other_classes_is_told(text, tmp_path):
    """An image with several labels would count as one of a further class."""
    rows = ["path,label"]
    for i, label in enumerate(("a", "a", "b", "b", text, text, "Smith| John", "Smith| John")):
        save(tmp_path / f"{i}.png", noise(32, 32, 3, seed=i))
        rows.append(f"{i}.png,{label}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    told = csv_data(tmp_path / "table.csv").account()
    assert told.endswith(f"; 1 class may be several labels of one image (such as {text})")


@pytest.mark.parametrize("text", ["OAK", "oak  x", "Oak X "])
def test_labels_that_differ_only_in_case_or_spaces_are_told(text, tmp_path):
    oak = "oak x" if " " in text else "oak"
    table = write_table(tmp_path)
    table.write_text(table.read_text().replace("oak", oak))
    assert "case or spaces" not in csv_data(table).account()
    table.write_text(table.read_text().replace("élm", text))
    names = " and ".join(map(repr, sorted((oak, text.strip()))))
    assert (
        csv_data(table).account().endswith(f"; the classes {names} differ only in case or spaces")
    )
