"""Bad input raises an error that says what was expected, what it got and where; the buffer stays bit for bit."""

import re
from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pytest

from really import ReplayBuffer
from really.errors import EmptyBufferError, InvalidTypeError, InvalidValueError, NotEnoughMemoryError, ReallyError
from really.replay.arguments import refuse_few

SPEC = {"state": (np.float32, (3,)), "action": np.int64, "reward": np.float32, "terminal": np.bool_}
VALUE, TYPE = InvalidValueError, InvalidTypeError


def good(num=2, **changed):
    rows = {
        "state": np.ones((num, 3), np.float32),
        "action": np.ones(num, np.int64),
        "reward": np.ones(num, np.float32),
        "terminal": np.zeros(num, np.bool_),
    }
    return {key: value for key, value in {**rows, **changed}.items() if value is not MISSING}


def arrow(**changed):
    state = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(6, np.float32)), 3)
    columns = {"state": state, "action": pa.array([1, 2]), "reward": pa.array([1.0, 2.0], pa.float32())}
    return pa.table({**columns, "terminal": pa.array([True, False]), **changed})


def nulls_in_the_second_chunk():
    return pa.concat_tables([arrow(), arrow(action=pa.array([1, None], pa.int64()))])


MISSING = object()
ONE = {"state": np.ones(3, np.float32), "action": 1, "reward": 1.0, "terminal": False}
RAGGED = [[1.0, 2.0, 3.0], [1.0]]

