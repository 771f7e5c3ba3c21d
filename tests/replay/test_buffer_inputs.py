"""Every kind of input goes into the buffer bit for bit: dtypes, layouts, lists, tensors, Arrow."""

import numpy as np
import pyarrow as pa
import pytest

from really import InvalidValueError, ReplayBuffer
from really.replay import Sequences
from really.service import ShardedBuffer

DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "longdouble", "complex64", "complex128", "S3", "U2", "datetime64[ms]"),
]


def some(dtype, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(np.int64).astype(dtype)


def held(buffer, key="x"):
    return buffer.take(np.arange(len(buffer)))[key]


def stored(data, **settings):
    buffer = ReplayBuffer(100, **settings)
    buffer.put(data)
    return held(buffer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 5), (7, 1, 3), (200,)])
def test_every_dtype_and_shape(dtype, shape):
    rows = some(dtype, (13, *shape))
    buffer = ReplayBuffer(10)
    buffer.put({"x": rows, "y": rows})
    assert buffer.spec["x"] == (np.dtype(dtype), shape)
    assert held(buffer).dtype == np.dtype(dtype)
    assert held(buffer).tobytes() == rows[3:].tobytes()
    assert held(buffer, "y").tobytes() == rows[3:].tobytes()


def test_structured_rows():
    rows = np.zeros(5, [("a", "i4"), ("b", "f8", (2,))])
    rows["a"], rows["b"] = np.arange(5), np.arange(10).reshape(5, 2)
    assert stored({"x": rows}).tobytes() == rows.tobytes()


LAYOUTS = {
    "fortran": np.asfortranarray,
    "transposed": lambda rows: np.ascontiguousarray(rows.transpose(0, 2, 1)).transpose(0, 2, 1),
    "every second row": lambda rows: np.repeat(rows, 2, axis=0)[::2],
    "backwards": lambda rows: rows[::-1].copy()[::-1],
    "every second column": lambda rows: np.repeat(rows, 2, axis=2)[:, :, ::2],
    "byte-swapped": lambda rows: rows.astype(rows.dtype.newbyteorder()),
    "unaligned": lambda rows: np.frombuffer(b"x" + rows.tobytes(), np.uint8)[1:].view(rows.dtype).reshape(rows.shape),
    "subclass": lambda rows: rows.view(np.memmap),
    "nested lists of arrays": list,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(9, 3, 4), (9, 40, 50)])
def test_every_layout(layout, shape):
    rows = some("float32", shape)
    assert np.array_equal(stored({"x": LAYOUTS[layout](rows)}), rows)


def test_read_only_and_broadcast_arrays():
    rows = np.broadcast_to(np.arange(3, dtype=np.float32), (5, 3))
    assert not rows.flags.writeable
    assert np.array_equal(stored({"x": rows}), rows)


@pytest.mark.parametrize("rows", [np.empty((0, 3), np.float32), np.zeros((0, 4, 3), np.float32).transpose(0, 2, 1)])
def test_no_rows_at_all_fix_the_schema(rows):
    buffer = ReplayBuffer(5)
    buffer.put({"x": rows})
    assert len(buffer) == 0
    assert buffer.spec == {"x": (np.dtype(np.float32), rows.shape[1:])}


def test_empty_lists_add_nothing():
    buffer = ReplayBuffer(5, spec={"x": (np.float32, (3,)), "y": np.int64})
    buffer.put({"x": [], "y": []})
    assert len(buffer) == 0


def test_columns_without_content():
    assert stored({"x": np.empty((4, 0), np.float32)}).shape == (4, 0)


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [
        ([1.5, 2.5], np.float32),
        ([1, 2], np.int64),
        ([True, False], np.bool_),
        ([[1, 2.5], [3, 4]], np.float32),
        ([np.float64(1), np.float64(2)], np.float64),
        ([np.zeros(3), np.ones(3)], np.float64),
        ((np.uint8(1), np.uint8(2)), np.uint8),
    ],
)
def test_lists(rows, dtype):
    assert stored({"x": rows}).dtype == dtype
    assert np.array_equal(stored({"x": rows}), rows)


