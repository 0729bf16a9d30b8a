"""Tables as people have them: the numbers that are in the file, or one sentence that names the option."""

import bz2
import gzip
import io
import lzma
import time
import zipfile

import numpy as np
import pandas as pd
import pytest

from conftest import SMALL
from pyro_vae import InputError, load_data
from pyro_vae.data import columns, text

pytestmark = pytest.mark.usefixtures("blank_figures")

rng = np.random.default_rng(0)
X = rng.normal(size=(10, 3)).round(3)
T = pd.DataFrame(X, columns=list("abc"))
KINDS = ["x", "y"] * 5
L = T.assign(name=KINDS)
COUNTS = rng.poisson(30, (12, 4))


def csv(table=T, **options):
    return table.to_csv(**{"index": False, **options})


def bare(table=T, **options):
    return csv(table, header=False, **options)


@pytest.fixture
def read(tmp_path):
    """Write content to a file, and read it as data that are not split."""

    def write_and_load(content, name="x.csv", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_data(
            str(path), **{"test_fraction": 0, "validation_fraction": 0, **options}
        )

    return write_and_load


def said(data):
    return " | ".join(data.notes)


QUOTED = "\n".join('"' + '","'.join(map(str, row)) + '"' for row in X)
SAME = {
    "header": csv(),
    "no header": bare(),
    "index": csv(index=True),
    "index from 1": csv(T.set_axis(range(1, 11)), index=True),
    "shuffled index": csv(T.set_axis([7, 3, 12, 99, 0, 5, 6, 41, 8, 1]), index=True),
    "index of texts": csv(T.set_axis([f"r{i}" for i in range(10)]), index=True),
    "index written twice": csv(T.reset_index(names="Unnamed: 0"), index=True),
    "index of a header that is short": csv(index=True).removeprefix(","),
    "index of a table without names": pd.DataFrame(X).to_csv(),
    "names of rows without a header": bare(
        T.set_axis([f"r{i}" for i in range(10)]), index=True
    ),
    "id": csv(T.assign(id=range(1000, 1010))),
    "PassengerId": csv(T.assign(PassengerId=range(1000, 1010))),
    "sample_id of texts": csv(T.assign(sample_id=[f"r{i}" for i in range(10)])),
    "semicolons": csv(sep=";"),
    "semicolons, no header": bare(sep=";"),
    "german": csv(sep=";", decimal=","),
    "german, no header": bare(sep=";", decimal=","),
    "german, tabs": bare(sep="\t", decimal=","),
    "german, spaces": bare(sep=" ", decimal=","),
    "german, quoted": bare(decimal=","),
    "tabs": csv(sep="\t"),
    "bars": csv(sep="|"),
    "spaces": bare(sep=" "),
    "aligned": T.to_string(index=False),
    "spaces after commas": bare().replace(",", ", "),
    "spaces at the ends": "\n".join(
        f"  {line}  " for line in bare(sep=" ").splitlines()
    ),
    "quotes": QUOTED,
    "quotes and a header": '"a","b","c"\n' + QUOTED,
    "trailing commas": csv().replace("\n", ",\n"),
    "trailing commas, header without": "a,b,c\n" + bare().replace("\n", ",\n"),
    "trailing commas, no header": bare().replace("\n", ",\n"),
    "windows": csv(lineterminator="\r\n"),
    "old macintosh": csv(lineterminator="\r"),
    "blank lines": "\n" + csv().replace("\n", "\n\n") + "\n\n",
    "no end of line": csv().rstrip(),
    "comment": "# made by lab\n" + csv(),
    "comments between": "# made by lab\n" + bare().replace("\n", "\n# cut\n", 3),
    "comment of another sign": "% made by lab, 2020\n" + csv(),
    "excel says its sign": "sep=;\n" + csv(sep=";"),
    "header of years": "2019,2020,2021\n" + bare(),
    "header of wavelengths": "400.5,410.5,420.5\n" + bare(),
    "header of positions": "0,1,2\n" + bare(),
    "bom": b"\xef\xbb\xbf" + bare().encode(),
    "bom and header": b"\xef\xbb\xbf" + csv().encode(),
    "utf-16": csv(sep="\t").encode("utf-16"),
    "utf-16, no header": bare(sep="\t").encode("utf-16"),
    "latin-1": csv(T.set_axis(["é", "ü", "ß"], axis=1)).encode("latin-1"),
    "exponents": "\n".join(",".join(f"{v:.17e}" for v in row) for row in X),
    "signs": "\n".join(",".join(f"{v:+}" for v in row) for row in X),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_numbers_in_every_way(read, kind):
    data = read(SAME[kind])
    np.testing.assert_array_equal(data.values["train"], X)
    assert data.labels is None
    assert len(data.notes) >= 1
    assert len(data.columns) == 3


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("x.tsv", lambda b: b),
        ("x.txt", lambda b: b),
        ("x.dat", lambda b: b),
        ("x.data", lambda b: b),
        ("x.CSV", lambda b: b),
        ("x.csv.gz", gzip.compress),
        ("x.tsv.gz", gzip.compress),
        ("x.csv.bz2", bz2.compress),
        ("x.csv.xz", lzma.compress),
        ("x.v2.txt.gz", gzip.compress),
    ],
)
def test_names_and_compressions(read, name, pack):
    data = read(pack(csv(sep="\t", index=True).encode()), name)
    np.testing.assert_array_equal(data.values["train"], X)
    assert data.columns == ("a", "b", "c")