# name: (what is put, class of the error, what the message says)
PUTS = {
    "nothing": (None, TYPE, "put: expected a mapping from key to rows, an Arrow .*, or a buffer, got NoneType"),
    "a list": ([1, 2], TYPE, "expected a mapping from key to rows, .*got list"),
    "an array": (np.zeros(3), TYPE, "expected a mapping from key to rows, .*got ndarray"),
    "an arrow array": (pa.array([1]), TYPE, "expected an Arrow RecordBatch or Table, got Int64Array"),
    "a key that is no name": ({3: [1]}, TYPE, "expected keys of type str, got 3 of int"),
    "no keys": ({}, VALUE, "expected key 'state', got none"),
    "a missing key": (good(action=MISSING), VALUE, "expected key 'action', got 'state', 'reward', 'terminal'"),
    "a misspelt key": (good(reward=MISSING, rewards=[1.0, 1.0]), VALUE, "'reward'.*Did you mean 'rewards'"),
    "ragged lists": (good(state=RAGGED), VALUE, "key 'state': expected rows of one shape, got list: .*inhomogeneous"),
    "ragged arrays": (good(state=[np.zeros(3), np.zeros(2)]), VALUE, "key 'state': expected rows of one shape"),
    "too wide": (good(state=np.ones((2, 4), np.float32)), VALUE, r"'state': expected shape \[n, 3\] .*shape \[2, 4\]"),
    "too narrow": (good(state=np.ones((2, 2), np.float32)), VALUE, r"'state': .*got shape \[2, 2\]"),
    "too deep": (good(state=np.ones((2, 3, 1), np.float32)), VALUE, r"'state': .*got shape \[2, 3, 1\]"),
    "too flat": (good(state=np.ones(2, np.float32)), VALUE, r"one row of shape \[3\], got shape \[2\]"),
    "a trailing axis": (good(reward=np.ones((2, 1), np.float32)), VALUE, r"'reward': expected shape \[n\].*\[2, 1\]"),
    "unequal rows": (good(reward=np.ones(3, np.float32)), VALUE, "'reward': expected 2 rows as at key 'state', got 3"),
    "no rows at one key": (good(action=[]), VALUE, "'action': expected 2 rows as at key 'state', got 0"),
    "one row among rows": (good(num=1, action=1), VALUE, "'action': expected rows as at key 'state', got shape"),
    "rows in one row": ({**ONE, "reward": [1.0]}, VALUE, "'reward': expected one row as at key 'state'"),
    "floats for integers": (good(action=np.ones(2)), TYPE, "'action': expected int64 or what casts.*, got float64"),
    "python floats for integers": (good(action=[1.5, 2.5]), TYPE, "'action': expected int64 .*got float64"),
    "one float for an integer": ({**ONE, "action": 1.5}, TYPE, "'action': expected int64 .*got float64"),
    "complex for floats": (good(reward=np.ones(2, complex)), TYPE, "'reward': expected float32 .*got complex128"),
    "integers for booleans": (good(terminal=np.ones(2, np.int64)), TYPE, "'terminal': expected bool .*got int64"),
    "floats for booleans": (good(terminal=[0.0, 1.0]), TYPE, "'terminal': expected bool .*got float64"),
    "unsigned beyond int64": (good(action=np.array([1, 2**63], np.uint64)), VALUE, "int64, got 9223372036854775808"),
    "a python integer too large": (good(action=[1, 2**70]), TYPE, "'action': expected numbers of fixed width"),
    "one integer too large": ({**ONE, "action": 2**64}, TYPE, "'action': expected numbers of fixed width"),
    "one integer just too large": ({**ONE, "action": 2**63}, VALUE, "'action': expected values that fit int64"),
    "a float too large": (good(reward=np.array([1.0, 1e300])), VALUE, "'reward': expected values that fit float32"),
    "one float too large": ({**ONE, "reward": 1e300}, VALUE, "'reward': expected values that fit float32"),
    "text": (good(reward=["a", "b"]), TYPE, "'reward': expected numbers of fixed width, got list of str"),
    "one text": ({**ONE, "reward": "a"}, TYPE, "'reward': expected numbers of fixed width, got str"),
    "bytes": (good(reward=[b"a", b"b"]), TYPE, "'reward': expected numbers of fixed width, got list of bytes"),
    "objects": (good(reward=np.array([1, "a"], object)), TYPE, "'reward': expected numbers of fixed width"),
    "none among numbers": (good(reward=[1.0, None]), TYPE, "'reward': .* fixed width, got list of NoneType and float"),
    "nulls in an Arrow array": (good(reward=pa.array([1.0, None])), VALUE, "'reward': .*missing values, got 1 nulls"),
    "none": (good(reward=None), TYPE, "'reward': expected numbers of fixed width, got NoneType"),
    "a set": (good(reward={1.0, 2.0}), TYPE, "'reward': expected numbers of fixed width, got set"),
    "a generator": (good(reward=(x for x in [1.0, 2.0])), TYPE, "'reward': .*got generator"),
    "a dict as a value": (good(state={"x": [1.0]}), TYPE, "'state': expected numbers of fixed width, got dict"),
    "dates": (good(reward=np.array(["2020-01-01"] * 2, "M8[s]")), TYPE, "'reward': expected float32 .*datetime64"),
    "masked values": (
        good(reward=np.ma.masked_array([1.0, 2.0], [True, False])),
        VALUE,
        "'reward': expected no missing values, got a masked array",
    ),
    "an arrow null": (
        arrow(action=pa.array([1, None], pa.int64())),
        VALUE,
        "'action': expected no missing values, got 1 nulls, the first at row 1",
    ),
    "an arrow null in a later chunk": (nulls_in_the_second_chunk(), VALUE, "'action': expected no missing values"),
    "an arrow null inside a list": (
        arrow(state=pa.FixedSizeListArray.from_arrays(pa.array([1.0, 1, 1, 1, None, 1], pa.float32()), 3)),
        VALUE,
        "'state': expected no missing values, got 1 nulls, the first at row 1",
    ),
    "arrow text": (arrow(reward=pa.array(["a", "b"])), TYPE, "'reward': .*got Arrow type string"),
    "arrow lists of several lengths": (
        arrow(state=pa.array([[1.0], [2.0, 3.0]])),
        VALUE,
        "'state': expected lists of one length, got 1 at row 0 and 2 at row 1",
    ),
    "arrow dictionaries": (
        arrow(reward=pa.array(["a", "b"]).dictionary_encode()),
        TYPE,
        "'reward': .*got Arrow type dictionary",
    ),
    "arrow lists too short": (
        arrow(state=pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4, np.float32)), 2)),
        VALUE,
        r"'state': expected shape \[n, 3\]",
    ),
    "arrow of another dtype": (arrow(action=pa.array([1.5, 2.5])), TYPE, "'action': expected int64 .*got float64"),
    "arrow times of day": (arrow(reward=pa.array([1, 2], pa.time32("s"))), TYPE, "'reward': .*got Arrow type time32"),
    "arrow columns of one name": (
        pa.Table.from_arrays([*arrow().columns, pa.array([3, 4])], [*arrow().column_names, "action"]),
        VALUE,
        "expected columns of different names, got .*'action'",
    ),
    "text for the opposite": (good(terminal=MISSING, not_done=np.array(["a", "b"])), TYPE, "'not_done' to be numbers"),
    "arrow without a column": (arrow().drop_columns(["reward"]), VALUE, "expected key 'reward', got 'state'"),
}  # fmt: skip