@pytest.mark.parametrize(
    ("got", "expected"),
    [("float64", "float32"), ("int64", "int32"), ("uint8", "int16"), ("bool", "float32"), ("int64", "float32"),
     ("float32", "float16"), ("float32", "complex64"), ("bool", "uint8")],
)  # fmt: skip
def test_casts_that_numpy_calls_same_kind(got, expected):
    rows = some(got, (4, 2))
    assert np.array_equal(stored({"x": rows}, spec={"x": (expected, (2,))}), rows.astype(expected))


def test_python_integers_go_where_they_fit():
    assert stored({"x": [1, 255]}, spec={"x": np.uint8}).tolist() == [1, 255]


ONE = {
    "python float": (1.5, np.float32, 1.5),
    "python int": (7, np.int64, 7),
    "python bool": (True, np.bool_, True),
    "int to float": (7, np.float32, 7.0),
    "bool to float": (True, np.float32, 1.0),
    "numpy float64 to float32": (np.float64(2.5), np.float32, 2.5),
    "numpy uint8": (np.uint8(9), np.uint8, 9),
    "int to uint8": (200, np.uint8, 200),
    "0-d array": (np.array(3.0, np.float32), np.float32, 3.0),
    "complex": (1 + 2j, np.complex128, 1 + 2j),
    "large int": (2**62, np.int64, 2**62),
    "large int to float": (2**40, np.float32, 2.0**40),
    "infinity": (float("inf"), np.float32, float("inf")),
}


@pytest.mark.parametrize("case", ONE)
def test_one_row(case):
    value, dtype, expected = ONE[case]
    buffer = ReplayBuffer(3, spec={"x": dtype, "y": (np.float32, (2,))})
    for _ in range(5):
        buffer.put({"x": value, "y": np.ones(2, np.float32)})
    assert held(buffer).tolist() == [expected] * 3


def test_one_row_of_big_observations():
    rows = some("uint8", (7, 84, 84, 4))
    buffer = ReplayBuffer(5)
    for row in rows:
        buffer.put({"x": row, "reward": 1.0})
    assert np.array_equal(held(buffer), rows[2:])


def test_nan_payloads_survive():
    rows = np.array([0x7FC00001, 0xFF800001], np.uint32).view(np.float32)
    assert stored({"x": rows}).tobytes() == rows.tobytes()


@pytest.mark.parametrize("chunks", [[5], [2, 3], [1, 1, 1, 1, 1], [0, 5]])
def test_arrow_tables_of_any_chunks(chunks):
    state = some("float32", (5, 4))
    frame = some("uint8", (5, 2, 3))
    batch = pa.record_batch(
        [
            pa.FixedSizeListArray.from_arrays(pa.array(state.reshape(-1)), 4),
            pa.FixedShapeTensorArray.from_numpy_ndarray(frame),
            pa.array(np.arange(5)),
            pa.array([True, False, True, True, False]),
            pa.array(np.arange(5, dtype=np.float16)),
        ],
        names=["state", "frame", "action", "done", "half"],
    )
    parts, first = [], 0
    for num in chunks:
        parts.append(batch.slice(first, num))
        first += num
    buffer = ReplayBuffer(4)
    buffer.put(pa.Table.from_batches(parts))
    assert np.array_equal(held(buffer, "state"), state[1:])
    assert np.array_equal(held(buffer, "frame"), frame[1:])
    assert held(buffer, "action").tolist() == [1, 2, 3, 4]
    assert held(buffer, "done").tolist() == [False, True, True, False]
    assert held(buffer, "half").dtype == np.float16


def test_arrow_nested_lists_and_slices_of_slices():
    inner = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(24, dtype=np.int32)), 2)
    rows = pa.FixedSizeListArray.from_arrays(inner, 3).slice(1).slice(1, 2)
    assert np.array_equal(stored(pa.record_batch([rows], names=["x"])), np.arange(24).reshape(4, 3, 2)[2:])


def test_arrow_numbers_are_viewed_in_place():
    from really.data.arrow_columns import as_rows

    values = pa.array(np.arange(12, dtype=np.float32))
    view = as_rows("x", pa.FixedSizeListArray.from_arrays(values, 3).slice(1))
    assert view.ctypes.data == values.buffers()[1].address + 12