def zipped(**files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_zip(read):
    data = read(zipped(**{"a/x.csv": csv(), "__MACOSX/x.csv": "junk"}), "x.csv.zip")
    np.testing.assert_array_equal(data.values["train"], X)
    with pytest.raises(InputError, match="one table, but holds 2 files"):
        read(zipped(a=csv(), b=csv()), "x.csv.zip")


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("index", list("0123456789")),
        ("index from 1", [str(i) for i in range(1, 11)]),
        ("index of texts", [f"r{i}" for i in range(10)]),
        ("index of a header that is short", list("0123456789")),
        ("names of rows without a header", [f"r{i}" for i in range(10)]),
        ("id", [str(i) for i in range(1000, 1010)]),
        ("PassengerId", [str(i) for i in range(1000, 1010)]),
        ("sample_id of texts", [f"r{i}" for i in range(10)]),
        ("header", None),
    ],
)
def test_names_of_rows_are_kept(read, kind, names):
    data = read(SAME[kind])
    assert (data.names and data.names["train"].tolist()) == names
    assert ("names of the rows" in said(data)) == (names is not None)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "header",
            ["first line taken for the names of the columns (a, b, c)", "commas"],
        ),
        ("no header", ["no line of names, 3 columns"]),
        ("german", ["semicolons between cells; decimal commas"]),
        ("tabs", ["tabs between cells"]),
        ("spaces", ["white space between cells"]),
        ("comments between", ["4 lines of comment left out"]),
        ("comment", ["1 line of comment left out"]),
        ("trailing commas", ["empty column at the end"]),
        ("latin-1", ["Latin-1", "é, ü, ß"]),
        ("header of years", ["(2019, 2020, 2021)"]),
        ("index", ["column 0, without a name, (0, 1, 2, ...)", "--drop none"]),
    ],
)
def test_it_says_what_was_taken_for_what(read, kind, words):
    notes = said(read(SAME[kind]))
    for word in words:
        assert word in notes


