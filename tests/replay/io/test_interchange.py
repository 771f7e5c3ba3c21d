"""Arrow streams and Parquet: rows come back bit for bit; DuckDB, Polars and pandas read a buffer in use."""

from __future__ import annotations

import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from really import EmptyBufferError, InvalidTypeError, InvalidValueError, ReplayBuffer
from really.errors import ClosedError, OvertakenError
from really.replay.io.interchange import to_arrow
from tests.rows import CAPACITY, FILLS, assert_same_rows, filled, numbered, rows, wide


@pytest.mark.parametrize("num", FILLS.values(), ids=FILLS)
def test_a_stream_has_all_rows_oldest_first(num):
    buffer = filled(num)
    table = buffer.to_arrow().read_all()
    assert table["reward"].to_pylist() == list(range(max(0, num - CAPACITY), num))
    assert_same_rows(buffer, ReplayBuffer.from_arrow(table, CAPACITY))
    assert_same_rows(buffer, ReplayBuffer.from_arrow(buffer, CAPACITY))
    assert_same_rows(buffer, ReplayBuffer.from_arrow(to_arrow(buffer, chunk_bytes=1), CAPACITY))


@pytest.mark.parametrize("num", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("float16", ["float16", "float32"])
def test_a_parquet_file_has_all_rows_oldest_first(tmp_path, num, float16):
    buffer = filled(num)
    buffer.to_parquet(tmp_path / "rows.parquet", float16=float16)
    assert_same_rows(buffer, ReplayBuffer.from_parquet(tmp_path / "rows.parquet", CAPACITY))
    assert pq.read_schema(tmp_path / "rows.parquet").field("half").type == (
        pa.float16() if float16 == "float16" else pa.float32()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_types_are_those_that_readers_know():
    schema = filled(1).to_arrow().schema
    assert schema.field("reward").type == pa.float32()
    assert schema.field("flag").type == pa.bool_()
    assert schema.field("state").type == pa.fixed_shape_tensor(pa.float32(), (4,))
    assert schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (2, 3, 4))
    assert {part.name: part.type for part in schema.field("wave").type} == {"re": pa.float32(), "im": pa.float32()}
    assert schema.field("waves").type.field("im").type == pa.fixed_shape_tensor(pa.float64(), (3,))
    assert schema.field("moment").type == pa.timestamp("us")
    assert schema.field("name").type == pa.binary(7)


def test_chosen_keys_and_a_capacity_of_its_own(tmp_path):
    buffer = filled(10)
    assert buffer.to_arrow(["flag", "reward"]).schema.names == ["flag", "reward"]
    assert buffer.to_arrow(key for key in ("flag", "reward")).read_all().column_names == ["flag", "reward"]
    buffer.to_parquet(tmp_path / "rows", iter(["reward", "state"]))
    assert pq.read_schema(tmp_path / "rows").names == ["reward", "state"]
    newest = ReplayBuffer.from_parquet(tmp_path / "rows", 4, keys=["reward"], seed=1)
    assert (newest.capacity, newest.keys) == (4, ("reward",))
    assert newest.take(range(4))["reward"].tolist() == [6, 7, 8, 9]
    assert ReplayBuffer.from_parquet(tmp_path / "rows").capacity == 10


@pytest.mark.parametrize("num", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("keys", [["reward"], ["wave", "flag"], ["image", "state", "reward"]], ids=str)
def test_a_stream_of_some_keys_has_them_as_all_have(num, keys):
    buffer = filled(num)
    whole, some = buffer.to_arrow().read_all(), to_arrow(buffer, keys, chunk_bytes=100).read_all()
    assert some.column_names == keys
    for key in keys:
        assert some[key].combine_chunks().equals(whole[key].combine_chunks())


def test_a_stream_of_some_keys_that_is_overtaken_says_so():
    buffer = numbered(1000, 1000)
    stream = to_arrow(buffer, ["number"], chunk_bytes=800)
    assert stream.read_next_batch()["number"].to_pylist() == list(range(100))
    buffer.put(wide(1000, 150))
    with pytest.raises(OvertakenError, match="at row 100 the next 50 had been dropped for newer ones"):
        stream.read_next_batch()


def test_opening_a_stream_is_free_and_fixes_nothing():
    buffer = numbered(100, 1000)
    stream = buffer.to_arrow()
    capsules = [buffer.__arrow_c_stream__() for _ in range(50)]
    buffer.put(wide(100, 950))
    assert stream.read_all()["number"].to_pylist() == list(range(50, 1050))
    assert not buffer._readers.keepers
    del capsules


def test_a_half_read_stream_is_nobody_that_puts_wait_for():
    buffer = numbered(1000, 1000)
    stream = to_arrow(buffer, chunk_bytes=1000)
    stream.read_next_batch()
    assert not buffer._readers.keepers
    buffer.put(wide(1000, 2000))
    assert buffer.take([0])["number"].tolist() == [2000]
    del stream


def test_a_stream_that_is_overtaken_says_so():
    buffer = numbered(1000, 1000)
    stream = to_arrow(buffer, chunk_bytes=26_400)
    assert stream.read_next_batch()["number"].to_pylist() == list(range(100))
    buffer.put(wide(1000, 150))
    with pytest.raises(OvertakenError, match="at row 100 the next 50 had been dropped for newer ones"):
        stream.read_next_batch()


def test_batches_belong_to_who_read_them():
    buffer = numbered(10, 10)
    batch = buffer.to_arrow().read_next_batch()
    buffer.put(wide(500, 10))
    assert batch["number"].to_pylist() == list(range(10))


def putting(buffer: ReplayBuffer, first: int) -> tuple[threading.Thread, threading.Event]:
    """A thread that puts rows numbered from `first` until the event is set."""
    stop = threading.Event()

    def put(first=first):
        while not stop.is_set():
            buffer.put(wide(first, 20))
            first += 20
            time.sleep(1e-3)

    thread = threading.Thread(target=put)
    thread.start()
    return thread, stop


def test_duckdb_reads_a_buffer_in_use():
    duckdb = pytest.importorskip("duckdb")
    buffer = numbered(10_000, 20_000)
    expected = float(np.mean(np.arange(10_000)))
    assert duckdb.sql("select avg(number), count(*) from buffer").fetchall() == [(expected, 10_000)]
    assert duckdb.sql("select number, copies[64] from buffer where number = 77").fetchall() == [(77, 77.0)]
    thread, stop = putting(buffer, 10_000)
    try:
        for _ in range(20):
            low, high, num = duckdb.sql("select min(number), max(number), count(*) from buffer").fetchall()[0]
            assert num == high - low + 1
            joined = "select count(*) from buffer a join buffer b using (number) where a.copies[1] != b.copies[2]"
            assert duckdb.sql(joined).fetchall() == [(0,)]
    finally:
        stop.set()
        thread.join()
    assert not buffer._readers.keepers


def test_duckdb_reads_every_kind_that_it_has():
    duckdb = pytest.importorskip("duckdb")
    buffer = filled(10)
    with pytest.raises(duckdb.NotImplementedException):
        duckdb.sql("select half from buffer").fetchall()
    duckdb.register("singles", buffer.to_arrow(float16="float32"))
    query = "select sum(half), sum(wave.im), bool_or(flag), sum(state[2]), max(moment)::varchar from singles"
    assert duckdb.sql(query).fetchall() == [(45.0, 90.0, True, 45.0, "1970-01-01 00:00:00.000009")]


def test_duckdb_is_told_when_it_is_overtaken():
    duckdb = pytest.importorskip("duckdb")
    buffer = numbered(1000, 1000)

    class Slow:
        """A consumer that puts rows between its batches."""

        def __arrow_c_stream__(self, requested_schema=None):
            stream = to_arrow(buffer, chunk_bytes=26_400)

            def batches():
                for batch in stream:
                    yield batch
                    buffer.put(wide(0, 300))

            return pa.RecordBatchReader.from_batches(stream.schema, batches()).__arrow_c_stream__(requested_schema)

    duckdb.register("slow", Slow())
    with pytest.raises(duckdb.Error, match="had been dropped for newer ones"):
        duckdb.sql("select count(*), avg(number) from slow").fetchall()


def test_duckdb_reads_parquet_and_gives_rows_back(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    buffer = numbered(1000, 1000)
    buffer.to_parquet(tmp_path / "rows.parquet")
    even = duckdb.sql(f"select number, copies from '{tmp_path / 'rows.parquet'}' where number % 2 = 0 order by number")
    assert duckdb.sql("select sum(number), sum(copies[64]) from even").fetchall() == [(249_500, 249_500.0)]
    half = ReplayBuffer.from_arrow(even.select("number"), 600)
    assert half.take(range(500))["number"].tolist() == list(range(0, 1000, 2))


def test_polars_reads_a_buffer_and_gives_it_back(tmp_path):
    polars = pytest.importorskip("polars")
    buffer = filled(27)
    frame = polars.DataFrame(buffer)
    assert frame["reward"].to_list() == list(range(17, 27))
    assert frame["wave"].struct.field("im").sum() == sum(range(17, 27)) * 2
    kept = ["reward", "half", "flag", "state", "image", "wave", "moment"]
    back = ReplayBuffer.from_arrow(frame.select(kept))
    ages = range(10)
    expected, got = buffer.take(ages), back.take(ages)
    assert {key: got[key].tolist() for key in kept} == {key: expected[key].tolist() for key in kept}
    buffer.to_parquet(tmp_path / "rows.parquet")
    assert polars.read_parquet(tmp_path / "rows.parquet", columns=["reward"])["reward"].sum() == sum(range(17, 27))


def test_pandas_reads_a_buffer():
    pandas = pytest.importorskip("pandas")
    buffer = filled(27)
    frame = buffer.to_arrow(["reward", "flag", "moment"]).read_pandas()
    assert frame["reward"].tolist() == list(range(17, 27))
    assert frame["flag"].dtype == bool
    if hasattr(pandas.DataFrame, "from_arrow"):
        assert pandas.DataFrame.from_arrow(buffer)["reward"].tolist() == list(range(17, 27))


def test_aliases_casts_and_columns_of_others():
    table = pa.table({"new_state": [[1.0, 2.0]] * 3, "reward": [1, 2, 3], "who": ["a", "b", "c"]})
    table = table.set_column(0, "new_state", table["new_state"].cast(pa.list_(pa.float64(), 2)))
    spec = {"state_new": (np.float32, (2,)), "reward": np.float32}
    buffer = ReplayBuffer.from_arrow(table, spec=spec)
    assert buffer.take([2])["state_new"].tolist() == [[1.0, 2.0]]
    assert buffer.capacity == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pa.table({"a": ["x"]}), "key 'a': expected numbers of fixed width, got Arrow type string"),
        (pa.table({"a": [1, None]}), "key 'a': expected no missing values, got 1 nulls"),
        ([1, 2], "got list"),
        (
            pa.table({"a": pa.array([1], pa.decimal128(5, 2))}),
            r"got Arrow type decimal128\(5, 2\); cast it to a float$",
        ),
        (pa.table({"a": pa.array(["x"]).dictionary_encode()}), r"got Arrow type dictionary<.*>; give its indices$"),
    ],
)
def test_what_a_buffer_cannot_hold_is_refused(source, message):
    with pytest.raises((InvalidTypeError, InvalidValueError), match=message):
        ReplayBuffer.from_arrow(source)