def test_arrow_out_of_shared_memory_read_only():
    batch = pa.record_batch([pa.array(np.arange(1000))], names=["x"])
    with pa.BufferOutputStream() as sink:
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        table = pa.ipc.open_stream(sink.getvalue()).read_all()
    buffer = ReplayBuffer(10)
    buffer.put(table)
    assert held(buffer).tolist() == list(range(990, 1000))


def test_tensorflow_tensors():
    tf = pytest.importorskip("tensorflow")
    rows = some("float32", (4, 3))
    assert np.array_equal(stored({"x": tf.constant(rows)}), rows)
    assert np.array_equal(stored({"x": tf.Variable(rows)}), rows)
    assert np.array_equal(stored({"x": [tf.constant(row) for row in rows]}), rows)


def test_anything_with_dlpack_or_array():
    class Dlpack:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    class Array:
        def __array__(self, dtype=None, copy=None):
            return some("int16", (4, 3))

    rows = some("float32", (4, 3))
    assert np.array_equal(stored({"x": Dlpack(rows)}), rows)
    assert np.array_equal(stored({"x": Array()}), some("int16", (4, 3)))


def test_opposites_keep_dtypes():
    for dtype in (np.float32, np.bool_, np.int64):
        flags = np.array([0, 1, 1]).astype(dtype)
        buffer = ReplayBuffer(3, ["not_done"])
        buffer.put({"terminal": flags})
        assert held(buffer, "not_done").dtype == dtype
        assert held(buffer, "not_done").tolist() == (1 - flags.astype(int)).tolist()


def test_aliases_with_leaves_and_both_ways():
    buffer = ReplayBuffer(3, ["state_new.position", "new_state.velocity"])
    buffer.put({"new_state.position": [[1.0]], "state_new.velocity": [[2.0]]})
    assert held(buffer, "state_new.position").tolist() == [[1.0]]
    assert held(buffer, "new_state.velocity").tolist() == [[2.0]]


def test_the_input_is_left_as_it_was():
    data = {"new_state": [[1.0]], "not_done": [1.0]}
    ReplayBuffer(3, ["state_new", "terminal"]).put(data)
    assert data == {"new_state": [[1.0]], "not_done": [1.0]}


@pytest.mark.parametrize("dtype", [f"{sign}{width}" for sign in "iu" for width in (1, 2, 4, 8)])
def test_indices_of_every_integer(dtype):
    buffer = ReplayBuffer(10)
    buffer.put({"x": np.arange(10.0)})
    assert buffer.take(np.array([9, 0, 3], dtype))["x"].tolist() == [9, 0, 3]


def test_indices_as_tensors():
    tf = pytest.importorskip("tensorflow")
    buffer = ReplayBuffer(10)
    buffer.put({"x": np.arange(10.0)})
    assert buffer.take(tf.constant([[1], [2]]))["x"].tolist() == [[1], [2]]


def test_polars_series():
    pl = pytest.importorskip("polars")
    buffer = ReplayBuffer(10)
    buffer.put({"x": pl.Series([1.0, 2.0])})
    assert buffer.take([0, 1])["x"].tolist() == [1, 2]
    with pytest.raises(InvalidValueError, match="'x': expected no missing values, got 1 nulls"):
        buffer.put({"x": pl.Series([1.0, None])})


def test_one_row_with_text():
    buffer = ReplayBuffer(10, spec={"name": "U2", "code": "S3", "y": "f4"})
    buffer.put({"name": np.str_("ab"), "code": np.bytes_(b"xyz"), "y": 1})
    batch = buffer.take([0])
    assert (batch["name"][0], batch["code"][0], batch["y"][0]) == ("ab", b"xyz", 1)


def test_empty_arrow_tables_of_tensors_fix_the_schema():
    table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((4, 2, 3)))})
    buffer = ReplayBuffer(10)
    buffer.put(table.slice(0, 0))
    assert buffer.spec == {"x": (np.dtype(np.float64), (2, 3))}
    buffer.put(table)
    assert len(buffer) == 4


@pytest.mark.parametrize(("kind", "dtype"), [(pa.date32(), "M8[D]"), (pa.date64(), "M8[ms]")])
def test_arrow_dates(kind, dtype):
    days = np.array(["2026-11-26", "1969-12-31"], "M8[D]")
    buffer = ReplayBuffer(10)
    buffer.put(pa.table({"day": pa.array(days.astype(object), kind)}))
    assert buffer.spec["day"][0] == np.dtype(dtype)
    assert np.array_equal(buffer.take([0, 1])["day"], days.astype(dtype))