def test_names_in_a_comment(read):
    packed = io.BytesIO()
    np.savetxt(packed, X, header="left right top")
    data = read(packed.getvalue(), "x.txt")
    np.testing.assert_array_equal(data.values["train"], X)
    assert data.columns == ("left", "right", "top")
    assert "last line of comment" in said(data)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (bare(L), {}),
        (bare(L), {"labels": "3"}),
        (bare(L), {"labels": "-1"}),
        (csv(L), {"labels": "name"}),
        (csv(L.rename(columns={"name": "Species"})), {}),
        (csv(L.rename(columns={"name": "label"}), sep=";", decimal=","), {}),
        (csv(L, index=True), {"labels": "name"}),
        (csv(L.assign(other="q")), {"labels": "name", "drop": "other"}),
        (csv(L.assign(other=KINDS, more=1)), {"labels": "name", "drop": "other, 5"}),
        (csv(L, quoting=1), {"labels": "name"}),
        (csv(L[["name", "a", "b", "c"]]), {"labels": "name"}),
    ],
)
def test_labels_inside_a_table(read, content, options):
    data = read(content, **options)
    np.testing.assert_array_equal(data.values["train"], X)
    assert data.labels["train"].tolist() == KINDS
    assert "labels" in options or "taken for labels" in said(data)


@pytest.mark.parametrize("name", ["label", "class", "target"])
def test_numbers_in_a_column_of_labels_are_no_data(read, name):
    content = csv(T.assign(**{name: [0, 1] * 5}))
    data = read(content)
    np.testing.assert_array_equal(data.values["train"], X)
    assert data.labels["train"].tolist() == [0, 1] * 5
    assert f"column '{name}' (0, 1) taken for labels" in said(data)
    assert read(content, drop="none").shape == (4,)


def test_iris_has_150_data(read):
    from sklearn.datasets import load_iris

    iris = load_iris()
    kinds = np.array(["Iris-setosa", "Iris-versicolor", "Iris-virginica"])[iris.target]
    lines = [
        ",".join([*map(str, row), kind])
        for row, kind in zip(iris.data, kinds, strict=True)
    ]
    data = read("\n".join(lines) + "\n\n", "iris.data")
    np.testing.assert_allclose(data.values["train"], iris.data)
    assert data.labels["train"].tolist() == kinds.tolist()


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (
            'p,q\n"1,234","2,000"\n' * 1 + '"3,000","14,000"\n' * 3,
            {},
            [[1234, 2000]] + [[3000, 14000]] * 3,
        ),
        ("1.234,5;2,0\n3,5;1.000.000,25\n", {}, [[1234.5, 2], [3.5, 1000000.25]]),
        ("1,234.5;2.5\n3.5;1,000,000.25\n", {}, [[1234.5, 2.5], [3.5, 1000000.25]]),
        (
            "1,234;5,678\n9,012;3,456\n",
            {"decimal": ","},
            [[1.234, 5.678], [9.012, 3.456]],
        ),
        ("1,234;5,678\n9,012;3,456\n", {"decimal": "."}, [[1234, 5678], [9012, 3456]]),
        ("1;2,3;4\n5;6,7;8\n", {"delimiter": ";"}, [[1, 2.3, 4], [5, 6.7, 8]]),
        ("1:2:3\n4:5:6\n", {"delimiter": ":", "header": "no"}, [[1, 2, 3], [4, 5, 6]]),
        ("1\t2\n3\t4\n", {"delimiter": "tab"}, [[1, 2], [3, 4]]),
        ("1  2\n3 4\n", {"delimiter": "space"}, [[1, 2], [3, 4]]),
        (
            "0,05\n0,07\n1,25\n",
            {"decimal": ",", "delimiter": ";"},
            [[0.05], [0.07], [1.25]],
        ),
        ("0,05\n0,07\n1,25\n", {"delimiter": ","}, [[0, 5], [0, 7], [1, 25]]),
        ("flag,x\nTrue,1\nFALSE,2\ntrue,3\n", {}, [[1, 1], [0, 2], [1, 3]]),
        ("1,2\n3,4\n5,7\n", {"header": "yes"}, [[3, 4], [5, 7]]),
        ("0,1,2\n3,4,9\n5,7,7\n", {"header": "no"}, [[0, 1, 2], [3, 4, 9], [5, 7, 7]]),
        ("a,b\n0.5,1\n1.5,2\n2.5,3\n", {"drop": "b"}, [[0.5], [1.5], [2.5]]),
        ("a,b\n0.5,1\n1.5,2\n2.5,3\n", {"drop": "1"}, [[0.5], [1.5], [2.5]]),
        ("a,a\n0.5,1\n1.5,2\n2.5,3\n", {"drop": "1"}, [[0.5], [1.5], [2.5]]),
        (",a\n0,0.5\n1,1.5\n", {"drop": "none"}, [[0, 0.5], [1, 1.5]]),
        ("id,a\n7,0.5\n9,1.5\n", {"drop": "none"}, [[7, 0.5], [9, 1.5]]),
        ("9007199254740993,1\n3,4\n", {}, [[9007199254740993, 1], [3, 4]]),
    ],
)
def test_options_and_what_numbers_look_like(read, content, options, expected):
    assert read(content, **options).values["train"].tolist() == expected


