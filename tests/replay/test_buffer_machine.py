"""The buffer against a list of rows as oracle, for any sequence of calls, refused calls included."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from really import ReplayBuffer
from really.errors import EmptyBufferError, ReallyError

DTYPES = ("bool", "uint8", "int16", "int64", "float16", "float32", "float64", "complex64")
SHAPES = ((), (1,), (3,), (4, 2), (130,), (17, 9))
WRONG = ("a missing key", "ragged", "another shape", "another length", "text", "none", "an arrow null")


class BufferMachine(RuleBasedStateMachine):
    """`self.held` is the oracle: [(key -> array of one row)], the newest `capacity` of all that were put.

    `self.gone` are places in it of rows that were removed, and `self.rows` are the others. `self.num_put` counts rows.
    """

    @initialize(
        capacity=st.integers(1, 12),
        schema=st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), min_size=1, max_size=5),
        seed=st.integers(0, 2**32),
        given_spec=st.booleans(),
    )
    def make(self, capacity, schema, seed, given_spec):
        self.schema = {f"key{at}": (np.dtype(dtype), shape) for at, (dtype, shape) in enumerate(schema)}
        self.buffer = ReplayBuffer(capacity, spec=self.schema if given_spec else None, seed=seed)
        self.capacity, self.held, self.gone, self.count, self.fixed = capacity, [], set(), 0, given_spec
        self.kept_batches, self.num_put = [], 0

    @property
    def rows(self):
        return [row for place, row in enumerate(self.held) if place not in self.gone]

    def fresh(self, num):
        """`num` rows; the bytes of each name the row."""
        draw = np.random.default_rng(self.count)
        self.count += 1
        return {
            key: draw.integers(0, 2 if dtype.kind == "b" else 100, (num, *shape)).astype(dtype)
            for key, (dtype, shape) in self.schema.items()
        }

    def remember(self, columns, num):
        self.fixed = True
        self.held += [{key: column[at] for key, column in columns.items()} for at in range(num)]
        num_evicted = max(0, len(self.held) - self.capacity)
        del self.held[:num_evicted]
        self.gone = {place - num_evicted for place in self.gone if place >= num_evicted}
        self.num_put += num

    @rule(num=st.integers(0, 9))
    def put(self, num):
        columns = self.fresh(num)
        self.buffer.put(columns)
        self.remember(columns, num)

    @rule(spare=st.integers(-1, 1))
    def put_up_to_the_seam(self, spare):
        num = self.capacity - self.num_put % self.capacity + spare
        columns = self.fresh(num)
        self.buffer.put(columns)
        self.remember(columns, num)

    @rule(times=st.integers(1, 3), extra=st.integers(-1, 2))
    def put_more_than_fits(self, times, extra):
        num = self.capacity * times + extra
        columns = self.fresh(max(num, 0))
        self.buffer.put(columns)
        self.remember(columns, max(num, 0))

    @rule()
    def put_one(self):
        columns = self.fresh(1)
        row = {key: column[0] if column.ndim > 1 else column[0].item() for key, column in columns.items()}
        if not self.fixed:
            row = {key: column[0, ...] for key, column in columns.items()}
            if all(value.ndim for value in row.values()):
                return
        self.buffer.put(row)
        self.remember(columns, 1)

    @rule(num=st.integers(1, 9), layout=st.sampled_from(["strided", "backwards", "fortran", "swapped", "lists"]))
    def put_other_layouts(self, num, layout):
        columns = self.fresh(num)
        if layout == "lists" and self.fixed:
            self.buffer.put({key: list(column) for key, column in columns.items()})
        else:
            change = {
                "strided": lambda column: np.repeat(column, 2, axis=0)[::2],
                "backwards": lambda column: column[::-1].copy()[::-1],
                "swapped": lambda column: column.astype(column.dtype.newbyteorder()),
            }.get(layout, np.asfortranarray)
            self.buffer.put({key: change(column) for key, column in columns.items()})
        self.remember(columns, num)

    @rule(num=st.integers(1, 9), cut=st.integers(0, 9))
    def put_arrow(self, num, cut):
        columns = self.fresh(num)
        if any(column.dtype == np.complex64 or 0 in column.shape for column in columns.values()):
            return
        batch = pa.record_batch({key: arrow(column) for key, column in columns.items()})
        cut = min(cut, num)
        self.buffer.put(pa.Table.from_batches([batch.slice(0, cut), batch.slice(cut)]))
        self.remember(columns, num)

    @rule(wrong=st.sampled_from(WRONG), num=st.integers(1, 3))
    def refused_put(self, wrong, num):
        if not self.fixed:
            return
        before = bits(self.buffer)
        columns = self.fresh(num)
        last = list(columns)[-1]
        dtype, shape = self.schema[last]
        columns[last] = {
            "a missing key": None,
            "ragged": [[1.0, 2.0], [1.0]],
            "another shape": np.zeros((num, *shape, 2), dtype),
            "another length": np.zeros((num + 1, *shape), dtype) if len(columns) > 1 else [[1.0], []],
            "text": ["text"] * num,
            "none": [None] * num,
            "an arrow null": pa.array([None] * num),
        }[wrong]
        if wrong == "a missing key":
            del columns[last]
        with pytest.raises(ReallyError):
            self.buffer.put(columns)
        assert bits(self.buffer) == before

    @rule(n=st.integers(1, 20), replace=st.booleans(), batches=st.integers(0, 3), reuse=st.booleans())
    def sample(self, n, replace, batches, reuse):
        size = (batches, n) if batches else n
        if not self.rows:
            with pytest.raises(EmptyBufferError):
                self.buffer.sample(size)
            return
        if not replace and n > len(self.rows):
            with pytest.raises(ReallyError, match="at most"):
                self.buffer.sample(size, replace=False)
            return
        state = self.buffer.state_dict()
        ages = self.buffer.sample_indices(size, replace=replace)
        self.buffer.load_state_dict(state)
        out = self.buffer.take(np.zeros_like(ages)) if reuse else None
        batch = self.buffer.sample(size, replace=replace, out=out)
        assert (batch is out) == reuse
        assert self.same(batch, ages)
        self.kept_batches.append((batch, {key: column.copy() for key, column in batch.items()}))

    @rule(data=st.data())
    def take(self, data):
        if self.rows:
            ages = data.draw(st.lists(st.integers(0, len(self.rows) - 1), max_size=20))
            assert self.same(self.buffer.take(ages), np.array(ages, int))

    @rule()
    def clear(self):
        self.buffer.clear()
        self.held, self.gone = [], set()

    def numbers_of(self, places):
        """Numbers of the rows at these places of `held`; beyond it, of rows that were never put."""
        return self.num_put - len(self.held) + np.array(places, int)

    @rule(data=st.data())
    def remove(self, data):
        if not self.held:
            return
        places = data.draw(st.lists(st.integers(0, len(self.held) - 1), max_size=5))
        assert self.buffer.remove(self.numbers_of(places)) == len(set(places) - self.gone)
        self.gone |= set(places)

    @rule(data=st.data(), num_keys=st.integers(1, 5))
    def update(self, data, num_keys):
        if not self.held:
            return
        places = data.draw(st.lists(st.integers(0, len(self.held) - 1), max_size=5))
        columns = dict(list(self.fresh(len(places)).items())[:num_keys])
        num = sum(place not in self.gone for place in places)
        assert self.buffer.update(self.numbers_of(places), columns) == num
        for at, place in enumerate(places):
            self.held[place] = self.held[place] | {key: column[at] for key, column in columns.items()}

    @rule(wrong=st.sampled_from(["remove", "number", "key", "shape"]))
    def refused_change(self, wrong):
        if not self.held:
            return
        before, columns = bits(self.buffer), {"key0": self.fresh(2)["key0"]}
        beyond = self.numbers_of([0, len(self.held)])
        change, arguments = {
            "remove": (self.buffer.remove, (beyond,)),
            "number": (self.buffer.update, (beyond, columns)),
            "key": (self.buffer.update, (beyond[:1], {"key9": [1]})),
            "shape": (self.buffer.update, (beyond[:1], columns)),
        }[wrong]
        with pytest.raises(ReallyError):
            change(*arguments)
        assert bits(self.buffer) == before

    @rule(protocol=st.integers(2, 5), out_of_band=st.booleans())
    def pickle(self, protocol, out_of_band):
        parts = []
        outside = parts.append if out_of_band and protocol == 5 else None
        frozen = pickle.dumps(self.buffer, protocol, buffer_callback=outside)
        copies = [bytes(part.raw()) for part in parts]
        self.buffer, old = pickle.loads(frozen, buffers=copies), self.buffer
        assert self.buffer.spec == old.spec
        if self.rows:
            assert np.array_equal(self.buffer.sample_indices(5), old.sample_indices(5))

    def same(self, batch, ages):
        """Whether the batch is, bit for bit, the oracle's rows of these ages."""
        for key, (dtype, shape) in self.schema.items():
            expected = [self.rows[age][key] for age in ages.ravel()]
            column = batch[key]
            assert column.dtype == dtype
            assert column.shape == (*ages.shape, *shape)
            assert column.flags.writeable
            assert column.flags.c_contiguous
            assert column.ctypes.data % 64 == 0
            assert column.tobytes() == np.array(expected, dtype).reshape(column.shape).tobytes()
        return True

    @invariant()
    def as_the_list(self):
        if not hasattr(self, "held"):
            return
        assert len(self.buffer) == len(self.rows)
        if self.rows:
            left = [place for place in range(len(self.held)) if place not in self.gone]
            assert np.array_equal(self.buffer.numbers(), self.numbers_of(left))
            assert self.same(self.buffer.take(np.arange(len(self.rows))), np.arange(len(self.rows)))
        for batch, copies in self.kept_batches[-3:]:
            assert all(np.array_equal(batch[key], copies[key]) for key in copies)


def arrow(column):
    flat = pa.array(column.reshape(-1))
    if column.ndim == 1:
        return flat
    width = int(np.prod(column.shape[1:]))
    lists = pa.FixedSizeListArray.from_arrays(flat, width)
    if column.ndim == 2 or column.dtype == bool:
        return lists if column.ndim == 2 else nested(flat, column.shape[1:])
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(flat.type, column.shape[1:]), lists)


def nested(array, shape):
    for width in reversed(shape):
        array = pa.FixedSizeListArray.from_arrays(array, width)
    return array


def bits(buffer):
    parts = [part.tobytes() for part in buffer._ring.records()]
    return b"".join(parts), len(buffer), str(buffer.state_dict()), buffer.spec


def run(examples, steps):
    """Runs `num` examples and counts those that made a buffer, because Hypothesis ends early silently."""

    class Counted(BufferMachine):
        made = 0

        def teardown(self):
            Counted.made += hasattr(self, "buffer")

    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Counted.made >= examples


def test_against_a_list_of_rows():
    run(examples=250, steps=15)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_against_a_list_of_rows_at_length():
    run(examples=20_000, steps=30)