READS = {
    "sample of none": (lambda b: b.sample(0), VALUE, "n: expected an integer from 1 to .*, got 0"),
    "sample of fewer": (lambda b: b.sample(-1), VALUE, "n: expected an integer from 1 to .*, got -1"),
    "sample of a float": (lambda b: b.sample(2.0), TYPE, "n: expected an integer >= 1, got 2.0"),
    "sample of a bool": (lambda b: b.sample(True), TYPE, "n: expected an integer >= 1, got True"),
    "sample of text": (lambda b: b.sample("2"), TYPE, "n: expected an integer >= 1, got '2'"),
    "sample of nothing": (lambda b: b.sample(None), TYPE, "n: expected an integer >= 1, got None"),
    "sample of a list": (lambda b: b.sample([2, 3]), TYPE, r"n: expected an integer >= 1, got \[2, 3\]"),
    "sample of three axes": (lambda b: b.sample((1, 2, 3)), VALUE, r"\(batches, rows\), got \(1, 2, 3\)"),
    "sample of no batches": (lambda b: b.sample((0, 2)), VALUE, r"n\[0\]: expected an integer from 1"),
    "sample of half batches": (lambda b: b.sample((2, 0.5)), TYPE, r"n\[1\]: expected an integer"),
    "sample of far too many": (lambda b: b.sample(2**39), NotEnoughMemoryError, "549,755,813,888 rows: needs"),
    "sample beyond counting": (lambda b: b.sample(2**70), VALUE, "n: expected an integer from 1 to"),
    "more than held, each once": (lambda b: b.sample(6, replace=False), VALUE, "at most 5 rows .*, got 6"),
    "indices, each once": (lambda b: b.sample_indices(6, replace=False), VALUE, "at most 5 rows with replace=False"),
    "indices of none": (lambda b: b.sample_indices(0), VALUE, "n: expected an integer from 1"),
    "take beyond the newest": (lambda b: b.take([0, 5]), VALUE, "expected indices from 0 to 4, got 5, one of 1"),
    "take before the oldest": (lambda b: b.take([-1]), VALUE, "expected indices from 0 to 4, got -1"),
    "take far beyond": (lambda b: b.take(np.array([2**64 - 1], np.uint64)), VALUE, "expected indices from 0 to 4"),
    "take far before": (lambda b: b.take([-(2**60)]), VALUE, "from 0 to 4, got -1152921504606846976"),
    "take beyond counting": (lambda b: b.take([2**50]), VALUE, "from 0 to 4, got 1125899906842624, one of 1"),
    "take of far too many": (
        lambda b: b.take(np.broadcast_to(np.int64(0), 2**40)),
        NotEnoughMemoryError,
        "indices of 1,099,511,627,776 rows: needs 8,796,093,022,208 bytes",
    ),
    "indices of far too many": (lambda b: b.sample_indices(2**39), NotEnoughMemoryError, "rows: needs [0-9,]+ bytes"),
    "take of floats": (lambda b: b.take([0.0]), TYPE, r"expected indices \[n\] or \[k, n\] of integers, got float64"),
    "take of one number": (lambda b: b.take(0), TYPE, r"got int64 of shape \[\]"),
    "take of booleans": (lambda b: b.take([True]), TYPE, "got bool of shape"),
    "take of ragged indices": (lambda b: b.take([[0], [1, 2]]), VALUE, "got ragged ones"),
    "take of empty batches": (lambda b: b.take(np.zeros((0, 3), int)), VALUE, r"got none of shape \[0, 3\]"),
    "out without a key": (lambda b: b.sample(1, out={}), TYPE, r"out\['state'\]: expected a writable .*got NoneType"),
    "out that is no dict": (lambda b: b.sample(1, out=[1]), TYPE, "out: expected a dict of arrays, got list"),
    "out of another kind": (lambda b: b.sample(1, out=OrderedDict(b.sample(1))), TYPE, "of arrays, got OrderedDict"),
    "out too short": (lambda b: b.sample(2, out=b.sample(1)), VALUE, r"out\['state'\]: .*\[2, 3\], got .*\[1, 3\]"),
    "out without the batch axis": (lambda b: b.sample((1, 2), out=b.sample(2)), VALUE, r"shape \[1, 2, 3\], got"),
    "out of another dtype": (
        lambda b: b.sample(1, out={**b.sample(1), "action": np.zeros(1, np.int32)}),
        VALUE,
        r"out\['action'\]: .*int64 .*got int32",
    ),
    "out that is read-only": (
        lambda b: b.take([0], out={**b.sample(1), "action": np.broadcast_to(np.int64(1), 1)}),
        VALUE,
        r"out\['action'\]: .*got one that is read-only",
    ),
    "out with gaps": (
        lambda b: b.take([0, 1], out={**b.sample(2), "action": np.zeros(4, np.int64)[::2]}),
        VALUE,
        r"out\['action'\]: .*not contiguous",
    ),
    "the state of another generator": (
        lambda b: b.load_state_dict(np.random.PCG64(1).state),
        VALUE,
        "state: expected what a buffer's state_dict gave",
    ),
    "a state beyond its words": (
        lambda b: b.load_state_dict({**b.state_dict(), "uinteger": 2**40}),
        VALUE,
        "state: expected what a buffer's state_dict gave",
    ),
    "an empty state": (lambda b: b.load_state_dict({}), VALUE, "state: expected what a buffer's state_dict gave"),
    "no state": (lambda b: b.load_state_dict(None), VALUE, "state: expected what .*got None"),
}  # fmt: skip