def test_an_id_is_kept_as_the_name(read):
    data = read(
        csv(L.assign(place=[f"p{i}" for i in range(10)])), labels="name", id="place"
    )
    assert data.names["train"].tolist() == [f"p{i}" for i in range(10)]
    np.testing.assert_array_equal(data.values["train"], X)


def test_counts_stay_whole(read):
    data = read(pd.DataFrame(COUNTS, columns=list("abcd")).to_csv())
    np.testing.assert_array_equal(data.values["train"], COUNTS)
    assert data.representation.name == "COUNTS"


def test_labels_in_a_file_are_matched_by_id(read, tmp_path):
    (tmp_path / "y.csv").write_text(
        "\n".join(f"r{i},{k}" for i, k in reversed(list(enumerate(KINDS))))
    )
    data = read(SAME["index of texts"], labels=str(tmp_path / "y.csv"))
    assert data.labels["train"].tolist() == KINDS


UNCERTAIN = {
    "years over two columns": (
        "2019,2020\n" + bare(T[["a", "b"]]),
        {},
        "--header yes or --header no",
    ),
    "uneven wavelengths": ("450,520,680\n" + bare(), {}, "--header yes"),
    "positions over counts": ("0,1,2\n5,3,9\n4,4,8\n7,2,2\n", {}, "--header yes"),
    "far above whole numbers": (
        "7012,1993,5550\n" + "5,3,9\n4,4,8\n7,2,2\n" * 3,
        {},
        "--header",
    ),
    "an empty first cell": (",1,2\n" + bare(), {}, "--header"),
    "a word among numbers": ("1.5,oops,2.5\n" + bare(), {}, "--header"),
    "index without a header": (bare(index=True), {}, "--drop 0.*--id 0.*--drop none"),
    "index of counts without a header": (
        bare(pd.DataFrame(COUNTS), index=True),
        {},
        "--drop 0",
    ),
    "reals in a column without a name": (
        csv(T.set_axis(X[:, 0] + 9), index=True),
        {},
        "no name.*--drop 0",
    ),
    "thousands or decimals": (
        "1,234;5,678\n9,012;3,456\n",
        {},
        "--decimal , or --decimal .",
    ),
    "columns or decimals": ("0,05\n0,07\n1,25\n", {}, "--delimiter or --decimal"),
    "points and commas": (
        "0.5;1.5\n0,5;2\n",
        {},
        "decimal point and with a decimal comma",
    ),
    "a text column": (
        csv(L),
        {},
        "'name'.*'x' in data row 0.*--labels name.*--id name.*--drop name",
    ),
    "two text columns": (
        csv(L.assign(other="q")),
        {},
        "'name', 'other'.*--labels or --id.*--drop other",
    ),
    "a name with a space": (
        csv(L.set_axis([*"abc", "my kind"], axis=1)),
        {},
        "--labels 'my kind'.*--id 'my kind'.*--drop 'my kind'",
    ),
    "a name with a comma": ('"a,b",c\n,2\n1,3\n4,5\n', {}, "missing value.*--drop 0$"),
    "dates": (
        csv(T.assign(day=["2020-01-01"] * 10)),
        {},
        "'day'.*'2020-01-01'.*--drop day",
    ),
    "a text at the end": (csv() + "1,2,end\n", {}, "'c'.*'end' in data row 10"),
    "percent": ("a,b\n1%,2\n3%,4\n", {}, "'a'.*'1%'"),
    "only texts": ("cat\ndog\ncat\n", {}, "no column of numbers"),
    "only labels": ("name\n" + "\n".join(KINDS), {}, "no column of numbers"),
    "missing": (csv(T.mask(X[4, 1] == T)), {}, "'b'.*missing value.*row 4.*--drop b"),
    "missing in the first row": (
        bare(T.mask(X[0, 1] == T), na_rep="NaN"),
        {},
        "'1'.*missing value.*row 0",
    ),
    "missing, spelled NA": ("NA,1.5\n1.5,2\n3,4\n", {}, "'0'.*missing value.*row 0"),
    "missing, spelled ?": ("a,b\n1.5,2\n?,2\n3,4\n", {}, "'a'.*missing value.*row 1"),
    "missing, in a column of truth values": ("a,b\nTrue,2\n,2\nFalse,4\n", {}, "'a'"),
    "infinite": (csv(T.replace(X[3, 2], np.inf)), {}, "'c'.*infinite.*datum 3"),
    "an empty column": ("a,b,c\n1,,2\n3,,4\n5,,6\n", {}, "'b'.*no values.*--drop b"),
    "a row too long": (
        csv() + "1,2,3,4\n",
        {},
        "line 12 has 4 cells where those before it have 3",
    ),
    "a row too short": (csv() + "1,2\n", {}, "'c'.*missing value.*row 10"),
    "a title": ("My table\n" + csv(), {}, "table.*first line.*cell"),
    "units below the names": (
        "a,b\ncm,kg\n1,2\n3,4\n",
        {},
        "two lines of words.*a, b, then cm, kg.*units into them or remove",
    ),
    "units below a part of the names": (
        "a,b,c\ncm,,kg\n1,2,3\n4,5,6\n",
        {},
        "cm, '', kg",
    ),
    "two levels of names": (
        pd.DataFrame(
            X, columns=pd.MultiIndex.from_product([["a"], list("xyz")])
        ).to_csv(),
        {},
        "two lines of words.*'', a, a, a, then '', x, y, z",
    ),
    "units where names are asked for": (
        "a,b\ncm,kg\n1,2\n3,4\n",
        {"header": "yes"},
        "two lines of words",
    ),
    "one word in the first row": (
        "a,b\noops,2\n3,4\n5,6\n",
        {},
        "'oops' in data row 0",
    ),
    "whole numbers too long among reals": (
        "a,b\n9007199254740993,0.5\n2,1.5\n",
        {},
        r"2\^53.*--drop a",
    ),
    "a name of two columns": ("a,a\n1,2\n3,5\n", {"drop": "a"}, "2 columns.*--drop 0"),
    "no such column": (csv(), {"drop": "d"}, "--drop d.*no such column"),
    "nearly such a column": (
        csv(L),
        {"labels": "nam"},
        "--labels nam.*no such column.*did you mean name",
    ),
    "no such id": (csv(), {"id": "7"}, "--id 7.*no such column.*'a', 'b', 'c'"),
    "a column dropped and named": (
        csv(L),
        {"drop": "name", "labels": "name"},
        "another of --drop, --condition, --id and --labels takes this column",
    ),
    "a label taken for a name": (
        bare(L),
        {"labels": "x"},
        "--labels x.*no such column.*no such file",
    ),
    "no rows": ("a,b\n", {}, "no rows"),
    "only comments": ("# a\n# b\n", {}, "no rows"),
    "white space": ("\n \n", {}, "no rows"),
    "no text": (bytes(range(256)), {}, "no text"),
    "a sign of two letters": (csv(), {"delimiter": "::"}, "--delimiter '::'"),
    "a bad header": (
        csv(),
        {"header": "perhaps"},
        "--header 'perhaps' must be yes or no",
    ),
    "a bad decimal": (csv(), {"decimal": ";"}, "--decimal ';'"),
}