def test_refusals_name_what_came(tmp_path):
    buffer = filled(3)
    with pytest.raises(InvalidValueError, match=r"keys: expected one of .* got 'rewrad'. Did you mean 'reward'"):
        buffer.to_arrow(["rewrad"])
    with pytest.raises(InvalidTypeError, match=r"keys: expected several names, got the one name 'reward'; write \["):
        buffer.to_arrow("reward")
    with pytest.raises(InvalidValueError, match="float16: expected one of 'float16', 'float32', got 'half'"):
        buffer.to_arrow(float16="half")
    with pytest.raises(InvalidValueError, match=r"compression: expected one of .* got 'zip'"):
        buffer.to_parquet(tmp_path / "rows", compression="zip")
    with pytest.raises(EmptyBufferError, match=r"^to_arrow: expected a buffer whose schema is known"):
        ReplayBuffer(3).to_arrow()
    with pytest.raises(EmptyBufferError, match=r"^to_parquet: expected a buffer whose schema is known"):
        ReplayBuffer(3).to_parquet(tmp_path / "rows")
    with ReplayBuffer(3, path=tmp_path / "closed") as closed:
        closed.put({"reward": 1.0})
    for verb, call in (("to_arrow", closed.to_arrow), ("to_parquet", lambda: closed.to_parquet(tmp_path / "rows"))):
        with pytest.raises(ClosedError, match=rf"^{verb}: .*expected an open buffer"):
            call()
    with pytest.raises(InvalidValueError, match="capacity: expected a number of rows, as RecordBatchReader"):
        ReplayBuffer.from_arrow(buffer.to_arrow())
    (tmp_path / "notes").write_text("something else")
    with pytest.raises(InvalidValueError, match="expected a Parquet file to replace, or nothing, got a file that"):
        buffer.to_parquet(tmp_path / "notes")
    for path in (tmp_path / "notes", tmp_path / "none", tmp_path):
        with pytest.raises(InvalidValueError, match="expected a Parquet file, got"):
            ReplayBuffer.from_parquet(path)


def test_a_parquet_file_that_is_cut_is_refused(tmp_path):
    path = tmp_path / "rows"
    numbered(1000, 1000).to_parquet(path)
    content = path.read_bytes()
    for length in (4, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InvalidValueError, match="expected a whole Parquet file, but"):
            ReplayBuffer.from_parquet(path)


def test_a_put_that_the_schema_refuses_still_leaves_the_buffer_alone_while_it_is_read():
    buffer = filled(10)
    stream = to_arrow(buffer, chunk_bytes=1)
    stream.read_next_batch()
    with pytest.raises(InvalidValueError, match="expected key 'half'"):
        buffer.put({"reward": [1.0]})
    assert sum(len(batch) for batch in stream) == 9
    buffer.put(rows(10, 1))
    assert buffer.take([9])["reward"] == 10


def test_columns_of_one_name_are_refused():
    table = pa.Table.from_arrays([pa.array([1, 2]), pa.array([3, 4])], ["a", "a"])
    with pytest.raises(InvalidValueError, match=r"expected columns of different names, got \['a', 'a'\]"):
        ReplayBuffer.from_arrow(table)
