"""Records on disk: whole or not at all, readable across versions, honest about damage."""

import errno
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import store
from harness.errors import ResultsError
from harness.plain import record_from_dict, to_dict
from harness.records import SCHEMA, Candidate, Manifest

GOLDEN = Path(__file__).parent / "golden"


def _manifest(task) -> Manifest:
    return Manifest(
        created="2026-01-01T00:00:00+00:00", suite="quick", dataset="cifar10-sample", classes=10, n=2, full=20,
        spans=((0, 2, "d" * 64),), seed=0,
        candidates=(Candidate("model", {"title": "t"}, "c" * 64, "s" * 64, (task,)),),
    )  # fmt: skip


def test_a_record_read_back_is_the_record_written(tmp_path, make_record) -> None:
    record = make_record()
    path = store.write_record(tmp_path, record)
    assert store.read_record(path) == record
    assert store.find_record(tmp_path, record.shard) == record
    header = store.read_record(path, examples=False)
    assert header.examples == () and header.cost == record.cost


def test_the_file_is_a_plain_table_with_a_row_per_example(tmp_path, make_record) -> None:
    record = make_record()
    table = pq.read_table(store.write_record(tmp_path, record)).to_pandas()
    assert list(table["adversarial_prediction"]) == [row.adversarial_prediction for row in record.examples]


def test_a_file_is_written_once_and_small_and_another_writers_is_read(tmp_path, make_record) -> None:
    record = make_record()
    path = store.write_record(tmp_path, record)
    content = path.read_bytes()
    assert content.count(b'"adversarial_sha256"') == 1 and b"ARROW:schema" not in content
    pq.write_table(pq.read_table(path), path)
    assert path.stat().st_size > 1.5 * len(content)
    assert store.read_record(path) == record


@pytest.mark.parametrize("damage", [b"", b"not parquet", None])
def test_a_damaged_file_counts_as_not_there(tmp_path, make_record, damage) -> None:
    record = make_record()
    path = store.write_record(tmp_path, record)
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    assert store.find_record(tmp_path, record.shard) is None
    with pytest.raises(ResultsError, match="expected a record"):
        store.read_record(path)


def _other_type(table: pa.Table) -> pa.Table:
    return table.set_column(0, "index", table["index"].cast(pa.float64()))


def _lacking(table: pa.Table) -> pa.Table:
    return table.drop_columns(["label"])


def _empty_cell(table: pa.Table) -> pa.Table:
    labels = [*table["label"].to_pylist()[:-1], None]
    return table.set_column(1, table.schema.field("label"), pa.array(labels, table.schema.field("label").type))


def _half_recorded(table: pa.Table) -> pa.Table:
    return table.set_column(10, "l1", pa.array([1.0, *[None] * (len(table) - 1)], pa.float64()))


def _other_header(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(dict.fromkeys(table.schema.metadata, b"[]"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_type, "expected the columns index int64.* got index double"),
        (_lacking, "expected the columns index int64, label int64.* got index int64, clean"),
        (_empty_cell, "expected a value in every row"),
        (_half_recorded, "expected a value in every row"),
        (_other_header, "expected a header with names, got list"),
    ],
)
def test_a_table_of_another_make_is_no_record(tmp_path, make_record, change, said) -> None:
    record = make_record()
    path = store.write_record(tmp_path, record)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(ResultsError, match=said):
        store.read_record(path)
    assert store.find_record(tmp_path, record.shard) is None


def test_a_newer_schema_is_named_and_left_alone(tmp_path, make_record) -> None:
    record = make_record(schema=SCHEMA + 1)
    path = store.write_record(tmp_path, record)
    before = path.read_bytes()
    with pytest.raises(ResultsError, match=rf"{path.name}: schema: expected {SCHEMA} or older, got {SCHEMA + 1}"):
        store.find_record(tmp_path, record.shard)
    assert path.read_bytes() == before


def test_a_newer_manifest_is_named(tmp_path, make_record) -> None:
    path = store.write_manifest(tmp_path, _manifest(make_record().shard.task))
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema": SCHEMA + 1}))
    with pytest.raises(ResultsError, match="schema: expected"):
        store.read_manifests(tmp_path)


def test_the_same_request_is_one_manifest(tmp_path, make_record) -> None:
    from dataclasses import replace

    manifest = _manifest(make_record().shard.task)
    store.write_manifest(tmp_path, manifest)
    store.write_manifest(tmp_path, replace(manifest, created="2026-02-01T00:00:00+00:00"))
    (found,) = store.read_manifests(tmp_path)
    assert found.created.startswith("2026-02")


def test_a_full_disk_is_one_clear_line_and_leaves_the_old_record(tmp_path, make_record, monkeypatch) -> None:
    record = make_record()
    path = store.write_record(tmp_path, record)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match=r"could not be written: No space left on device"):
        store.write_record(tmp_path, record)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_opening_a_folder_removes_what_dead_writers_left(tmp_path) -> None:
    left, mine = tmp_path / f".a.{2**22 + 1}.tmp", tmp_path / f".a.{os.getpid()}.tmp"
    left.touch()
    mine.touch()
    store.open_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("record-schema-*.parquet")), ids=lambda path: path.stem)
def test_a_record_of_every_schema_is_still_readable(path, make_record) -> None:
    record = store.read_record(path)
    assert record.schema == SCHEMA
    assert record.shard.task.key == "pgd-20@Linf-8/255"
    assert [row.robust for row in record.examples] == [True, False]


def test_distances_in_l1_are_kept_where_they_were_recorded(tmp_path, make_record, make_example) -> None:
    for l1 in (12.5, None):
        record = make_record(examples=(make_example(l1=l1), make_example(l1=l1)))
        assert store.read_record(store.write_record(tmp_path, record)) == record
        assert [row.distance("L1") for row in record.examples] == [l1, l1]


@pytest.mark.parametrize(
    ("done", "precision"), [(["search_bfloat16"], "mixed"), (["channels_last"], "full"), ([], "full")]
)
def test_an_older_record_says_how_it_searched(make_record, tmp_path, done, precision) -> None:
    data = to_dict(make_record()) | {"schema": 2}
    data["environment"]["optimisations"] = done
    task = record_from_dict(store.migrate(data, tmp_path) | {"examples": []}).shard.task
    assert task.precision == precision


def test_there_is_a_golden_record_of_this_schema() -> None:
    assert (GOLDEN / f"record-schema-{SCHEMA}.parquet").exists()