@pytest.mark.parametrize("kind", UNCERTAIN)
def test_what_is_not_certain_is_refused(read, kind):
    content, options, words = UNCERTAIN[kind]
    with pytest.raises(InputError, match=words) as error:
        read(content, **options)
    assert "\n" not in str(error.value)
    assert "x.csv" in str(error.value) or "--" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv.gz", b"\x1f\x8b junk", "cannot be unpacked"),
        ("x.csv.gz", gzip.compress(csv().encode(), mtime=0)[:40], "cannot be unpacked"),
        ("x.csv.xz", b"junk", "cannot be unpacked"),
        ("x.csv.bz2", b"junk", "cannot be unpacked"),
        ("x.csv.zip", b"junk", "cannot be unpacked"),
        ("x.parquet", b"junk", "cannot be read as a table"),
        ("x.xlsx", b"junk", r"\.csv"),
        ("x.gz", b"junk", r"\.csv"),
        ("x.npy.gz", b"junk", r"kind that is read"),
    ],
)
def test_damaged_and_unknown_files(read, name, content, words):
    with pytest.raises(InputError, match=words):
        read(content, name)


def test_a_stand_in_for_a_missing_value_is_noted(read):
    x = X.copy()
    x[[2, 5], 1] = -999
    data = read(csv(pd.DataFrame(x, columns=list("abc"))))
    np.testing.assert_array_equal(data.values["train"], x)
    assert "column 'b' holds -999 in 2 rows, far from its other values" in said(data)
    assert "999" not in said(read(csv(pd.DataFrame(rng.normal(size=(50, 2)) * 999))))


