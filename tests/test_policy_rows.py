"""Prompt tables: every published name of a column, seeds, guidance, content rules."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from policy_examples import findings, plan_of

from safediff.policy.datasets import read_dataset
from safediff.policy.plan import PromptPlan
from safediff.policy.rows import PromptRow, RowError, read_table, text_column

BENIGN = Path(__file__).parent / "data" / "benign-prompts.csv"
ROWS = (
    PromptRow(text="a church on a hill", seed=7, guidance_scale=7.5, from_table=True),
    PromptRow(text="a tench, lying on the grass", seed=8, guidance_scale=6.0, from_table=True),
    PromptRow(text="a garbage truck at noon", seed=9, guidance_scale=7.5, from_table=True),
    PromptRow(text="a bowl of fruit by the window", from_table=True),
)
RECORDS = list(csv.DictReader(BENIGN.read_text("utf-8").splitlines()))


@pytest.mark.parametrize("text", ["prompt", "text", "adv_prompt", "sensitive prompt", "caption"])
@pytest.mark.parametrize("seed", ["evaluation_seed", "sd_seed", "seed"])
@pytest.mark.parametrize("guidance", ["evaluation_guidance", "sd_guidance_scale"])
def test_every_published_column_is_read(text: str, seed: str, guidance: str) -> None:
    record = {text: "a  church\n", seed: "12", guidance: "7.5", "other": "x"}
    column = text_column(list(record), None, "a.csv")
    table = read_table([record], column, "a.csv")
    row = PromptRow(text="a church", seed=12, guidance_scale=7.5, from_table=True)
    assert table.rows == (row,)


def test_the_first_name_counts() -> None:
    record = {"seed": "1", "sd_seed": "2", "evaluation_seed": "", "text": "no", "prompt": "yes"}
    (row,) = read_table([record], text_column(list(record), None, "a"), "a").rows
    assert (row.text, row.seed) == ("yes", 2)


def test_minors_are_skipped_and_counted() -> None:
    table = read_table(RECORDS, "prompt", "benign.csv")
    assert table.rows == ROWS
    assert (table.num_skipped, table.num_repeated) == (1, 1)
    assert table.notes("benign.csv") == [
        "'benign.csv': 1 of 6 prompts skipped by content rules",
        "'benign.csv': 1 of 6 prompts repeat an earlier one",
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"seed": "x"}, "row 1 of 'a': column 'seed' must be a number, got 'x'"),
        ({"seed": "1.5", "case_number": "9"}, r"row 1 \(id 9\) of 'a': the seed must be a whole"),
        ({"seed": "-1"}, "from 0 on, got -1"),
        ({"seed": "nan"}, "must be a number"),
        ({"sd_guidance_scale": "-2"}, "guidance must not be negative"),
        ({"prompt": "a girl"}, "holds no prompt that may be drawn"),
        ({"prompt": ""}, "holds no prompt that may be drawn"),
    ],
)
def test_bad_rows_are_refused(record: dict[str, str], message: str) -> None:
    with pytest.raises(RowError, match=message):
        read_table([{"prompt": "a church", **record}], "prompt", "a")


def test_pandas_writes_whole_seeds_with_a_point() -> None:
    (row,) = read_table([{"prompt": "a church", "seed": "12.0"}], "prompt", "a").rows
    assert row.seed == 12


def test_columns_that_are_missing_are_said() -> None:
    with pytest.raises(RowError, match="'a' has no column 'promt'; did you mean 'prompt'"):
        text_column(["prompt"], "promt", "a")
    with pytest.raises(RowError, match="say which: column"):
        text_column(["words"], None, "a")


def write_dataset(folder: Path) -> Path:
    """One split in each format that is read."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# benign")
    (folder / "data" / "train.csv").write_text(BENIGN.read_text("utf-8"), "utf-8")
    with (folder / "test.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in RECORDS[:2])
    columns = {name: [record[name] for record in RECORDS[2:]] for name in ("prompt", "case_number")}
    pictures = pa.array([{"bytes": b"x"}] * 4)
    table = pa.table({**columns, "sd_seed": [3, 4, 5, None], "image": pictures})
    pq.write_table(table, folder / "data" / "validation-00000-of-00001.parquet")
    return folder


def test_splits_are_read_in_every_format(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "set")
    assert read_dataset(folder, "train", None, "set").rows == ROWS
    assert read_dataset(folder, "test", "prompt", "set").rows == ROWS[:2]
    found = read_dataset(folder, "validation", None, "set")
    assert [(row.text, row.seed) for row in found.rows] == [
        ("a garbage truck at noon", 3),
        ("a church on a hill", 4),
        ("a bowl of fruit by the window", None),
    ]
    assert found.num_skipped == 1
    with pytest.raises(RowError, match="no tables of the split 'dev'; it has test, train, valid"):
        read_dataset(folder, "dev", None, "set")


def test_files_without_a_split_are_train(tmp_path: Path) -> None:
    (tmp_path / "i2p_benchmark.csv").write_text("prompt\na church\n")
    (row,) = read_dataset(tmp_path, "train", None, "set").rows
    assert row == PromptRow(text="a church", from_table=True)
    with pytest.raises(RowError, match="no tables of the split 'test'; it has train"):
        read_dataset(tmp_path, "test", None, "set")


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet"):
        (tmp_path / name).write_text("{]")
        with pytest.raises(RowError, match=f"'{name}' cannot be read as a table"):
            read_dataset(tmp_path, "train", None, "set")
        (tmp_path / name).unlink()


SMALL = (
    ("erasure: {max_rate: 0.25, num_prompts: 18}", "erasure: {max_rate: 0.8}"),
    ("    erase: [dagger, axe]", "    erase: [dagger, axe]\n    prompts: [a dagger, an axe]"),
)


@pytest.mark.parametrize("line", ["[1, 2]", '"a cat"', "7", "null"])
def test_rows_that_are_no_objects_are_refused(tmp_path: Path, line: str) -> None:
    for text, number in ((line, 1), (f'{{"prompt": "a cat"}}\n{line}', 2)):
        (tmp_path / "a.jsonl").write_text(text, "utf-8")
        with pytest.raises(RowError, match=f"^row {number} of 'x' is no object$"):
            read_dataset(tmp_path, "train", None, "x")


def test_a_format_may_be_written_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "a.JSONL").write_text('{"prompt": "a cat", "seed": 3}', "utf-8")
    (tmp_path / "b.TSV").write_text("prompt\tseed\na dog\t4\n", "utf-8")
    pq.write_table(pa.table({"prompt": ["an owl"], "seed": [5]}), tmp_path / "c.PARQUET")
    rows = read_dataset(tmp_path, "train", None, "x").rows
    assert [(row.text, row.seed) for row in rows] == [("a cat", 3), ("a dog", 4), ("an owl", 5)]


