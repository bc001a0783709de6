"""Tables of printed numbers that a reader may add: what is read, and what is refused by file and line."""

import pytest

from vlp_bench.results import published

HEAD = "source,table,model,pruner,sparsity,dataset,metric,value,std,note"
LINE = 'mine,4,xvlm,omp,0.63,coco_itr,txt_r1,65.5,,"naïve, “quoted”"'


def table(tmp_path, *lines, encoding="utf-8"):
    file = tmp_path / "published_mine.csv"
    file.write_text("\n".join(lines) + "\n", encoding=encoding)
    return file


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_is_read(tmp_path, encoding):
    other = "mine,4,xvlm,omp,0.75,coco_itr,txt_r1,–,,"
    frame = published.load([table(tmp_path, HEAD, LINE, LINE.replace(",4,", ",5,"), other, encoding=encoding)])
    assert len(frame) == 2
    [row] = published.of(frame, "xvlm_itr").to_dict("records")
    assert row == {"pruner": "omp", "sparsity": 0.63, "metric": "txt_r1", "value": 65.5, "table": "4"}


def test_columns_may_stand_in_another_order(tmp_path):
    names, values = HEAD.split(","), ["mine", "4", "xvlm", "omp", "0.63", "coco_itr", "txt_r1", "65.5", "", ""]
    frame = published.load([table(tmp_path, ",".join(names[::-1]), ",".join(values[::-1]))])
    assert frame.to_dict("records")[0]["value"] == 65.5


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["source,table,model"], r"published_mine.csv has the columns source, table, model; expected source, table"),
        ([HEAD, LINE, LINE.replace("65.5", "**65.5**")], r"line 3: value is '\*\*65.5\*\*', expected a number"),
        ([HEAD, LINE.replace("0.63", "63")], r"line 2: sparsity is 63, expected a share in \[0, 1\), 0.63 for 63 %"),
        ([HEAD, LINE.replace("65.5", "65,5")], r"line 2 has not 10 fields"),
        ([HEAD, "mine,4,xvlm"], r"line 2 has not 10 fields"),
        ([HEAD, LINE.replace(",omp", ",")], r"line 2 has no pruner"),
        (
            [HEAD, LINE.replace("txt_r1", "text_r1")],
            r"line 2: there is no metric 'text_r1'; use one of txt_r1, txt_r5, "
            r".*did you mean txt_r1",
        ),
        (
            [HEAD, LINE, LINE.replace("65.5", "66").replace("0.63", " 0.630")],
            r"line 3 is about the same number as a "
            r"line above it \(mine, 4, xvlm, omp, 0.63, coco_itr, txt_r1, naïve, “quoted”\): keep one",
        ),
    ],
)
def test_what_is_no_such_table_is_refused_by_file_and_line(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        published.load([table(tmp_path, *lines)])


def test_a_metric_that_runs_have_may_stand_in_a_table(tmp_path):
    own = table(tmp_path, HEAD, LINE.replace("txt_r1", "mine"))
    assert published.load([own], ["mine", "txt_r1"])["metric"].tolist() == ["mine"]
    with pytest.raises(ValueError, match="there is no metric 'mine'"):
        published.load([own])


def test_another_encoding_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"published_mine.csv cannot be read as CSV in UTF-8"):
        published.load([table(tmp_path, HEAD, LINE.replace("“quoted”", ""), encoding="latin-1")])


def test_of_a_number_printed_twice_the_experiments_own_paper_has_the_say(tmp_path, caplog):
    other = LINE.replace("mine", "also").replace("omp", "dense").replace("0.63", "0")
    first = table(tmp_path, HEAD, other, other.replace("txt_r1", "img_r1").replace("65.5", "50.0"))
    first = first.rename(tmp_path / "published_also.csv")
    dense = LINE.replace("omp", "dense").replace("0.63", "0").replace("65.5", "78.2")
    second = table(
        tmp_path,
        HEAD,
        LINE,
        LINE.replace("0.63", "0.9"),
        dense,
        dense.replace("txt_r1", "img_r1").replace("78.2", "49.96"),
    )
    found = published.of(published.load([first, second]), "xvlm_itr").set_index(["pruner", "metric", "sparsity"])[
        "value"
    ]
    assert found["dense", "txt_r1", 0.0] == 78.2
    assert found["dense", "img_r1", 0.0] == 49.96
    assert len(found) == 4
    [said] = caplog.messages
    twice = "txt_r1 of dense at 0 % is printed as 78.2 (4), and as 65.5 in also, 4"
    assert said == f"xvlm_itr: {twice}: the first stands beside ours"