def test_a_column_that_counts_the_rows_is_noted(read):
    data = read(csv(T.assign(time=range(10))))
    assert data.shape == (4,)
    assert (
        "column 'time' counts the rows (0, 1, 2, ...) and is kept as data; --drop time"
        in said(data)
    )


def test_options_belong_to_tables(tmp_path):
    np.save(tmp_path / "x.npy", X)
    for option, value in {
        "header": "no",
        "delimiter": ";",
        "drop": "a",
        "id": "a",
    }.items():
        with pytest.raises(
            InputError,
            match=rf"--{option} is for data in .*\.csv.*, which .*x\.npy is not",
        ):
            load_data(str(tmp_path / "x.npy"), **{option: value})
        with pytest.raises(InputError, match=f"--{option} is for your own data"):
            load_data("digits", **{option: value})


def test_an_empty_name_is_no_folder():
    for name in ("", " "):
        with pytest.raises(InputError, match="--dataset is empty"):
            load_data(name)


def test_a_first_line_without_end_is_refused_at_once(read, monkeypatch):
    monkeypatch.setattr(text, "LONGEST", 2**20)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"first line .* 3,000,00. characters.*\.npy"):
        read("123456," * (3_000_000 // 7) + "1234")
    assert time.monotonic() - start < 5


def test_more_text_than_memory_is_refused(read, monkeypatch):
    monkeypatch.setattr(text, "available_memory", lambda: 1e6)
    with pytest.raises(
        InputError, match=r"^\S*x\.csv\.gz holds more than 0.00025 GB.*\.npy"
    ):
        read(gzip.compress(csv().encode() * 2000), "x.csv.gz")


def test_wide_tables_are_read_in_a_moment(read):
    x = rng.normal(size=(20, 5000)).round(2)
    content = pd.DataFrame(x, columns=[f"g{i}" for i in range(5000)]).to_csv()
    start = time.monotonic()
    data = read(content)
    np.testing.assert_array_equal(data.values["train"], x)
    assert time.monotonic() - start < 20


# Parquet.


def parquet(table):
    packed = io.BytesIO()
    table.to_parquet(packed)
    return packed.getvalue()


def test_parquet(read):
    pytest.importorskip("pyarrow")
    table = T.assign(
        flag=[True, False] * 5,
        count=pd.array(range(3, 23, 2), dtype="Int64"),
        species=pd.Categorical(KINDS),
    ).set_axis([f"r{i}" for i in range(10)])
    data = read(parquet(table), "x.parquet")
    expected = np.column_stack([X, [1, 0] * 5, range(3, 23, 2)])
    np.testing.assert_array_equal(data.values["train"], expected)
    assert data.columns == ("a", "b", "c", "flag", "count")
    assert data.labels["train"].tolist() == KINDS
    assert data.names["train"].tolist() == table.index.tolist()
    np.testing.assert_array_equal(read(parquet(T), "x.parquet").values["train"], X)
    named = T.set_axis(pd.Index(range(5, 15), name="id"))
    assert read(parquet(named), "x.parquet").names["train"].tolist() == [
        str(i) for i in range(5, 15)
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (pd.date_range("2020-01-01", periods=10), "datetime64.*--drop more"),
        ([[1.0, 2.0]] * 10, "'more'.*--drop more"),
        (["1", "2"] * 5, "'more' .*does not hold numbers"),
        ([None, *range(9)], "'more'.*missing value.*row 0"),
        (pd.array([None, *range(9)], dtype="Int64"), "'more'.*missing value.*row 0"),
    ],
)
def test_parquet_columns_that_are_no_numbers(read, more, words):
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match=words):
        read(parquet(T.assign(more=more)), "x.parquet")
    np.testing.assert_array_equal(
        read(parquet(T.assign(more=more)), "x.parquet", drop="more").values["train"], X
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{i}.5,{i}.25", None),
        ("{i}.5,{i}.25 cm", "does not hold numbers.*write its numbers without 'cm'"),
        ("{i}%,{i}.25%", "no column of numbers .*; write its numbers without '%'"),
        ("2024-01-{i:02d},{i}:30", "no column .*; write days and times as numbers"),
        ("yes,{k}", "no column of numbers .*; keep texts .*--likelihood columns"),
    ],
)
def test_what_may_be_done_with_texts(read, text, words):
    rows = "\n".join(text.format(i=i, k="ab"[i % 2]) for i in range(10, 30))
    if words is None:
        assert read(f"a,b\n{rows}\n").values["train"].shape == (20, 2)
        return
    with pytest.raises(InputError, match=words):
        read(f"a,b\n{rows}\n")