CONSTRUCTIONS = {
    "capacity 0": (lambda: ReplayBuffer(0), VALUE, "capacity: expected an integer from 1 to .*, got 0"),
    "capacity below 0": (lambda: ReplayBuffer(-5), VALUE, "capacity: .*got -5"),
    "half a row": (lambda: ReplayBuffer(1.5), TYPE, "capacity: expected an integer >= 1, got 1.5"),
    "capacity as text": (lambda: ReplayBuffer("10"), TYPE, "capacity: .*got '10'"),
    "capacity as bool": (lambda: ReplayBuffer(True), TYPE, "capacity: .*got True"),
    "one key as text": (lambda: ReplayBuffer(5, "state"), TYPE, r"keys: .*'state'; write \['state'\]"),
    "keys that are none": (lambda: ReplayBuffer(5, 3), TYPE, "keys: expected several names, got 3"),
    "no keys": (lambda: ReplayBuffer(5, []), VALUE, "keys: expected one name or more"),
    "a key twice": (lambda: ReplayBuffer(5, ["a", "a"]), VALUE, r"each once, got \['a', 'a'\]"),
    "a key that is no name": (lambda: ReplayBuffer(5, ["a", 1]), TYPE, "keys: expected names of type str, got 1"),
    "a spec that is no mapping": (lambda: ReplayBuffer(5, spec=[1]), TYPE, "spec: expected a mapping"),
    "a spec of other keys": (lambda: ReplayBuffer(5, ["a"], spec={"b": "f4"}), VALUE, r"keys \['a'\], got \['b'\]"),
    "a spec of no dtype": (lambda: ReplayBuffer(5, spec={"a": "colour"}), TYPE, "key 'a': expected a NumPy dtype"),
    "a spec of objects": (lambda: ReplayBuffer(5, spec={"a": object}), TYPE, "key 'a': .*fixed width, got object"),
    "a spec of text of any width": (lambda: ReplayBuffer(5, spec={"a": str}), TYPE, "'a': .*fixed width, got <U0"),
    "a negative axis": (lambda: ReplayBuffer(5, spec={"a": ("f4", (-1,))}), VALUE, "'a': expected axes from 0"),
    "an axis of floats": (lambda: ReplayBuffer(5, spec={"a": ("f4", (1.5,))}), TYPE, r"'a': expected \(dtype, shape\)"),
    "too many axes": (lambda: ReplayBuffer(5, spec={"a": ("f4", (1,) * 61)}), VALUE, "rows of up to 60 axes, got 61"),
    "too many axes with the dtype's own": (
        lambda: ReplayBuffer(5, spec={"a": (np.dtype(("f4", (1,) * 20)), (1,) * 50)}),
        VALUE,
        "rows of up to 60 axes, got 70",
    ),
    "an axis beyond counting": (lambda: ReplayBuffer(5, spec={"a": ("f4", (2**70, 0))}), VALUE, "'a': expected axes"),
    "a spec of None": (lambda: ReplayBuffer(5, spec={"a": None}), TYPE, r"'a': expected \(dtype, shape\), got None"),
    "a generator without a seed": (
        lambda: ReplayBuffer(5, seed=np.random.RandomState(0)._bit_generator),
        VALUE,
        "seed: expected .*got a generator made without a SeedSequence",
    ),
    "a negative seed": (lambda: ReplayBuffer(5, seed=-1), VALUE, "seed: expected an integer >= 0"),
    "a seed of text": (lambda: ReplayBuffer(5, seed="x"), VALUE, "seed: expected .*got 'x'"),
    "a seed of True": (lambda: ReplayBuffer(5, seed=True), TYPE, "seed: expected .*got True"),
    "more than the memory": (
        lambda: ReplayBuffer(10**9, spec={"a": ("f4", (10_001,))}),
        NotEnoughMemoryError,
        r"a buffer of 1,000,000,000 rows: needs 40,064,000,000,000 bytes, available are [\d,]+ ",
    ),
    "more than an address": (
        lambda: ReplayBuffer(10**9, spec={"a": ("f8", (2**40,))}, overcommit=True),
        NotEnoughMemoryError,
        "more than an address can tell",
    ),
    "more rows than addresses": (
        lambda: ReplayBuffer(2**39 + 1, spec={"a": ("u1", (2**25,))}, overcommit=True, dedup=False),
        NotEnoughMemoryError,
        "more than an address can tell",
    ),
}  # fmt: skip