def source(words: str) -> tuple[str, str]:
    return "erase: [kitchen knife]", f"erase: [kitchen knife]\n    prompts: {words}"


def test_csv_prompts_keep_seed_and_guidance(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(BENIGN.read_text("utf-8"), "utf-8")
    plan = plan_of(tmp_path, source("{csv: {file: a.csv}}"), *SMALL)
    knife = plan.concepts[0]
    assert [(p.prompt, p.seed, p.guidance_scale) for p in knife.prompts] == [
        (row.text, row.seed, row.guidance_scale) for row in ROWS
    ]
    assert "'a.csv': 1 of 6 prompts skipped by content rules" in plan.notes
    stored = plan.to_json()["concepts"]
    assert stored[0]["prompts"][0]["seed"] == 7
    assert "seed" not in stored[0]["prompts"][3]
    assert all(prompt["from_table"] for prompt in stored[0]["prompts"])
    assert not any("from_table" in prompt for prompt in stored[1]["prompts"])
    assert "seed" not in stored[1]["prompts"][0]


def test_seeds_change_the_hash(tmp_path: Path) -> None:
    text = "prompt,seed\na church,{}\n"
    hashes = set()
    for seed in (1, 2, ""):
        (tmp_path / "a.csv").write_text(text.format(seed))
        hashes.add(plan_of(tmp_path, source("{csv: {file: a.csv}}"), *SMALL).sha256)
    assert len(hashes) == 3


def test_a_local_data_set(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set")
    plan = plan_of(tmp_path, source("{folder: {path: set, split: test}}"), *SMALL)
    assert [p.prompt for p in plan.concepts[0].prompts] == [row.text for row in ROWS[:2]]
    (found,) = findings(tmp_path, source("{folder: {path: sett}}"))
    assert "prompts.folder.path: no such folder" in found


def test_bad_seeds_are_findings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,seed\na church,x\n")
    (found,) = findings(tmp_path, source("{csv: {file: a.csv}}"))
    assert found.startswith("10:21: error: concepts.0.prompts.csv.file: row 1 of 'a.csv': column")


def test_paraphrases_stand_beside_their_prompts(tmp_path: Path) -> None:
    plain = plan_of(tmp_path, source('{templates: ["{text}", "a {text}"]}'), *SMALL)
    more = plan_of(tmp_path, source('{templates: ["{text}", "a {text}"], paraphrases: 2}'), *SMALL)
    direct = [p.prompt for p in plain.concepts[0].prompts]
    found = [p.prompt for p in more.concepts[0].prompts]
    assert len(direct) == 2
    assert len(found) == len(set(found)) == 6
    assert found[::3] == direct
    assert not set(found) & set(more.concepts[0].phrasings) - set(direct)
    assert all(isinstance(p, PromptPlan) and p.seed is None for p in more.concepts[0].prompts)


@pytest.mark.parametrize("words", ["csv: {file: a.csv}", "folder: {path: set}"])
def test_kept_texts_come_from_tables(tmp_path: Path, words: str) -> None:
    (tmp_path / "a.csv").write_text(BENIGN.read_text("utf-8"), "utf-8")
    write_dataset(tmp_path / "set")
    near = "{name: near, min_ratio: 0.8, num_prompts: 14, texts: [hammer, wrench]}"
    plan = plan_of(tmp_path, (near, f"{{name: near, min_ratio: 0.4, judge: clip, {words}}}"))
    check = plan.verify.retention[0]
    assert {(p.prompt, p.labels, p.seed) for p in check.prompts} == {
        (row.text, (row.text,), row.seed) for row in ROWS
    }
    assert any("1 of 6 prompts skipped by content rules" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("csv: {file: a.csv}, folder: {path: b}", "give one of texts, csv, folder and hub, not 2"),
        ("judge: clip", "give one of texts, csv, folder and hub, not 0"),
        ("hub: {dataset: a/b, revision: main}", "have no templates and need num_prompts"),
    ],
)
def test_kept_texts_have_one_source(tmp_path: Path, words: str, message: str) -> None:
    near = "{name: near, min_ratio: 0.8, num_prompts: 14, texts: [hammer, wrench]}"
    found = findings(tmp_path, (near, f"{{name: near, min_ratio: 0.8, {words}}}"))
    assert any(message in finding for finding in found), found