@pytest.mark.parametrize("row", [0, 17, 39])
@pytest.mark.parametrize("others", ["", ",red"])
def test_a_few_words_among_numbers_are_named_as_slips(read, row, others):
    lines = [f"{i}.5,{'abc' if i == row else i / 4}{others}" for i in range(40)]
    names = "a,b,c" if others else "a,b"
    with pytest.raises(InputError, match=f"'b' .* but 'abc' in data row {row} ") as of:
        read("\n".join([names, *lines]) + "\n")
    assert "rows with such words: 1: write numbers there" in str(of.value)
    assert "--drop b" in str(of.value)


def test_the_text_that_is_shown_is_one_that_is_there(read):
    with pytest.raises(InputError, match="as 'red' in data row 1, counted from 0"):
        read("a,b,c\n1,,x\n2,red,y\n3,blue,\n4,red,x\n")


# The command line.


def test_options_are_kept_with_the_run(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pd.concat([L] * 4, ignore_index=True).assign(day="monday", key=range(40))
    (tmp_path / "x.csv").write_text(
        "2019;2020;2021;a;b;c\n" + bare(table, sep=";", decimal=",")
    )
    options = (
        "--header",
        "yes",
        "--drop",
        "b",
        "--id",
        "c",
        "--labels",
        "a",
        "--decimal",
        ",",
    )
    said = call(
        "train",
        "--dataset",
        "x.csv",
        *options,
        "--likelihood",
        "gaussian",
        *SMALL,
        "--epochs",
        1,
        "--latent-dim",
        2,
        "--output",
        "run",
    )
    assert (said.code, said.err) == (0, "")
    assert "read       first line taken for the names of the columns (2019" in said.out
    assert call("evaluate", "run", "--num-particles", 20).code == 0
    assert call("encode", "run").code == 0
    labels = np.load("run/latents.npz")["test_labels"]
    assert set(labels.tolist()) == {"x", "y"}
    resumed = call("train", "--resume", "run", "--epochs", 2)
    assert (resumed.code, resumed.err) == (0, "")


@pytest.mark.parametrize("name", ["x.tsv", "x.csv.gz", "x.txt", "x.parquet"])
def test_train_and_evaluate_each_kind_of_table(call, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame(rng.normal(size=(40, 3)), columns=list("abc"))
    if name == "x.parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(name)
    else:
        table.to_csv(name, sep="\t")
    said = call(
        "train",
        "--dataset",
        name,
        "--likelihood",
        "gaussian",
        *SMALL,
        "--epochs",
        1,
        "--latent-dim",
        2,
        "--output",
        "run",
    )
    assert (said.code, said.err) == (0, "")
    assert call("evaluate", "run", "--num-particles", 20).code == 0


def test_a_bad_table_is_one_sentence(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text(csv(L))
    assert "--labels name" in refused(
        "train", "--dataset", "x.csv", "--likelihood", "gaussian"
    )
    assert "--dataset is empty" in refused("train", "--dataset", "")


def test_new_rows_are_read_as_those_of_the_run(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame(rng.normal(size=(60, 4)), columns=list("abcd")).assign(
        place="p"
    )
    table[:40].to_csv("x.csv")
    table[40:].to_csv("new.csv")
    table[40:41].to_csv("one.csv")
    table[41:].to_parquet("new.parquet")
    options = ("--drop", "place,d", "--likelihood", "gaussian", *SMALL, "--epochs", 1)
    said = call(
        "train", "--dataset", "x.csv", *options, "--latent-dim", 2, "--output", "run"
    )
    assert (said.code, said.err) == (0, "")
    for file, count in {"new.csv": 20, "one.csv": 1, "new.parquet": 19}.items():
        said = call("evaluate", "run", "--data", file, "--num-particles", 20)
        assert (said.code, said.err) == (0, "")
        assert f"new data: {count} of {file}" in said.out
    said = call("evaluate", "run", "--ood", "new.csv", "--num-particles", 20)
    assert (said.code, said.err) == (0, "")


def test_one_row_is_read_as_many_are(read):
    for content in (
        csv(T[:1], index=True),
        csv(T[:1]),
        bare(T[:1]),
        bare(L[:1]),
        csv(T[3:4], index=True),
    ):
        data = read(content, divide=False)
        assert data.columns in (tuple("abc"), tuple("012"))
        assert data.values["all"].shape == (1, 3)


def test_the_names_that_are_looked_for():
    ids = [
        "id",
        "ID",
        "sample_id",
        "PassengerId",
        "cell-ID",
        "index",
        "row",
        "uuid",
        "user id",
    ]
    others = [
        "acid",
        "humid",
        "width",
        "grid",
        "solid",
        "refractive_index",
        "a",
        "Covid",
        "rapid",
    ]
    found = [n for n in ids + others if columns.ID_NAME.fullmatch(n)]
    assert found == ids