def buffer_of_five():
    buffer = ReplayBuffer(8, spec=SPEC, seed=1)
    rows = np.random.default_rng(3)
    for num in (6, 7):
        buffer.put(good(num, state=rows.random((num, 3), np.float32), action=rows.integers(0, 99, num)))
    buffer.clear()
    buffer.put(good(5, state=rows.random((5, 3), np.float32), action=rows.integers(0, 99, 5)))
    return buffer


def bits(buffer):
    """The whole state of a buffer: rows, generator, schema."""
    ring = buffer._ring
    parts = None if ring is None else [part.tobytes() for part in ring.records()]
    return parts, len(buffer), str(buffer.state_dict()), str(buffer.spec), buffer.keys, buffer.nbytes


def test_there_are_many():
    messages = {message for table in (PUTS, READS, CONSTRUCTIONS) for _, _, message in table.values()}
    assert len(PUTS) + len(READS) + len(CONSTRUCTIONS) >= len(messages) >= 60


@pytest.mark.parametrize("case", PUTS)
def test_refused_put(case):
    data, error, message = PUTS[case]
    buffer = buffer_of_five()
    before = bits(buffer)
    with pytest.raises(error, match=message) as refusal:
        buffer.put(data)
    assert isinstance(refusal.value, ReallyError)
    assert bits(buffer) == before
    buffer.put(good(3))
    assert len(buffer) == 8


FIRST = [
    case for case in PUTS if re.search("ragged|text|byte|object|none|set|generator|null|mask|unequal|no fixed", case)
]


@pytest.mark.parametrize("case", FIRST)
def test_refused_first_put_fixes_no_schema(case):
    buffer = ReplayBuffer(8, ["state", "action", "reward", "terminal"])
    before = bits(buffer)
    with pytest.raises(PUTS[case][1]):
        buffer.put(PUTS[case][0])
    assert bits(buffer) == before
    assert buffer.spec is None
    buffer.put({"state": [1], "action": [2], "reward": [3], "terminal": [4]})
    assert buffer.spec["state"] == (np.dtype(np.int64), ())


@pytest.mark.parametrize("case", READS)
def test_refused_read(case):
    call, error, message = READS[case]
    buffer = buffer_of_five()
    before = bits(buffer)
    with pytest.raises(error, match=message):
        call(buffer)
    rows, size, generator, *rest = bits(buffer)
    assert [rows, size, *rest] == [before[0], before[1], *before[3:]]
    assert case.startswith("out") or generator == before[2], "only the outputs of such a case are drawn"
    assert np.array_equal(buffer.take([4])["state"], buffer.take([4])["state"])