def test_times_in_finer_and_coarser_units():
    buffer = ReplayBuffer(10, spec={"x": "M8[ms]"})
    buffer.put({"x": np.array(["2026-11-26", "NaT"], "M8[s]")})
    buffer.put({"x": np.array(["2026-11-26T00:00:00.001999"], "M8[us]")})
    assert buffer.take([0, 1, 2])["x"].astype(str).tolist() == [
        "2026-11-26T00:00:00.000",
        "NaT",
        "2026-11-26T00:00:00.001",
    ]


@pytest.mark.parametrize("dtype", ["f4", "i8", ">f4", ">i8", "i4", "u8", "f8", "f2"])
def test_one_row_of_numpy_numbers_is_exact(dtype):
    """Also where the number is of another dtype than the column, or of another byte order."""
    buffer = ReplayBuffer(9)
    buffer.put({"x": np.zeros(1, dtype)})
    largest = np.finfo(dtype).max if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    for value in (np.dtype(dtype).type(3), np.dtype(dtype).type(largest), np.float32(2), np.int64(5)):
        if np.can_cast(value.dtype, np.dtype(dtype), "same_kind"):
            buffer.put({"x": value})
            np.testing.assert_array_equal(buffer.take([len(buffer) - 1])["x"], np.array([value], dtype))


def episodes_of_seven(num, with_frames=False):
    ids = np.arange(num)
    states = np.repeat(np.arange(num + 1)[:, None], 512, axis=1) if with_frames else np.arange(num + 1)
    return {"id": ids, "state": states[:-1], "state_new": states[1:], "terminal": (ids % 7 == 6).astype(np.float32)}


def from_buffer(rows, unit, folder):
    source, buffer = ReplayBuffer(100), ReplayBuffer(10, unit=unit)
    source.put(rows)
    buffer.put(source)
    return buffer


def put_at_once(make):
    def filled(rows, unit, folder):
        buffer = make(unit, folder)
        buffer.put(rows)
        return buffer

    return filled


def table(rows):
    return pa.table({key: pa.array(list(column)) for key, column in rows.items()})


PLACES = {
    "memory": put_at_once(lambda unit, folder: ReplayBuffer(10, unit=unit)),
    "few spare slots": put_at_once(lambda unit, folder: ReplayBuffer(10, unit=unit, path=folder, spare=3)),
    "disk": put_at_once(lambda unit, folder: ReplayBuffer(10, unit=unit, path=folder)),
    "shards": put_at_once(lambda unit, folder: ShardedBuffer(10, shards=3, unit=unit)),
    "shards on disk": put_at_once(lambda unit, folder: ShardedBuffer(10, shards=3, unit=unit, path=folder)),
    "Arrow": lambda rows, unit, folder: ReplayBuffer.from_arrow(table(rows), capacity=10, unit=unit),
    "a buffer": from_buffer,
}


@pytest.mark.parametrize("with_frames", [False, True], ids=["rows", "frames"])
@pytest.mark.parametrize("num", [10, 11, 14, 45])
@pytest.mark.parametrize("place", PLACES)
def test_rows_that_a_put_drops_at_once_are_numbered(place, num, with_frames, tmp_path):
    """Else the oldest row that is kept would pass for the beginning of an episode."""
    rows = episodes_of_seven(num + 12, with_frames)
    buffer = PLACES[place]({key: column[:num] for key, column in rows.items()}, Sequences(3, burn_in=2), tmp_path / "b")
    for end in (num, num + 12):
        expected = ReplayBuffer(10, unit=Sequences(3, burn_in=2))
        for at in range(end):
            expected.put({key: column[at : at + 1] for key, column in rows.items()})
        assert buffer.numbers().tolist() == list(range(end - 10, end))
        assert buffer.episodes().equals(expected.episodes())
        windows, wanted = (one.take(np.arange(10)) for one in (buffer, expected))
        assert all(windows[key].tobytes() == wanted[key].tobytes() for key in wanted)
        if end == num:
            buffer.put({key: column[num:] for key, column in rows.items()})