@pytest.mark.parametrize("case", CONSTRUCTIONS)
def test_refused_construction(case):
    call, error, message = CONSTRUCTIONS[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("read", [lambda b: b.sample(1), lambda b: b.take([0]), lambda b: b.sample_indices(1)])
@pytest.mark.parametrize("make", [lambda: ReplayBuffer(5), lambda: ReplayBuffer(5, spec=SPEC)])
def test_empty_buffers(read, make):
    buffer = make()
    before = bits(buffer)
    with pytest.raises(EmptyBufferError, match=r"expected a buffer that holds rows, got an empty one"):
        read(buffer)
    assert bits(buffer) == before


@pytest.mark.parametrize(("num", "held", "replace"), [(20, 5, True), (20, 200, True), (20, 200, False)])
def test_rows_that_were_gone_for_a_moment_are_not_called_too_few(num, held, replace):
    """Another thread clears the buffer during a draw, and puts rows before the error text is made."""
    with pytest.raises(EmptyBufferError, match="sample: expected rows that stay while they are drawn"):
        refuse_few("sample", num, held, replace)


def test_an_empty_list_cannot_fix_a_schema():
    buffer = ReplayBuffer(5)
    with pytest.raises(VALUE, match="'x': expected rows that tell dtype and shape, got none"):
        buffer.put({"x": []})
    assert buffer.spec is None


def test_no_key_at_all_cannot_fix_a_schema():
    with pytest.raises(VALUE, match="put: expected at least one key, got none"):
        ReplayBuffer(5).put({})


def test_a_first_put_that_would_not_fit_in_memory_fixes_no_schema():
    buffer = ReplayBuffer(2**39)
    with pytest.raises(NotEnoughMemoryError, match="a buffer of 549,755,813,888 rows: needs"):
        buffer.put({"x": np.zeros((1, 1000))})
    assert buffer.spec is None


@pytest.mark.parametrize("value", [np.ones((2,) + (1,) * 63), np.ones((1,) * 64)])
def test_a_first_put_of_too_many_axes(value):
    buffer = ReplayBuffer(5)
    with pytest.raises(VALUE, match=r"put: key 'x': expected rows of up to 60 axes, got 6[34]"):
        buffer.put({"x": value} if len(value) == 2 else {"x": value, "y": 1.0})
    assert buffer.spec is None


def test_a_first_put_without_room_fixes_no_schema():
    buffer = ReplayBuffer(100, max_bytes=50_000)
    rows = np.random.default_rng(0).integers(0, 255, (2, 40, 4, 40, 40), np.uint8)
    with pytest.raises(NotEnoughMemoryError, match="none is in"):
        buffer.put({"state": rows[0], "state_new": rows[1]})
    assert buffer.spec is None
    buffer.put({"z": [1.0]})
    assert len(buffer) == 1


@pytest.mark.parametrize("num_there", [0, 1])
def test_how_many_rows_of_the_chunks_before_are_in(num_there):
    rows = np.random.default_rng(0).integers(0, 255, (40, 4, 40, 40), np.uint8)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray
    chunks = [pa.record_batch([tensors(rows[at : at + 5])], ["state"]) for at in range(0, 40, 5)]
    buffer = ReplayBuffer(100, max_bytes=200_000)
    if num_there > 0:
        buffer.put({"state": rows[:num_there]})
    with pytest.raises(NotEnoughMemoryError, match=r"; 20 rows before them are in"):
        buffer.put(pa.Table.from_batches(chunks))
    assert np.array_equal(buffer.take(np.arange(num_there, num_there + 20))["state"], rows[:20])
    assert len(buffer) == num_there + 20


@pytest.mark.parametrize(
    ("got", "dtype"),
    [
        (np.array(["9999-01-01"], "M8[s]"), "M8[ns]"),
        (np.array([10**12], "m8[s]"), "m8[ns]"),
        (np.array([2**63], np.uint64), "m8[s]"),
    ],
)
def test_times_that_do_not_fit(got, dtype):
    buffer = ReplayBuffer(5, spec={"x": dtype})
    with pytest.raises(VALUE, match=r"'x': expected values that fit (datetime|timedelta)64\[.*beyond its range"):
        buffer.put({"x": got})
    assert len(buffer) == 0
