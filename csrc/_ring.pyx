"""The replay ring: `Ring` stores rows as records and returns batches of them; `really.replay.ReplayBuffer` wraps it.

Reading order: record.pxd (the layout of a row), values.pxd, incoming.pxd and scatter.pxd (in), gather.pxd over
row_copy.h (out), bounded_random.pxd over random_words.h (which rows), batch_layout.pxd and pool.pxd (the memory of a
batch), lock.pxd, ring_state.pxd (all of this without Python), then this file, which makes it a Python class. Not every
ring needs the rest: n_step.pxd (n-step returns), cursor_page.pxd (rings on disk), and for large rows that share frames
frame_store.pxd, matching.pxd, interleave.pxd, reconstruct.pxd, placing.pxd and shared_rows.pxd.

One lock guards rows and generator. A thread that holds it never waits, not even for the GIL, so it always releases it.
"""

import numpy as np
from numpy.random import SFC64

cimport cython
cimport numpy as cnp
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from numpy.random cimport bitgen_t

from batch_layout cimport (
    IN_ARRAYS,
    IN_BLOCK,
    NOWHERE,
    Batch,
    BatchParts,
    Destination,
    batch_nbytes,
    lay_out_batch,
    lines,
)
from bounded_random cimport as_part, draw, draw_distinct_batches, really_sfc64_found, table_nbytes
from compact cimport Compact, Windows
from continuity cimport StatePair, continues
from cpu cimport level_names, really_cache_found, really_cpu_use
from cursor_page cimport STATE, Page
from frame_store cimport FrameStore, attach_file, follow_writer, map_needed_blocks
from gather cimport gather
from groups cimport Groups, draw_by_weight, draw_of_strata
from generator cimport copied_state
from incoming cimport Incoming, allocate_columns, allocate_numbers, clear_column, free_incoming, set_whole_rows
from lock cimport Lock, acquire, acquire_without_gc, free_lock, new_lock, release, release_with_gc
from matching cimport MAX_STACK, Sharing, StackColumn, init_sharing
from memory cimport really_load_acquire, really_pages_release, really_pages_reserve, really_store_release
from n_step cimport Steps, allocate_steps
from placing cimport Placed, place_rows
from pool cimport FreeBlocks, Memory, release_block, return_block, take_block
from recency cimport RecencyKind
from reconstruct cimport MISSING, copy_frames, renumber_frames
from record cimport (
    Column,
    Field,
    Records,
    Seam,
    all_held,
    lay_out,
    num_held,
    num_skipped,
    oldest_intact,
    oldest_kept,
    oldest_row,
    oldest_slot,
)
from removed cimport forget_removed, is_removed, remove_rows, start_removing, to_ranks
from ring_state cimport (
    TRIES,
    RingState,
    allocate_tables,
    are_intact,
    begin_update,
    draw_ages,
    draw_rows,
    end_update,
    find_ages,
    first_intact,
    free_tables,
    is_behind_removals,
    is_rolled_back,
    is_updated,
    is_updating,
    keep_state,
    may_evict,
    num_choices,
    num_left,
    refresh_cursor,
    roll_back,
    take_rows,
    take_windows,
    to_held_ages,
)
from scatter cimport append
from shared_rows cimport (
    NoRoom,
    append_pieces,
    bytes_needed,
    first_damaged,
    lay_out_sharing,
    keep_from,
    recount_rows,
    release_dropped,
    return_to_frame,
    stop_writing,
)
from window_batch cimport TrajectoryParts, WindowBatch, lay_out_windows, window_batch_nbytes
from values cimport (
    MAX_DIMS,
    ONE_ROW,
    UNKNOWN,
    Key,
    find_column,
    fits_frames,
    fits_output,
    frame_dims,
    has_rows,
    lead_dims,
    set_shape,
)

cdef extern from "numpy/arrayobject.h":
    # PyArray_NewFromDescr takes over the reference to `dtype`, which numpy's own pxd cannot declare.
    object PyArray_NewFromDescr(
        PyTypeObject* subtype, void* dtype, int num_dims, const cnp.npy_intp* dims,
        const cnp.npy_intp* strides, void* data, int flags, PyObject* parent,
    )
    PyTypeObject PyArray_Type

cdef extern from *:
    """
    /* Whether an array has a reference besides one that the caller knows, or a weak one. */
    static inline int really_is_held(PyObject *array) {
        const Py_ssize_t at = Py_TYPE(array)->tp_weaklistoffset;
        return Py_REFCNT(array) != 1 || (at > 0 && *(PyObject **)((char *)array + at) != NULL);
    }
    """
    bint is_held "really_is_held"(PyObject* array) noexcept

cnp.import_array()

CPU_LEVELS = level_names()
CACHE_NBYTES = really_cache_found()

cdef enum:
    SMALL = 1 << 14  # bytes; a copy this short is done before another thread could take the GIL
    UNCHECKED = 1 << 27  # bytes of a batch that is made without a check of the memory left
    NUM_KEPT = 8  # batches of a ring whose arrays are handed out again
    MOST_KEPT = 1 << 18  # bytes of one of them; of larger ones the copy takes much longer than the arrays

cdef int64_t NO_ROW = INT64_MAX  # a number that no row reaches


@cython.final
@cython.no_gc
cdef class Pool:
    """The pool of memory for a ring's batches; it lives as long as the last batch."""

    cdef FreeBlocks free

    def __dealloc__(self):
        cdef int i
        for i in range(self.free.num_blocks):
            release_block(self.free.blocks[i])


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Block:
    """The memory of one batch: the base of its arrays, returned to the pool when the last array is deleted."""

    cdef Pool pool
    cdef Memory memory
    cdef Batch batch

    def __dealloc__(self):
        if self.memory.data != NULL:
            return_block(&self.pool.free, self.memory)


@cython.final
@cython.no_gc
cdef class KeptBatch:
    """A batch whose arrays are handed out again once nobody but this holds one of them.

    To make five arrays and drop them takes longer than to copy 32 narrow rows.
    """

    cdef dict columns  # as they were handed out
    cdef Block block
    cdef char** addresses  # of the columns, in the block
    cdef Py_ssize_t num
    cdef Py_ssize_t num_batches


cdef KeptBatch unheld(list batches, Py_ssize_t num, Py_ssize_t num_batches, const Key* keys, list dtypes):
    """Takes a batch of this shape and these columns from those that are kept, if nobody holds one of its arrays."""
    cdef KeptBatch kept
    cdef Py_ssize_t i
    for i in range(len(batches)):
        kept = <KeptBatch>batches[i]
        if kept.num == num and kept.num_batches == num_batches and is_as_it_was(kept, keys, dtypes):
            del batches[i]  # another thread may draw meanwhile
            return kept
    return None


cdef bint is_as_it_was(KeptBatch kept, const Key* keys, list dtypes) except -1:
    """Whether nobody holds one of the arrays of a kept batch, and nobody has changed one in place."""
    cdef PyObject* name
    cdef PyObject* array
    cdef Py_ssize_t i = 0, at = 0
    cdef cnp.npy_intp[2] lead
    cdef int num_lead = lead_dims(lead, kept.num, kept.num_batches)
    while PyDict_Next(kept.columns, &at, &name, &array):
        if is_held(array):
            return False
        if cnp.PyArray_DATA(<cnp.ndarray>array) != kept.addresses[i] or not fits_output(
            <cnp.ndarray>array, &keys[i], <cnp.dtype>dtypes[i], lead, num_lead
        ):
            return False
        i += 1
    return True


cdef Py_ssize_t unchecked_size(n, Py_ssize_t most) except -1:
    """`n` if it is an int from 1 to `most`; else 0.

    To check that in Python takes longer than to copy ten narrow rows.
    """
    cdef long long num
    cdef int overflow = 0
    if not PyLong_CheckExact(n):
        return 0
    num = PyLong_AsLongLongAndOverflow(n, &overflow)
    return <Py_ssize_t>num if overflow == 0 and 0 < num <= most else 0


cdef KeptBatch new_kept(dict columns, Block block, char** addresses, Py_ssize_t num, Py_ssize_t num_batches):
    """A batch that was just made."""
    cdef KeptBatch kept = KeptBatch.__new__(KeptBatch)
    kept.columns, kept.block, kept.addresses = columns, block, addresses
    kept.num, kept.num_batches = num, num_batches
    return kept


cdef dict handed_out(list batches, KeptBatch kept):
    """The columns of a batch, which is among those that are kept from now on."""
    cdef dict batch = kept.columns.copy()  # before others may take the arrays: a finalizer may draw in between
    if len(batches) == NUM_KEPT:
        del batches[0]
    batches.append(kept)
    return batch


class RingError(Exception):
    """An error of the ring's own, which `really.replay.engine` alone translates for the user."""


class TooManyFramesError(RingError, MemoryError):
    """The frames of a put exceed `max_bytes`, or the system has no memory for them.

    Arguments: position of the key, rows that share no frame with an earlier one, rows that were tried together, rows
    of the put that are in already.
    """


class FrameFileError(RingError):
    """A file of frames cannot grow. Arguments: errno, name of the key, rows of the put that are in already."""


class MissingFramesError(RingError):
    """A row has the number of a frame that is not stored: its record, or the table of frames, is damaged."""


class AlternatingAgentsError(RingError):
    """Rows of several agents alternate within an episode, so that no row has n steps of one agent.

    Arguments: names of the column that ends episodes and of the column with the agent.
    """


def use_level(int level, size_t cache_nbytes=CACHE_NBYTES):
    """Makes the kernels use the instructions of `CPU_LEVELS[level]`, and distances and thresholds for a second-level
    cache of so many bytes. Call it before there is a ring."""
    really_cpu_use(level, cache_nbytes)


use_level(len(CPU_LEVELS) - 1)


def draw_in_line(bit_generator):
    """Makes the rings draw in line from generators like this one, a new `numpy.random.SFC64`. Returns whether they do:
    not if a NumPy has another state of it than `random_words.h`."""
    cdef bitgen_t* source = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
    cdef cnp.ndarray state = bit_generator.state["state"]["state"]
    return really_sfc64_found(source, <uint64_t*>cnp.PyArray_DATA(state))


draw_in_line(SFC64(0))


def draw_below(bit_generator, int64_t bound, Py_ssize_t num):
    """Draws [num] int64 from [0, bound) as a ring draws rows, for tests of bounds that no ring reaches."""
    cdef bitgen_t* source = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
    cdef Block block = new_block(Pool.__new__(Pool), lines(num * sizeof(int64_t)))
    cdef cnp.npy_intp[1] dims
    dims[0] = num
    draw(source, bound, <int64_t*>block.memory.data, num)
    return new_array(block, block.memory.data, INT64, dims, 1)


@cython.final
cdef class MixedCounts:
    """The number of a mixture's next batch, and how many rows of it each part has if the shares are constant.

    Any number of threads may use it: a call is done before another thread could take the GIL.

    Attributes:
        number: of the next batch.
        ends: rows of a batch -> where each part but the last one ends, for sizes whose counts are rounded.
        whole: rows of a batch -> rows of each part, for sizes whose counts are the same in each batch.
    """

    cdef public int64_t number
    cdef readonly dict ends
    cdef readonly dict whole
    cdef object bit_generator
    cdef bitgen_t* source

    def __cinit__(self, bit_generator, int64_t number):
        self.bit_generator, self.number, self.ends, self.whole = bit_generator, number, {}, {}
        self.source = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")

    def restore(self, int64_t number, dict state):
        """Goes on from this number and state of the generator; changes nothing if the state cannot be used."""
        self.bit_generator.state = state
        self.number = number

    def next_number(self):
        """The number of the next batch, which is taken by that."""
        self.number += 1
        return self.number - 1

    cpdef list next_counts(self, Py_ssize_t num):
        """Rows of each part in the next batch of `num` rows; None, and no batch is taken, if the size is not known."""
        cdef list counts = self.whole.get(num)
        if counts is None:
            ends = self.ends.get(num)
            if ends is None:
                return None
            counts = self.rounded(ends, num)
        self.number += 1
        return counts

    cpdef list rounded(self, list ends, Py_ssize_t num):
        """Rows of each part: all ends are rounded up or down by the same random number."""
        cdef double by = self.source.next_double(self.source.state)
        cdef Py_ssize_t first = 0, stop
        cdef list counts = []
        for end in ends:
            stop = <Py_ssize_t>(<double>end + by)
            counts.append(stop - first)
            first = stop
        counts.append(num - first)
        return counts


def place_frames(frames, Py_ssize_t outer, list indices, list columns, positions):
    """Writes rows to their places, in one or two columns of the same frames.

    frames: C-contiguous [frame, ...]; outer: elements of a frame before the axis of the stack; indices: C-contiguous
    int32 [row, stack] of each column; columns: C-contiguous [place, ...] of the frames' dtype; positions: C-contiguous
    int64 [row], the place of each row, or None if row i has place i.
    """
    cdef Placed placed
    cdef Py_ssize_t at, written
    placed.num_frames, placed.num_places = len(frames), len(columns[0])
    placed.nbytes = frames.nbytes // max(placed.num_frames, 1)
    placed.outer, placed.inner = outer, placed.nbytes // outer
    placed.num, placed.stack = indices[0].shape
    placed.num_columns = len(columns)
    if placed.num_columns not in (1, 2) or placed.stack > MAX_STACK:
        raise ValueError(f"columns: expected 1 or 2, of at most {MAX_STACK} frames a row, got {placed.num_columns}")
    placed.frames = <char*>checked_data(frames, "frames", frames.dtype, frames.shape)
    placed.positions = NULL
    if positions is not None:
        placed.positions = <int64_t*>checked_data(positions, "positions", np.int64, (placed.num,))
    for at in range(placed.num_columns):
        placed.indices[at] = <int*>checked_data(indices[at], "indices", np.int32, (placed.num, placed.stack))
        placed.columns[at] = <char*>checked_data(columns[at], "rows", frames.dtype, columns[at].shape)
        if columns[at].nbytes != placed.num_places * placed.stack * placed.nbytes:
            raise ValueError(f"rows: expected {placed.num_places} stacks of {placed.stack} frames")
    with nogil:
        written = place_rows(&placed)
    if written < placed.num:
        raise IndexError(f"row {written} has no place among {placed.num_places}, or a frame that is not there")


cdef void* checked_data(array, str name, dtype, shape) except NULL:
    """The memory of an array; refuses one of another dtype or shape, or one that is not C-contiguous."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ValueError(
            f"{name}: expected C-contiguous {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}"
        )
    return cnp.PyArray_DATA(<cnp.ndarray?>array)


def row_stride(list field_nbytes):
    """Bytes from one record to the next in a ring whose fields have these lengths."""
    cdef Records rows
    cdef Py_ssize_t i
    rows.num_fields, rows.num_seams = len(field_nbytes), 0
    rows.fields = <Field*>PyMem_Calloc(rows.num_fields + 1, sizeof(Field))
    rows.seams = <Seam*>PyMem_Calloc(rows.num_fields + 1, sizeof(Seam))
    try:
        if rows.fields == NULL or rows.seams == NULL:
            raise MemoryError("the tables of a ring: the system gave no memory")
        for i in range(rows.num_fields):
            rows.fields[i].nbytes = field_nbytes[i]
        lay_out(&rows)
        return rows.stride
    finally:
        PyMem_Free(rows.fields)
        PyMem_Free(rows.seams)


cdef Block new_block(Pool pool, Py_ssize_t nbytes):
    """A block of at least `nbytes` from the pool."""
    cdef Block block = Block.__new__(Block)
    block.pool = pool
    block.memory = take_block(&pool.free, nbytes)
    if block.memory.data == NULL:
        raise MemoryError(f"a batch of {nbytes} bytes: the system gave no memory")
    return block


@cython.final
cdef class Ring:
    """Rows of named columns, first in first out, in one block of `capacity` records.

    The caller checks the arguments.

    Args:
        capacity: rows held at most.
        names, dtypes, shapes: of the columns; lists of str, np.dtype and tuple[int, ...].
        bit_generator: draws rows.
        shared: (positions of one or two columns, stack, axis) for each store of shared frames. Rows of these columns
            are stacks of `stack` frames along `axis`; the second column holds the state after the first.
        max_bytes: of all frames.
        storage: the files of a ring on disk, or None for memory. The ring keeps the object alive. It has the arrays
            `records`, uint8 [slots * stride], and `page`, uint8 [4096] with the cursor; the ring writes to them only if
            `writable`. `make_room(ring, num_rows)` is called before rows without space in the file are written, and
            raises if there is none.
        frame_column: class of the columns that arrive and leave as frames, made from `frames` [frame, ...], `indices`
            [row, stack] int32 and `axis`, which are its attributes. It checks the indices.
    """

    cdef object __weakref__
    cdef RingState state
    cdef Lock* lock
    cdef bint is_forking  # `acquire` has taken the lock
    cdef readonly object bit_generator
    cdef readonly list names
    cdef readonly list dtypes
    cdef readonly list shapes
    cdef readonly list shared
    cdef public int64_t max_bytes
    cdef int64_t num_column_changes  # how often `update` has written columns
    cdef dict column_changes  # how often `update` has written a column, by its name
    cdef int64_t numbered_from  # number of the first row that was ever put
    cdef readonly int64_t num_changes  # how often rows that were held have changed, other than by puts
    cdef readonly Py_ssize_t max_unchecked_rows  # of a batch that is made without a check of the memory left
    cdef Py_ssize_t row_nbytes  # bytes that are copied for a row
    cdef object frame_column
    cdef Pool pool
    cdef list kept  # of `KeptBatch`, at most NUM_KEPT
    cdef readonly object storage

    def __cinit__(
        self, int64_t capacity, list names, list dtypes, list shapes, bit_generator, list shared=[],
        int64_t max_bytes=INT64_MAX, storage=None, frame_column=None,
    ):
        self.names, self.dtypes, self.shapes, self.shared = names, dtypes, shapes, shared
        self.max_bytes, self.frame_column, self.column_changes, self.kept = max_bytes, frame_column, {}, []
        self.pool = Pool.__new__(Pool)
        self.bit_generator = bit_generator
        self.state.source = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
        self.state.rows.capacity = self.state.rows.num_slots = capacity
        self.state.rows.cursor = &self.state.cursor
        self.state.pinned_from = self.state.cursor.kept_from = NO_ROW
        self.state.num_keys = len(names)
        self.state.rows.num_fields = self.state.num_keys + len(shared)
        self.lock = new_lock()
        if self.lock == NULL or not allocate_tables(&self.state):
            raise MemoryError("the tables of a ring: the system gave no memory")
        self.set_fields()
        lay_out(&self.state.rows)
        self.row_nbytes = max(self.row_nbytes, self.state.rows.stride)
        self.max_unchecked_rows = UNCHECKED // self.row_nbytes
        if storage is None:
            self.state.writes, self.state.allocated_end = True, INT64_MAX
            self.state.rows.data = <char*>really_pages_reserve(self.state.rows.num_slots * self.state.rows.stride)
        else:
            self.use_storage(storage)
        self.set_frame_stores()
        if self.state.rows.data == NULL:
            raise MemoryError(
                f"{capacity} rows of {self.state.rows.stride} bytes: the system gave no address space for them"
            )

    cdef int set_fields(self) except -1:
        """Sets the sizes of all fields: the columns, then the oldest frames' numbers."""
        cdef Py_ssize_t i
        for i in range(self.state.num_keys):
            set_shape(&self.state.keys[i], self.shapes[i], self.dtypes[i].itemsize)
            self.state.keys[i].sharing = -1
            self.state.rows.fields[i].nbytes = self.state.keys[i].nbytes
            self.row_nbytes += self.state.keys[i].nbytes
        for i in range(len(self.shared)):
            self.set_sharing(i, self.shared[i][0], self.shared[i][1], self.shared[i][2])
        return 0

    cdef int set_sharing(self, Py_ssize_t at, tuple columns, int stack, int axis) except -1:
        """Lets records hold frame numbers in place of these columns' rows."""
        cdef Sharing* sharing = &self.state.sharings[at]
        cdef int i
        self.state.num_sharings = at + 1
        sharing.stack, sharing.num_columns, sharing.oldest_field = stack, len(columns), self.state.num_keys + at
        for i in range(sharing.num_columns):
            sharing.keys[i] = columns[i]
            self.state.keys[sharing.keys[i]].sharing = <int>at
        lay_out_sharing(sharing, self.state.keys, self.state.rows.fields, axis)
        self.state.max_stack = max(self.state.max_stack, <Py_ssize_t>stack)
        return 0

    cdef int set_frame_stores(self) except -1:
        """Makes the tables of all frame stores."""
        cdef Py_ssize_t i
        cdef bint in_file = self.storage is not None
        for i in range(self.state.num_sharings):
            if not init_sharing(
                &self.state.sharings[i], self.state.rows.capacity, self.state.rows.num_slots, in_file
            ):
                raise MemoryError("the tables of a frame store: the system gave no memory")
        return 0

    cdef int use_storage(self, storage) except -1:
        """Works in the storage's arrays in place of memory of the ring's own."""
        self.storage, self.state.writes = storage, storage.writable
        self.state.rows.data = <char*>cnp.PyArray_DATA(<cnp.ndarray?>storage.records)
        self.state.rows.num_slots = cnp.PyArray_SIZE(storage.records) // self.state.rows.stride
        self.state.page = <Page*>cnp.PyArray_DATA(<cnp.ndarray?>storage.page)
        if self.state.writes:
            self.state.rows.cursor = &self.state.page.cursor
        else:
            self.state.num_rollbacks = self.state.page.num_rollbacks
            refresh_cursor(&self.state)
        return 0

    def set_steps(self, int num, double gamma, int reward, int end, int terminal, int agent, list last_keys):
        """Makes batches consist of rows of up to `num` steps. Call it once, before the ring is used.

        Args:
            num: n.
            gamma: the discount of one step.
            reward, end, terminal: positions of columns, each float32 [].
            agent: position of the column that names the agent, or -1.
            last_keys: positions of the columns that a batch takes from the last step.
        """
        cdef Steps* steps = &self.state.steps
        cdef Py_ssize_t i
        if not allocate_steps(steps, &self.state.rows, len(last_keys)):
            raise MemoryError("the tables of a ring: the system gave no memory")
        for i in range(steps.last.num_fields):
            steps.last_keys[i] = last_keys[i]
            steps.last.fields[i] = self.state.rows.fields[steps.last_keys[i]]
        steps.max_steps, steps.gamma = num, gamma
        steps.reward, steps.end, steps.terminal, steps.agent = reward, end, terminal, agent

    def set_recency(
        self, RecencyKind kind, int64_t window, double eta=1.0, double eta_end=1.0, int64_t anneal_rows=1,
        int64_t num_updates=1, int64_t update=0,
    ):
        """Makes draws prefer new rows, as recency.pxd describes."""
        acquire(self.lock)
        self.state.recency.kind, self.state.recency.window = kind, window
        self.state.recency.eta, self.state.recency.eta_end = eta, eta_end
        self.state.recency.anneal_rows, self.state.recency.num_updates = anneal_rows, num_updates
        self.state.recency.update = update
        release(self.lock)

    @property
    def num_updates_drawn(self):
        """Batches of the phase of updates that are drawn."""
        return self.state.recency.update

    def begin_updates(self, int64_t num):
        """Counts `num` batches as drawn, which `sample_ages` then draws; returns the update of the first one."""
        acquire(self.lock)
        cdef int64_t first = self.state.recency.update
        self.state.recency.update = (first + num) % self.state.recency.num_updates
        release(self.lock)
        return first

    @property
    def num_choices(self):
        """How many of the rows held can be drawn."""
        self.read_removals()
        acquire(self.lock)
        refresh_cursor(&self.state)
        cdef int64_t num = num_choices(&self.state)
        release(self.lock)
        return num

    def __dealloc__(self):
        if self.storage is None:
            really_pages_release(self.state.rows.data, self.state.rows.num_slots * self.state.rows.stride)
        free_tables(&self.state)
        free_lock(self.lock)

    # State --------------------------------------------------------------------------------------------------------

    def __len__(self):
        self.read_removals()
        acquire(self.lock)
        refresh_cursor(&self.state)
        cdef int64_t num = num_left(&self.state)
        release(self.lock)
        self.refuse_if_rolled_back()
        return num

    @property
    def num_held(self):
        """Rows held, removed ones included."""
        oldest, num_put = self.held_rows()
        return num_put - oldest

    @property
    def capacity(self):
        """Rows held at most."""
        return self.state.rows.capacity

    @property
    def num_put(self):
        """Rows put so far, which is the number of the next row."""
        return self.held_rows()[1]

    @property
    def num_written(self):
        """Rows that have ever been written, at most `capacity`: their records take memory, held or not."""
        return min(self.num_put - self.numbered_from, self.capacity)

    @property
    def oldest_row(self):
        """Number of the oldest row held."""
        return self.held_rows()[0]

    @property
    def stride(self):
        """Bytes from one record to the next."""
        return self.state.rows.stride

    @property
    def offsets(self):
        """Offset of each column in a record."""
        return [self.state.rows.fields[i].offset for i in range(self.state.num_keys)]

    @property
    def frames_nbytes(self):
        """Bytes of the frames of all rows held."""
        cdef Py_ssize_t s
        acquire(self.lock)
        if not self.state.writes and refresh_cursor(&self.state):
            for s in range(self.state.num_sharings):
                recount_rows(&self.state.rows, &self.state.sharings[s])
        cdef int64_t nbytes = bytes_needed(self.state.sharings, self.state.num_sharings)
        release(self.lock)
        return nbytes

    @property
    def frame_tables(self):
        """For each store of shared frames: bytes of a block, and entries in the table of blocks."""
        cdef Sharing* sharings = self.state.sharings
        return [
            (sharings[i].store.block_nbytes, sharings[i].store.num_blocks) for i in range(self.state.num_sharings)
        ]

    @property
    def frame_ranges(self):
        """For each store of shared frames: bytes from one frame to the next, frames of a block, number of the oldest
        frame that is kept, and number of the next frame."""
        cdef FrameStore* store
        cdef list found = []
        cdef Py_ssize_t s
        cdef bint collects = acquire_without_gc(self.lock)
        refresh_cursor(&self.state)
        try:
            for s in range(self.state.num_sharings):
                store = &self.state.sharings[s].store
                found.append((store.stride, 1 << store.shift, store.oldest_block << store.shift, store.next))
        finally:
            release_with_gc(self.lock, collects)
        return found

    def records(self):
        """The rows held as one or two uint8 arrays [n, stride], oldest first: read-only views of the ring itself."""
        acquire(self.lock)
        refresh_cursor(&self.state)
        cdef int64_t oldest = oldest_slot(&self.state.rows), size = num_held(&self.state.rows)
        release(self.lock)
        cdef int64_t num_behind = min(size, self.state.rows.num_slots - oldest)
        parts = [self.view(oldest, num_behind), self.view(0, size - num_behind)]
        return [part for part in parts if len(part)]

    cdef object view(self, int64_t slot, int64_t num):
        """Records from this slot on, uint8 [num, stride]."""
        cdef cnp.npy_intp[2] dims
        dims[0], dims[1] = num, self.state.rows.stride
        array = PyArray_NewFromDescr(
            &PyArray_Type, new_reference(UINT8), 2, dims, NULL, self.state.rows.data + slot * self.state.rows.stride,
            cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED, NULL
        )
        cnp.set_array_base(array, self)
        return array

    def acquire(self):
        """Takes the lock for a fork, unless it is taken already. Call `release` afterwards, from the same thread.

        An interrupt may come between this call and whatever its caller does next: both calls may be repeated.
        """
        if not self.is_forking:
            acquire(self.lock)
            self.is_forking = True

    def release(self):
        """Releases the lock that `acquire` took, if it did."""
        if self.is_forking:
            self.is_forking = False
            release(self.lock)

    def held_rows(self):
        """Numbers of the oldest row held and of the next row, read together."""
        cdef int64_t oldest, num_put
        self.read_removals()
        acquire(self.lock)
        refresh_cursor(&self.state)
        oldest, num_put = oldest_row(&self.state.rows), self.state.rows.cursor.num_put
        release(self.lock)
        self.refuse_if_rolled_back()
        return oldest, num_put

    def pin_held(self):
        """`held_rows`; `put` and `clear` refuse to evict these rows until `pin_from` unpins them."""
        cdef int64_t oldest, num_put
        acquire(self.lock)
        refresh_cursor(&self.state)
        oldest, num_put = oldest_row(&self.state.rows), self.state.rows.cursor.num_put
        self.state.pinned_from = min(self.state.pinned_from, oldest)
        release(self.lock)
        return oldest, num_put

    def pin_from(self, int64_t number=NO_ROW):
        """Makes `put` and `clear` refuse to evict the rows from this number on; by default they may evict all."""
        acquire(self.lock)
        self.state.pinned_from = number
        release(self.lock)

    def set_first_number(self, int64_t number):
        """Sets the number of the next row, 0 or more. Does nothing unless the ring is empty."""
        if number < 0:
            raise ValueError(f"number: expected 0 or more, got {number}")
        acquire(self.lock)
        if self.state.writes and num_held(&self.state.rows) == 0:
            if self.state.rows.cursor.num_put == self.numbered_from:
                self.numbered_from = number
            self.state.rows.cursor.num_put = self.state.rows.cursor.first = number
        release(self.lock)

    def clear(self):
        """Removes all rows. Returns False, with nothing done, if one is pinned or the ring is read-only."""
        acquire(self.lock)
        cdef bint may = self.state.writes and self.state.pinned_from >= self.state.rows.cursor.num_put
        if may:
            really_store_release(&self.state.rows.cursor.first, self.state.rows.cursor.num_put)
            release_dropped(&self.state.rows, self.state.sharings, self.state.num_sharings)
        release(self.lock)
        return may

    # Updated rows -------------------------------------------------------------------------------------------------

    def update(self, const int64_t[::1] numbers, dict columns):
        """Writes columns of the rows of these numbers; returns how many of the rows are left, others are ignored.

        `columns` has C-contiguous arrays [n, ...] of the columns' dtypes and shapes, for names that share no frames. Of
        a row that comes twice the last values count. Other threads, and other processes, see all of it or nothing.
        """
        cdef Py_ssize_t i, k, num = numbers.shape[0], num_fields = 0, num_written = 0
        cdef int64_t oldest, slot
        cdef Field* fields = <Field*>PyMem_Malloc(len(columns) * sizeof(Field) + 1)
        cdef const char** values = <const char**>PyMem_Malloc(len(columns) * sizeof(char*) + 1)
        if fields == NULL or values == NULL:
            PyMem_Free(fields)
            PyMem_Free(<void*>values)
            raise MemoryError("the fields of an update: the system gave no memory")
        for i in range(self.state.num_keys):
            if self.names[i] in columns:
                fields[num_fields] = self.state.rows.fields[i]
                values[num_fields] = <const char*>cnp.PyArray_DATA(<cnp.ndarray>columns[self.names[i]])
                num_fields += 1
        acquire(self.lock)
        with nogil:
            refresh_cursor(&self.state)
            oldest = oldest_row(&self.state.rows)
            begin_update(&self.state)
            for i in range(num):
                if not oldest <= numbers[i] < self.state.rows.cursor.num_put or is_removed(
                    &self.state.removed, numbers[i]
                ):
                    continue
                slot = numbers[i] % self.state.rows.num_slots
                for k in range(num_fields):
                    memcpy(
                        self.state.rows.data + slot * self.state.rows.stride + fields[k].offset,
                        values[k] + i * fields[k].nbytes, fields[k].nbytes,
                    )
                num_written += 1
            end_update(&self.state)
        self.num_column_changes += num_written > 0
        release(self.lock)
        for name in columns if num_written else ():
            self.column_changes[name] = self.column_changes.get(name, 0) + 1
        PyMem_Free(fields)
        PyMem_Free(<void*>values)
        return num_written

    def version_of(self, names):
        """A number that changes whenever rows that are held change, other than by puts, as far as these columns go."""
        cdef int64_t version = self.num_changes
        if not self.state.writes:
            version += really_load_acquire(&self.state.page.num_updates)  # of any columns
        for name in names:
            version += self.column_changes.get(name, 0)
        return version

    # Removed rows -------------------------------------------------------------------------------------------------

    def remove(self, const int64_t[::1] numbers):
        """Removes those of these rows that are left; returns how many. They are held until they are evicted."""
        cdef int64_t num = -1
        acquire(self.lock)
        refresh_cursor(&self.state)
        if self.starts_removing():
            num = self.remove_numbers(numbers)
        release(self.lock)
        if num < 0:
            raise MemoryError("the rows that are left: the system gave no memory")
        return num

    def set_removed(self, const int64_t[::1] numbers, int64_t num_removals=0):
        """Makes those of these rows that are held the rows that are removed.

        `num_removals` is what the page counted before the numbers were read.
        """
        cdef bint may
        acquire(self.lock)
        refresh_cursor(&self.state)
        forget_removed(&self.state.removed)
        may = numbers.shape[0] == 0 or self.starts_removing()
        if may:
            self.state.num_removals = num_removals
            self.num_changes += 1
            if numbers.shape[0] > 0:
                self.remove_numbers(numbers)
        release(self.lock)
        if not may:
            raise MemoryError("the rows that are left: the system gave no memory")

    def count_removal(self):
        """Tells processes that read the storage that its file of removed rows is another."""
        acquire(self.lock)
        if self.state.writes and self.state.page != NULL:
            really_store_release(&self.state.page.num_removals, self.state.page.num_removals + 1)
        release(self.lock)

    @property
    def num_removals(self):
        """How often rows were removed, as the storage's page counts it; 0 in memory."""
        return 0 if self.state.page == NULL else really_load_acquire(&self.state.page.num_removals)

    @property
    def num_removed(self):
        """How many of the rows held are removed."""
        self.read_removals()
        if not self.state.removed.any:
            return 0
        acquire(self.lock)
        refresh_cursor(&self.state)
        cdef int64_t num = num_held(&self.state.rows) - num_left(&self.state)
        release(self.lock)
        return num

    def are_removed(self, const int64_t[::1] numbers):
        """Whether each of these rows, bool [n], is held and removed."""
        cdef cnp.ndarray found = np.zeros(numbers.shape[0], np.bool_)
        cdef cnp.npy_bool* flags = <cnp.npy_bool*>cnp.PyArray_DATA(found)
        cdef int64_t oldest
        cdef Py_ssize_t i
        self.read_removals()
        acquire(self.lock)
        refresh_cursor(&self.state)
        oldest = oldest_row(&self.state.rows)
        for i in range(numbers.shape[0] if self.state.removed.any else 0):
            flags[i] = oldest <= numbers[i] < self.state.rows.cursor.num_put and is_removed(
                &self.state.removed, numbers[i]
            )
        release(self.lock)
        return found

    def numbers_of(self, cnp.ndarray ages not None):
        """Replaces indices by age, int64 C-contiguous, by row numbers, in place. Returns False if one has no row."""
        cdef int64_t* rows = <int64_t*>cnp.PyArray_DATA(ages)
        cdef Py_ssize_t i, num = cnp.PyArray_SIZE(ages)
        cdef bint held
        self.read_removals()
        acquire(self.lock)
        refresh_cursor(&self.state)
        held = to_held_ages(&self.state, rows, num)
        for i in range(num if held else 0):
            rows[i] += oldest_row(&self.state.rows)
        release(self.lock)
        return held

    def ages_of(self, cnp.ndarray numbers not None):
        """Replaces row numbers, int64 C-contiguous, by indices by age, in place. Returns False if one is not left."""
        cdef int64_t* rows = <int64_t*>cnp.PyArray_DATA(numbers)
        cdef int64_t oldest
        cdef Py_ssize_t i, num = cnp.PyArray_SIZE(numbers)
        cdef bint are_left = True
        self.read_removals()
        acquire(self.lock)
        refresh_cursor(&self.state)
        oldest = oldest_row(&self.state.rows)
        for i in range(num):
            are_left = oldest <= rows[i] < self.state.rows.cursor.num_put and not is_removed(
                &self.state.removed, rows[i]
            )
            if not are_left:
                break
        for i in range(num if are_left else 0):
            rows[i] -= oldest
        if are_left and self.state.removed.any:
            to_ranks(&self.state.removed, rows, num)
        release(self.lock)
        return are_left

    cdef bint starts_removing(self) noexcept:
        """`start_removing`; hold the lock."""
        return start_removing(
            &self.state.removed, self.state.rows.capacity, oldest_row(&self.state.rows), self.state.rows.cursor.num_put
        )

    cdef int64_t remove_numbers(self, const int64_t[::1] numbers) noexcept:
        """`remove_rows`; hold the lock."""
        cdef int64_t num = 0 if numbers.shape[0] == 0 else remove_rows(
            &self.state.removed, &numbers[0], numbers.shape[0]
        )
        self.num_changes += num > 0
        return num

    cdef int read_removals(self) except -1:
        """In a process that only reads, takes in what the process that writes has removed, and awaits its update."""
        if is_updating(&self.state):
            self.storage.await_update(self)
        if not self.state.writes and is_behind_removals(&self.state):
            self.storage.read_removals(self)
        return 0

    @property
    def is_updating(self):
        """Whether the process that writes the storage is in the middle of an update."""
        return bool(is_updating(&self.state))

    @property
    def num_updates(self):
        """2 for each update of rows of the storage, and 1 for one that is being written; 0 in memory."""
        return 0 if self.state.page == NULL else really_load_acquire(&self.state.page.num_updates)

    # On disk ------------------------------------------------------------------------------------------------------

    @property
    def prefetches_from_disk(self):
        """Whether the system is told of all rows of a batch before they are copied."""
        return bool(self.state.prefetches_from_disk)

    @prefetches_from_disk.setter
    def prefetches_from_disk(self, bint prefetches):
        self.state.prefetches_from_disk = prefetches

    def set_allocated_end(self, int64_t number):
        """Tells the ring that rows with numbers below this one have space in the file, unless it is read-only."""
        acquire(self.lock)
        if self.state.writes:
            self.state.allocated_end = number
        release(self.lock)

    def detach(self):
        """Makes the ring read-only, as in another process that opens the storage; rows can still be read."""
        acquire(self.lock)
        self.state.writes, self.state.allocated_end, self.state.rows.cursor = False, -1, &self.state.cursor
        self.state.num_rollbacks = self.state.page.num_rollbacks
        self.state.num_removals = self.state.page.num_removals
        stop_writing(self.state.sharings, self.state.num_sharings)
        refresh_cursor(&self.state)
        release(self.lock)

    def attach_frames(self, Py_ssize_t at, int descriptor, cnp.ndarray table, unsigned int num_blocks):
        """Keeps the frames of `shared[at]` in a file of `num_blocks` blocks with this mapped table.

        Call it before the ring is used, after `prefetches_from_disk` is set. Returns False if the table names a block
        that the file does not have.
        """
        cdef Sharing* sharing = &self.state.sharings[at]
        cdef char* data = <char*>cnp.PyArray_DATA(table)
        cdef bint huge = not self.state.prefetches_from_disk
        if not attach_file(&sharing.store, descriptor, data, num_blocks, self.state.writes, huge):
            raise MemoryError("the tables of a frame store: the system gave no memory")
        if not self.state.writes:
            return follow_writer(&sharing.store)
        recount_rows(&self.state.rows, sharing)
        return map_needed_blocks(&sharing.store)

    # Checkpoints --------------------------------------------------------------------------------------------------

    def moment(self):
        """Numbers of the oldest row held and of the next row, and of the next frame of each store of shared frames."""
        cdef Py_ssize_t s
        cdef bint collects = acquire_without_gc(self.lock)
        try:
            frames = [self.state.sharings[s].store.next for s in range(self.state.num_sharings)]
            return oldest_row(&self.state.rows), self.state.rows.cursor.num_put, frames
        finally:
            release_with_gc(self.lock, collects)

    @property
    def oldest_complete(self):
        """Number of the oldest row that is complete in the files, frames included, held or not."""
        acquire(self.lock)
        cdef int64_t number = oldest_intact(&self.state.rows, 0)
        if self.state.num_sharings > 0:
            number = oldest_kept(&self.state.rows, 0)
        release(self.lock)
        return number

    @property
    def kept_from(self):
        """Number of the first row that a checkpoint needs; the largest int64 if there is none."""
        return self.state.rows.cursor.kept_from

    def keep_from(self, int64_t number=NO_ROW):
        """Keeps rows from this number on complete, also when they are no longer held, as long as spare slots last."""
        acquire(self.lock)
        if self.state.writes:
            keep_from(&self.state.rows, self.state.sharings, self.state.num_sharings, number)
        release(self.lock)

    def roll_back(self, int64_t first, int64_t num_put, const int64_t[::1] frames, bytes generator):
        """Makes the rows from `first` to before `num_put` those that are held, with the generator in this state.

        Rows from `first` on must be complete. `frames` are the numbers of the next frames as `moment` gave them; larger
        ones change nothing. Processes that read the storage are refused from then on. Returns False, with nothing
        done, if a row is pinned or the ring is read-only.
        """
        cdef const char* state = generator
        cdef Py_ssize_t s
        cdef bint may
        assert len(generator) == STATE and frames.shape[0] == self.state.num_sharings
        acquire(self.lock)
        may = self.state.writes and self.state.pinned_from == NO_ROW
        if may:
            roll_back(&self.state, num_put, first, state)
            forget_removed(&self.state.removed)
            self.num_changes += 1
            for s in range(self.state.num_sharings):
                return_to_frame(&self.state.rows, &self.state.sharings[s], frames[s])
        release(self.lock)
        return may

    cdef int refuse_if_rolled_back(self) except -1:
        """Raises the storage's error if the process that writes has returned to a checkpoint."""
        if not self.state.writes and is_rolled_back(&self.state):
            self.storage.refuse_rolled_back()
        return 0

    def first_damaged(self, Py_ssize_t at):
        """Age of the first row held whose numbers of the frames of `shared[at]` no put has written, or -1."""
        cdef int64_t age
        with nogil:
            age = first_damaged(&self.state.rows, &self.state.sharings[at])
        return age

    def generator_state(self):
        """The state of the generator, while no thread draws."""
        return copied_state(self.lock, self.bit_generator)

    def set_generator_state(self, dict state):
        """Sets the state of the generator while no thread draws, on disk, too."""
        cdef bint collects = acquire_without_gc(self.lock)
        try:
            self.bit_generator.state = state
            keep_state(&self.state)
        finally:
            release_with_gc(self.lock, collects)

    def generator_bytes(self):
        """The bytes of the generator's state. Be the only thread that draws."""
        return (<const char*>self.state.source.state)[:STATE]

    def store_generator(self):
        """Writes the generator's state to disk. Be the only thread that draws."""
        keep_state(&self.state)

    # In -----------------------------------------------------------------------------------------------------------

    def put(self, dict data):
        """Appends rows whose dtype and layout fit, or one row. Returns False, with nothing done, if they need
        conversion, are invalid, or would evict rows that a reader holds.

        Raises TooManyFramesError or FrameFileError if shared frames have no room, and what `storage.make_room` raises.
        """
        return self.put_dict(data)

    cdef bint put_dict(self, dict data) except -1:
        cdef Incoming rows  # on the stack: while this call waits for the lock, other threads put
        cdef Py_ssize_t i, num_values = 0
        cdef int64_t num_rows = UNKNOWN
        if not allocate_columns(&rows, self.state.rows.num_fields):
            raise MemoryError("the columns of a put: the system gave no memory")
        try:
            if not self.find_columns(data, &rows, &num_values, &num_rows):
                return False
            num_rows = 1 if num_rows == ONE_ROW else num_rows
            if self.state.num_sharings == 0:
                return self.append_columns(rows.columns, num_rows)
            return self.append_shared(&rows, num_rows)
        finally:
            for i in range(num_values):
                Py_DECREF(<object>rows.scratch[i].value)
            free_incoming(&rows)

    cdef bint find_columns(self, dict data, Incoming* rows, Py_ssize_t* num_values, int64_t* num_rows) except -1:
        """`find_column` for every key. The first `num_values` values are kept alive: another thread may empty `data`.

        While the keys of `data` come in the order of the columns, a walk finds them, which costs less than look-ups.
        """
        cdef Py_ssize_t i, at = 0
        cdef PyObject* name
        cdef PyObject* value
        cdef Key* key
        for i in range(self.state.num_keys):
            if at < 0 or not PyDict_Next(data, &at, &name, &value) or name != <PyObject*>self.names[i]:
                at = -1
                value = PyDict_GetItemWithError(data, self.names[i])
                if value == NULL:
                    return False
            Py_INCREF(<object>value)
            rows.scratch[i].value = value
            num_values[0] += 1
            key = &self.state.keys[i]
            if key.sharing >= 0 and type(<object>value) is self.frame_column:
                if not self.find_frames(<object>value, i, rows, num_rows):
                    return False
                continue
            if not find_column(
                <object>value, key, <cnp.dtype>self.dtypes[i], rows.scratch[i].scalar, &rows.columns[i], num_rows
            ):
                return False
            if key.sharing >= 0:
                set_whole_rows(&rows.stacks[i], &rows.columns[i])
        return True

    cdef bint find_frames(self, value, Py_ssize_t i, Incoming* rows, int64_t* num_rows) except -1:
        """`find_column` for key `i`, whose rows come as a `frame_column`."""
        cdef StackColumn* stacks = &rows.stacks[i]
        cdef Key* key = &self.state.keys[i]
        cdef cnp.ndarray frames = value.frames, indices = value.indices
        axis = value.axis
        if axis != self.shared[key.sharing][2] or not fits_frames(
            frames, indices, key, <cnp.dtype>self.dtypes[i], self.state.sharings[key.sharing].stack, axis
        ):
            return False
        stacks.data = <const char*>cnp.PyArray_DATA(frames)
        stacks.stride = self.state.sharings[key.sharing].store.nbytes
        stacks.indices = <const int*>cnp.PyArray_DATA(indices)
        clear_column(&rows.columns[i])
        return has_rows(cnp.PyArray_DIM(indices, 0), num_rows)

    cdef bint append_columns(self, Column* columns, int64_t num_rows) except -1:
        cdef bint may
        cdef int64_t skipped = num_skipped(&self.state.rows, num_rows)
        cdef Py_ssize_t i
        for i in range(self.state.num_keys if skipped > 0 else 0):
            columns[i].data += skipped * columns[i].stride
        self.acquire_with_space(num_rows)
        may = may_evict(&self.state, num_rows)
        if may and num_rows * self.state.rows.stride <= SMALL:
            append(&self.state.rows, columns, num_rows - skipped, skipped)
        elif may:
            with nogil:
                append(&self.state.rows, columns, num_rows - skipped, skipped)
        release(self.lock)
        return may

    cdef int acquire_with_space(self, int64_t num_rows) except -1:
        """Takes the lock once there is space for `num_rows` rows."""
        acquire(self.lock)
        while self.state.rows.cursor.num_put + num_rows > self.state.allocated_end:
            release(self.lock)
            self.storage.make_room(self, num_rows)
            acquire(self.lock)
        return 0

    cdef bint append_shared(self, Incoming* rows, int64_t num_rows) except -1:
        """`append_columns` for a ring with shared frames."""
        cdef NoRoom failure
        cdef bint may
        cdef Py_ssize_t s
        for s in range(self.state.num_sharings):
            clear_column(&rows.columns[self.state.sharings[s].oldest_field])
        if not allocate_numbers(rows, &self.state.rows, self.state.max_stack, num_rows):
            raise MemoryError(f"a put of {num_rows} rows: the system gave no memory for the numbers of their frames")
        self.acquire_with_space(num_rows)
        may = may_evict(&self.state, num_rows)
        failure.sharing, failure.gave_up = -1, False
        if may and num_rows * self.row_nbytes <= SMALL and self.storage is None:
            failure = append_pieces(
                &self.state.rows, self.state.sharings, self.state.num_sharings, self.max_bytes, rows, num_rows
            )
        elif may:
            with nogil:
                failure = append_pieces(
                    &self.state.rows, self.state.sharings, self.state.num_sharings, self.max_bytes, rows, num_rows
                )
        release(self.lock)
        if failure.gave_up and self.storage is not None:
            self.storage.warn_of_frames_given_up()
        if failure.sharing >= 0:
            self.refuse_frames(&self.state.sharings[failure.sharing], failure)
        return may

    cdef int refuse_frames(self, const Sharing* sharing, NoRoom failure) except -1:
        """Raises the error for frames that have no room."""
        if sharing.store.file != NULL and sharing.store.file.error != 0:
            raise FrameFileError(sharing.store.file.error, self.names[sharing.keys[0]], failure.num_in)
        raise TooManyFramesError(sharing.keys[0], sharing.num_unmatched, failure.num_rows, failure.num_in)

    # Out ----------------------------------------------------------------------------------------------------------

    def sample(self, Py_ssize_t num, Py_ssize_t num_batches=0, bint distinct=False, dict out=None):
        """A batch of `num` rows, drawn uniformly; with `num_batches`, that many batches on a leading axis.

        `distinct` draws each batch without replacement. The batch is written to the arrays in `out`, one for every
        name, which the caller has checked. Returns None if there are too few rows, or if another process overwrites
        them faster than they are copied.
        """
        return self.drawn(self, num, num_batches, distinct, out)

    cdef dict drawn_quickly(self, n):
        """`sample(n)` if `n` is an int from 1 to `max_unchecked_rows`; else, as where there are no rows, None."""
        cdef Py_ssize_t num = unchecked_size(n, self.max_unchecked_rows)
        return None if num == 0 else self.drawn(self, num, 0, False, None)

    def sample_of(
        self, Ring drawing not None, Py_ssize_t num, Py_ssize_t num_batches=0, bint distinct=False, dict out=None
    ):
        """`sample` of the rows that `drawing.sample` would draw, with its generator; for a ring in this process.

        Returns None, with nothing drawn, if the two rings have not as many rows, or too few.
        """
        return self.drawn(drawing, num, num_batches, distinct, out)

    cdef dict drawn(self, Ring drawing, Py_ssize_t num, Py_ssize_t num_batches, bint distinct, dict out):
        """A batch of rows that `drawing` draws: this ring or another. Returns None as `sample` does."""
        cdef Py_ssize_t total = num * max(num_batches, <Py_ssize_t>1)
        cdef bint n_step = self.state.steps.max_steps > 0
        cdef bint keeps = out is None and not distinct and not n_step and self.may_keep(total)
        cdef KeptBatch kept = unheld(self.kept, num, num_batches, self.state.keys, self.dtypes) if keeps else None
        cdef Block block = kept.block if kept is not None else self.new_batch(
            total, out, n_step=n_step, table=table_nbytes(num) if distinct else 0
        )
        if not self.draw_into(block, drawing, total, num, distinct):
            return None
        if keeps:
            return self.handed_out(kept, block, num, num_batches)
        return self.arrays(block, num, num_batches) if out is None else out

    cdef bint checked_copy(self, const Batch* batch, bint copied) except -1:
        """Returns `copied`, whether the rows of a batch were copied.

        Raises MissingFramesError or AlternatingAgentsError for rows that were, and `refuse_if_rolled_back`'s error for
        rows that were not.
        """
        if not copied:
            self.refuse_if_rolled_back()
        elif batch.misses_frames:
            raise MissingFramesError()
        elif batch.agents_alternate:
            raise AlternatingAgentsError(self.names[self.state.steps.end], self.names[self.state.steps.agent])
        return copied

    cdef bint draw_into(
        self, Block block, Ring drawing, Py_ssize_t total, Py_ssize_t num, bint distinct
    ) except -1:
        """Copies the rows of a batch that `drawing` draws. Returns False if there are too few, or none is intact."""
        cdef bint drawn = False
        cdef int i
        for i in range(TRIES):
            self.read_removals()
            if drawing is not self:
                acquire(drawing.lock)
            acquire(self.lock)
            if total * self.row_nbytes <= SMALL and not self.state.prefetches_from_disk:
                drawn = draw_rows(&self.state, &drawing.state, &block.batch, total, num, distinct)
            else:
                with nogil:
                    drawn = draw_rows(&self.state, &drawing.state, &block.batch, total, num, distinct)
            release(self.lock)
            if drawing is not self:
                release(drawing.lock)
            if drawn or not is_updated(&self.state):
                break
        return self.checked_copy(&block.batch, drawn)

    def sample_ages(
        self, Py_ssize_t num, Py_ssize_t num_batches=0, bint distinct=False, bint by_number=False, int64_t update=-1
    ):
        """The indices by age, int64, that `sample` with the same arguments would draw, or numbers of the rows.

        With `update` >= 0 they are of a batch of that update, which `begin_updates` has counted. Returns None if there
        are too few rows.
        """
        cdef Py_ssize_t total = num * max(num_batches, <Py_ssize_t>1)
        cdef Block block = self.new_batch(total, {}, n_step=False, table=table_nbytes(num) if distinct else 0)
        cdef int64_t oldest = 0, next_update
        cdef Py_ssize_t i
        self.read_removals()
        acquire(self.lock)
        refresh_cursor(&self.state)
        if num_choices(&self.state) < (num if distinct else 1) or is_rolled_back(&self.state):
            release(self.lock)
            self.refuse_if_rolled_back()
            return None
        next_update = self.state.recency.update
        if update >= 0:
            self.state.recency.update = update
        with nogil:
            draw_ages(&self.state, &block.batch, total, num, distinct)
            if update >= 0:
                self.state.recency.update = next_update
            oldest = oldest_row(&self.state.rows)
            if not by_number and self.state.removed.any:
                to_ranks(&self.state.removed, block.batch.ages, total)
        release(self.lock)
        for i in range(total if by_number else 0):
            block.batch.ages[i] += oldest
        cdef cnp.npy_intp[MAX_DIMS] dims
        return new_array(block, <char*>block.batch.ages, INT64, dims, lead_dims(dims, num, num_batches))

    def draw_below(self, int64_t bound, Py_ssize_t num, Py_ssize_t num_batches=0, bint distinct=False):
        """Uniform int64 [num] or [num_batches, num] from 0 to before `bound`, drawn as rows are; for samplers.

        `distinct` draws each batch without replacement, of `num` <= `bound` numbers.
        """
        cdef Py_ssize_t total = num * max(num_batches, <Py_ssize_t>1)
        cdef Block block = self.new_batch(total, {}, n_step=False, table=table_nbytes(num) if distinct else 0)
        acquire(self.lock)
        with nogil:
            if distinct:
                draw_distinct_batches(self.state.source, bound, block.batch.ages, total, num, block.batch.table)
            else:
                draw(self.state.source, bound, block.batch.ages, total)
        keep_state(&self.state)
        release(self.lock)
        cdef cnp.npy_intp[MAX_DIMS] dims
        return new_array(block, <char*>block.batch.ages, INT64, dims, lead_dims(dims, num, num_batches))

    def continues(self, const int64_t[::1] before, const int64_t[::1] numbers, list pairs):
        """Whether each row continues the row `before` it: its states are, bit for bit, those that that row led to.

        `pairs` are positions (state, next state) of columns of equal dtype and shape. Returns bool [n]; False where
        `before` is not held; None if one of the rows `numbers` is not held.
        """
        cdef Py_ssize_t i, num_pairs = len(pairs), longest = 0
        for i in range(num_pairs):
            longest = max(longest, self.state.keys[<Py_ssize_t>pairs[i][0]].nbytes)
        cdef StatePair* columns = <StatePair*>PyMem_Malloc(num_pairs * sizeof(StatePair) + 2 * longest + 1)
        cdef char* scratch = <char*>(columns + num_pairs)
        cdef int64_t oldest = 0
        cdef bint held
        if columns == NULL:
            raise MemoryError("the columns of states: the system gave no memory")
        for i in range(num_pairs):
            columns[i].state, columns[i].state_new = pairs[i][0], pairs[i][1]
            columns[i].sharing = self.state.keys[columns[i].state].sharing
            columns[i].sharing_new = self.state.keys[columns[i].state_new].sharing
            columns[i].nbytes = self.state.keys[columns[i].state].nbytes
        cdef cnp.ndarray found = np.zeros(numbers.shape[0], np.bool_)
        cdef cnp.npy_bool* flags = <cnp.npy_bool*>cnp.PyArray_DATA(found)
        acquire(self.lock)
        with nogil:
            held = refresh_cursor(&self.state)
            oldest = oldest_row(&self.state.rows)
            for i in range(numbers.shape[0] if held else 0):
                if not oldest <= numbers[i] < self.state.rows.cursor.num_put:
                    held = False
                    break
                flags[i] = oldest <= before[i] < numbers[i] and continues(
                    &self.state.rows, self.state.sharings, columns, num_pairs, before[i], numbers[i], scratch
                )
            held = held and (
                self.state.writes or (first_intact(&self.state) <= oldest and not is_updated(&self.state))
            )
        release(self.lock)
        PyMem_Free(columns)
        self.refuse_if_rolled_back()
        return found if held else None

    def take(
        self, const int64_t[::1] rows, Py_ssize_t num, Py_ssize_t num_batches=0, dict out=None, bint by_number=False,
        bint steps=False,
    ):
        """The rows of these ages, or numbers, laid out as by `sample`. Returns None if one of them is not held.

        Returns single transitions unless `steps`, which returns rows of several steps after `set_steps`. Raises
        ValueError unless there are `num` rows, or `num_batches` times `num`.
        """
        cdef Py_ssize_t total = rows.shape[0]
        if total != num * max(num_batches, <Py_ssize_t>1):
            raise ValueError(f"rows: expected {num} in each of {max(num_batches, 1)} batches, got {total}")
        cdef bint n_step = steps and self.state.steps.max_steps > 0
        cdef bint keeps = out is None and not n_step and self.may_keep(total)
        cdef KeptBatch kept = unheld(self.kept, num, num_batches, self.state.keys, self.dtypes) if keeps else None
        cdef Block block = kept.block if kept is not None else self.new_batch(total, out, n_step=n_step)
        if not self.take_into(block, &rows[0] if total > 0 else NULL, total, by_number):
            return None
        if keeps:
            return self.handed_out(kept, block, num, num_batches)
        return self.arrays(block, num, num_batches) if out is None else out

    def take_column(self, name, const int64_t[::1] rows):
        """The values of one column of the rows of these numbers, [n, ...]. Returns None if one of them is not held."""
        cdef Py_ssize_t key = self.names.index(name), total = rows.shape[0], nbytes = self.state.keys[key].nbytes
        if self.state.keys[key].sharing >= 0:
            batch = self.take(rows, total, by_number=True)
            return None if batch is None else batch[name]
        cdef Block block = new_block(self.pool, lines(total * nbytes) + lines(total * sizeof(int64_t)))
        cdef Field field = self.state.rows.fields[key]
        cdef Records of_field
        cdef char* column = block.memory.data
        cdef int64_t* ages = <int64_t*>(column + lines(total * nbytes))
        cdef int64_t oldest = 0
        cdef Py_ssize_t i
        cdef bint held
        cdef cnp.npy_intp[MAX_DIMS] dims
        block.batch.ages = ages
        self.read_removals()
        acquire(self.lock)
        with nogil:
            held = refresh_cursor(&self.state)
            of_field, oldest = self.state.rows, oldest_row(&self.state.rows)
            of_field.fields, of_field.num_fields = &field, 1
            for i in range(total):
                ages[i] = rows[i] - oldest
            held = held and all_held(&self.state.rows, ages, total)
            if held:
                gather(&of_field, ages, total, &column, NULL, NULL)
                held = are_intact(&self.state, &block.batch, total)
        release(self.lock)
        if not held:
            self.refuse_if_rolled_back()
            return None
        dims[0] = total
        memcpy(dims + 1, self.state.keys[key].dims, self.state.keys[key].num_dims * sizeof(cnp.npy_intp))
        return new_array(block, column, self.dtypes[key], dims, 1 + self.state.keys[key].num_dims)

    cdef bint take_into(self, Block block, const int64_t* rows, Py_ssize_t total, bint by_number) except -1:
        """Copies the rows of these ages, or numbers. Returns False if one of them is not held."""
        cdef bint taken = False
        cdef int i
        for i in range(TRIES):
            if total > 0:
                memcpy(block.batch.ages, rows, total * sizeof(int64_t))
            self.read_removals()
            acquire(self.lock)
            with nogil:
                taken = take_rows(&self.state, &block.batch, total, by_number)
            release(self.lock)
            if taken or not is_updated(&self.state):
                break
        return self.checked_copy(&block.batch, taken)

    def windows(self, index, starts, Py_ssize_t num, Py_ssize_t length, Py_ssize_t burn_in):
        """`num` windows of `length` steps [num, length, ...], with the columns `mask`, `is_first` and `number`.

        `index` is a `TrajectoryIndex` whose lock the caller holds. `starts`, int64 [num], are the rows with which
        windows begin; None draws them uniformly. Returns None if the index has no start, or if a row is not held.
        """
        cdef WindowBatch windows
        cdef Block block = self.new_window_batch(num, length, &windows)
        if starts is not None:
            memcpy(windows.starts, cnp.PyArray_DATA(<cnp.ndarray?>starts), num * sizeof(int64_t))
        if not self.fill_windows(block, trajectory_parts(index), &windows, burn_in, starts is None):
            return None
        return self.window_arrays(block, &windows)

    cdef Block new_window_batch(self, Py_ssize_t num, Py_ssize_t length, WindowBatch* windows):
        """A block for a batch of windows."""
        cdef Py_ssize_t nbytes = window_batch_nbytes(num, length, self.state.num_keys)
        cdef Block block = self.new_batch(num * length, None, n_step=False, table=nbytes)
        lay_out_windows(windows, num, length, self.state.num_keys, <char*>block.batch.table)
        return block

    cdef bint fill_windows(
        self, Block block, const TrajectoryParts* parts, WindowBatch* windows, Py_ssize_t burn_in, bint draws,
        int64_t changes=NO_ROW,
    ) except -1:
        """Copies windows, with starts that are given or drawn. Returns False as `windows` returns None; with `changes`,
        the `change_count` at which the index had all rows, also if the ring holds others by now."""
        cdef bint taken
        self.read_removals()
        acquire(self.lock)
        taken = changes == NO_ROW or self.has_same_rows(parts, changes)
        if taken and windows.num * windows.length * self.row_nbytes <= SMALL and not self.state.prefetches_from_disk:
            taken = take_windows(&self.state, &block.batch, parts, windows, burn_in, draws)
        elif taken:
            with nogil:
                taken = take_windows(&self.state, &block.batch, parts, windows, burn_in, draws)
        release(self.lock)
        return self.checked_copy(&block.batch, taken)

    cdef bint has_same_rows(self, const TrajectoryParts* parts, int64_t changes) noexcept:
        """Whether the rows held are those of an index that had all of them at this `change_count`; hold the lock."""
        return (
            self.state.writes and changes == self.num_changes + self.num_column_changes
            and parts.rows.newest == self.state.rows.cursor.num_put
            and parts.rows.oldest == oldest_row(&self.state.rows)
        )

    cdef dict window_arrays(self, Block block, const WindowBatch* windows):
        """The columns of a batch of windows as arrays over its block."""
        cdef cnp.npy_intp[MAX_DIMS] dims
        dims[0], dims[1] = windows.num, windows.length
        cdef dict batch = self.arrays_of(block, dims, 2)  # `arrays` takes 0 batches for no axis of batches
        batch["mask"] = new_array(block, <char*>windows.mask, FLOAT32, dims, 2)
        batch["is_first"] = new_array(block, <char*>windows.is_first, FLOAT32, dims, 2)
        batch["number"] = new_array(block, <char*>windows.numbers, INT64, dims, 2)
        memcpy(windows.columns, block.batch.columns, self.state.num_keys * sizeof(char*))
        return batch

    @property
    def change_count(self):
        """A number that grows whenever rows that are held change here, other than by puts."""
        return self.num_changes + self.num_column_changes

    def take_windows(self, const int64_t[::1] rows, Py_ssize_t length, list num_places, is_padding=None):
        """The rows of these numbers, [n * length], as n windows: each frame that a window needs comes once.

        `num_places` is for each entry of `shared` how many frames a window has room for; it grows, in place, to what
        the windows need. `is_padding`, bool [n * length], marks rows whose stacks are zeros. Returns the columns
        [n * length, ...], for names that share frames int32 [n * length, stack], places among the window's frames; and
        for each entry of `shared` frames [n, places, ...], where those that no row needs are zeros. Returns None if a
        row is not held.
        """
        cdef Py_ssize_t s, total = rows.shape[0], num_sharings = self.state.num_sharings
        cdef Block block = self.new_batch(total, None, n_step=False, table=0, reconstructs=False)
        cdef Windows* windows = <Windows*>PyMem_Calloc(num_sharings + 1, sizeof(Windows))
        cdef Compact compact
        cdef bint fits = False
        cdef list held
        if windows == NULL:
            raise MemoryError("the windows of a batch: the system gave no memory")
        compact.length, compact.num_windows, compact.windows = length, total // length, windows
        compact.is_padding = NULL if is_padding is None else <char*>cnp.PyArray_DATA(<cnp.ndarray?>is_padding)
        block.batch.compact = &compact
        try:
            while not fits:
                held = [self.new_windows(s, &compact, num_places[s]) for s in range(num_sharings)]
                if not self.take_into(block, &rows[0] if total > 0 else NULL, total, True):
                    return None
                columns = self.arrays(block, total, 0)
                fits = True
                for s in range(num_sharings):
                    fits = fits and windows[s].num_needed <= windows[s].num_places
                    num_places[s] = max(windows[s].num_places, windows[s].num_needed)
        finally:
            block.batch.compact = NULL
            PyMem_Free(windows)
        for indices, _, _ in held:
            columns.update(indices)
        return columns, [frames for _, frames, _ in held]

    cdef tuple new_windows(self, Py_ssize_t at, const Compact* compact, Py_ssize_t num_places):
        """Indices by name and frames of `shared[at]`, arrays to which windows are written; and a block to keep alive
        meanwhile."""
        cdef const Sharing* sharing = &self.state.sharings[at]
        cdef Windows* windows = &compact.windows[at]
        cdef Py_ssize_t num_rows = compact.num_windows * compact.length, num_indices = num_rows * sharing.stack
        cdef Py_ssize_t nbytes = lines(sharing.store.nbytes), counts_nbytes = lines(compact.num_windows * sizeof(Py_ssize_t))
        cdef Block scratch = new_block(self.pool, nbytes + counts_nbytes + lines(2 * num_indices * sizeof(uint32_t)))
        cdef Block indices = new_block(self.pool, 2 * lines(num_indices * sizeof(int)))
        cdef Block frames = new_block(self.pool, lines(compact.num_windows * num_places * sharing.store.nbytes))
        cdef const Key* key = &self.state.keys[sharing.keys[0]]
        cdef cnp.npy_intp[MAX_DIMS] dims
        cdef dict found = {}
        cdef int c, num_dims
        memset(scratch.memory.data, 0, nbytes)
        windows.zeros = scratch.memory.data
        windows.counts = <Py_ssize_t*>(scratch.memory.data + nbytes)
        windows.numbers = <uint32_t*>(scratch.memory.data + nbytes + counts_nbytes)
        windows.frames, windows.num_places = frames.memory.data, num_places
        dims[0], dims[1] = num_rows, sharing.stack
        for c in range(sharing.num_columns):
            windows.indices[c] = <int*>(indices.memory.data + c * lines(num_indices * sizeof(int)))
            found[self.names[sharing.keys[c]]] = new_array(indices, <char*>windows.indices[c], INT32, dims, 2)
        dims[0], dims[1] = compact.num_windows, num_places
        num_dims = 2 + frame_dims(dims + 2, key, sharing.stack, self.shared[at][2])
        return found, new_array(frames, windows.frames, self.dtypes[sharing.keys[0]], dims, num_dims), scratch

    def read(self, int64_t first, Py_ssize_t num):
        """Rows `first` to `first + num` by number, with a `frame_column` for each column that shares frames.

        Returns None if one of the rows is not held.
        """
        cdef Block block = self.new_batch(num, None, n_step=False, table=0, reconstructs=False)
        cdef Batch* batch = &block.batch
        cdef Py_ssize_t i
        cdef dict rows
        cdef list shared = []
        self.refuse_if_rolled_back()
        acquire(self.lock)
        try:
            if not find_ages(&self.state, batch, first, num):
                return None
            gather(&self.state.rows, batch.ages, num, batch.fields, NULL, NULL)
            rows = self.arrays(block, num, 0)
            if not are_intact(&self.state, batch, num):
                return None  # an overwritten frame number may have no frame
            for i in range(self.state.num_sharings):
                shared.append(self.read_frames(&self.state.sharings[i], batch, num))
            if not are_intact(&self.state, batch, num):
                return None
        finally:
            release(self.lock)
        # A class of Python, so without the lock: the handler of a signal may use this ring.
        for frames, indices, axis in shared:
            for key in indices:
                rows[self.names[key]] = self.frame_column(frames, indices[key], axis)
        return rows

    def read_keys(self, int64_t first, Py_ssize_t num, dict out):
        """Copies rows `first` to `first + num` by number to the arrays in `out`, for names that share no frames.

        The caller has checked the arrays. Returns False if one of the rows is not held.
        """
        cdef Block block = self.new_batch(num, {})
        cdef Batch* batch = &block.batch
        cdef Records some
        cdef Field* fields = <Field*>PyMem_Malloc(len(out) * sizeof(Field) + 1)
        cdef Py_ssize_t i, num_fields = 0
        cdef bint held
        if fields == NULL:
            raise MemoryError("the fields of a few keys: the system gave no memory")
        for i in range(self.state.num_keys):
            if self.names[i] in out:
                fields[num_fields] = self.state.rows.fields[i]
                batch.columns[num_fields] = <char*>cnp.PyArray_DATA(<cnp.ndarray>out[self.names[i]])
                num_fields += 1
        acquire(self.lock)
        some = self.state.rows
        some.fields, some.num_fields = fields, num_fields
        held = find_ages(&self.state, batch, first, num)
        if held:
            with nogil:
                gather(&some, batch.ages, num, batch.columns, NULL, NULL)
            held = are_intact(&self.state, batch, num)
        release(self.lock)
        PyMem_Free(fields)
        if not held:
            self.refuse_if_rolled_back()
        return held

    def fits(self, out, Py_ssize_t num, Py_ssize_t num_batches=0):
        """Whether `out` is a dict with an array for every name to which a batch can be written as it is."""
        cdef cnp.npy_intp[2] lead
        cdef int num_lead = lead_dims(lead, num, num_batches)
        cdef PyObject* array
        cdef Py_ssize_t i
        if type(out) is not dict:
            return False
        for i in range(self.state.num_keys):
            array = PyDict_GetItemWithError(out, self.names[i])
            if array == NULL or not cnp.PyArray_CheckExact(<object>array) or not fits_output(
                <cnp.ndarray>array, &self.state.keys[i], <cnp.dtype>self.dtypes[i], lead, num_lead
            ):
                return False
        return True

    cdef tuple read_frames(self, Sharing* sharing, Batch* batch, Py_ssize_t num):
        """The frames of columns that share them, in the order in which rows need them, {column: indices}, and the axis
        of a frame in a row."""
        cdef Py_ssize_t key, count
        cdef int i, num_dims
        cdef Py_ssize_t first = sharing.keys[0], last = sharing.keys[sharing.num_columns - 1]
        cdef int axis = self.shared[self.state.keys[first].sharing][2]
        cdef cnp.npy_intp[MAX_DIMS] dims
        cdef int64_t* order = <int64_t*>PyMem_Malloc((2 * num * sharing.stack + 1) * sizeof(int64_t))
        dims[0], dims[1] = num, sharing.stack
        indices = {key: cnp.PyArray_SimpleNew(2, dims, cnp.NPY_INT32) for key in {first, last}}
        try:
            count = -1 if order == NULL else renumber_frames(
                sharing, <uint32_t*>batch.fields[first], <uint32_t*>batch.fields[last], num,
                <int*>cnp.PyArray_DATA(<cnp.ndarray>indices[first]), <int*>cnp.PyArray_DATA(<cnp.ndarray>indices[last]),
                order,
            )
            if count == MISSING:
                raise MissingFramesError()
            if count < 0:
                raise MemoryError("the numbers of a few frames: the system gave no memory")
            dims[0] = count
            num_dims = 1 + frame_dims(dims + 1, &self.state.keys[first], sharing.stack, axis)
            frames = np.empty([dims[i] for i in range(num_dims)], self.dtypes[first])
            copy_frames(sharing, order, count, <char*>cnp.PyArray_DATA(<cnp.ndarray>frames))
        finally:
            PyMem_Free(order)
        return frames, indices, axis

    cdef Block new_batch(
        self, Py_ssize_t num_rows, dict out, bint n_step=False, Py_ssize_t table=0, bint reconstructs=True
    ):
        """A block for a batch. With `out`, its arrays are the columns; with an empty `out`, there are none."""
        cdef Destination columns = IN_BLOCK if out is None else IN_ARRAYS if len(out) > 0 else NOWHERE
        cdef Block block = self.new_parts(num_rows, columns, n_step, table, reconstructs)
        if columns == IN_ARRAYS:
            self.set_columns(&block.batch, out)
        return block

    cdef Block new_parts(
        self, Py_ssize_t num_rows, Destination columns, bint n_step, Py_ssize_t table, bint reconstructs
    ):
        """A block with the parts of a batch; with IN_ARRAYS the caller sets the addresses of the columns."""
        cdef BatchParts parts
        parts.num_rows, parts.table_nbytes, parts.reconstructs, parts.n_step = num_rows, table, reconstructs, n_step
        parts.columns, parts.num_last_fields = columns, self.state.steps.last.num_fields
        cdef RingState* state = &self.state
        cdef Block block = new_block(self.pool, batch_nbytes(&state.rows, state.keys, state.num_keys, &parts))
        lay_out_batch(&block.batch, &state.rows, state.keys, state.num_keys, &parts, block.memory.data)
        return block

    cdef int set_columns(self, Batch* batch, dict out) except -1:
        """Sets the addresses of the columns to those of the caller's arrays."""
        cdef Py_ssize_t i
        for i in range(self.state.num_keys):
            self.set_column(batch, i, <char*>cnp.PyArray_DATA(<cnp.ndarray>out[self.names[i]]))
        return 0

    cdef void set_column(self, Batch* batch, Py_ssize_t key, char* data) noexcept:
        """Sets the address of a column."""
        batch.columns[key] = data
        if self.state.keys[key].sharing < 0:
            batch.fields[key] = data

    cdef bint may_keep(self, Py_ssize_t num_rows) noexcept:
        """Whether the arrays of a batch of so many rows are handed out again."""
        return num_rows * self.row_nbytes <= MOST_KEPT

    cdef dict handed_out(self, KeptBatch kept, Block block, Py_ssize_t num, Py_ssize_t num_batches):
        """The columns of a batch; `kept` has them already, unless it is None."""
        if kept is None:
            kept = new_kept(self.arrays(block, num, num_batches), block, block.batch.columns, num, num_batches)
        return handed_out(self.kept, kept)

    cdef dict arrays(self, Block block, Py_ssize_t num, Py_ssize_t num_batches):
        """The columns of a batch [num, ...], or [num_batches, num, ...], as arrays over its block."""
        cdef cnp.npy_intp[MAX_DIMS] dims
        cdef int num_lead = lead_dims(dims, num, num_batches)
        return self.arrays_of(block, dims, num_lead)

    cdef dict arrays_of(self, Block block, cnp.npy_intp* dims, int num_lead):
        """The columns of a batch with these first axes; `dims`, of MAX_DIMS, keeps them, and its rest is written."""
        cdef dict batch = {}
        cdef Py_ssize_t i
        cdef Key* key
        if block.batch.discounts != NULL:
            batch["discount"] = new_array(block, <char*>block.batch.discounts, FLOAT32, dims, num_lead)
        for i in range(self.state.num_keys):
            if block.batch.columns[i] == NULL:
                continue
            key = &self.state.keys[i]
            memcpy(dims + num_lead, key.dims, key.num_dims * sizeof(cnp.npy_intp))
            batch[self.names[i]] = new_array(
                block, block.batch.columns[i], self.dtypes[i], dims, num_lead + key.num_dims
            )
        return batch


@cython.final
cdef class WindowDraws:
    """Draws windows of `length` steps of a ring's rows, without a call of a function of Python.

    `trajectories` is a `Trajectories` of the ring; `index` is the `TrajectoryIndex` in it.
    """

    cdef Ring ring
    cdef object trajectories
    cdef object index  # which keeps `parts` alive
    cdef const TrajectoryParts* parts
    cdef Py_ssize_t length
    cdef Py_ssize_t burn_in
    cdef list kept  # of `KeptBatch`, at most NUM_KEPT
    cdef list dtypes  # of a batch's columns
    cdef Key* keys

    def __cinit__(self, Ring ring not None, trajectories, index, Py_ssize_t length, Py_ssize_t burn_in):
        cdef Py_ssize_t num = ring.state.num_keys
        self.ring, self.trajectories, self.index = ring, trajectories, index
        self.parts, self.length, self.burn_in = trajectory_parts(index), length, burn_in
        self.kept, self.dtypes = [], [*ring.dtypes, FLOAT32, FLOAT32, INT64]
        self.keys = <Key*>PyMem_Calloc(len(self.dtypes), sizeof(Key))
        if self.keys == NULL:
            raise MemoryError("the columns of windows: the system gave no memory")
        memcpy(self.keys, ring.state.keys, num * sizeof(Key))
        for dtype in self.dtypes[num:]:
            set_shape(&self.keys[num], (), dtype.itemsize)
            num += 1

    def __dealloc__(self):
        PyMem_Free(self.keys)

    cdef dict drawn_quickly(self, Ring ring, n):
        """`Ring.windows` from `n` uniform starts, if `n` is an int from 1 to as many as are made without a check of the
        memory left, and if the index has all rows of its ring, which is `ring`; else None."""
        cdef Py_ssize_t num = unchecked_size(n, ring.max_unchecked_rows // self.length)
        if num == 0 or ring is not self.ring or not ring.state.writes:
            return None
        cdef bint keeps = ring.may_keep(num * self.length)
        cdef KeptBatch kept = unheld(self.kept, self.length, num, self.keys, self.dtypes) if keeps else None
        cdef WindowBatch windows
        cdef Block block
        cdef dict batch
        if kept is None:
            block = ring.new_window_batch(num, self.length, &windows)
        else:
            block = kept.block
            lay_out_windows(&windows, num, self.length, ring.state.num_keys, <char*>block.batch.table)
        with self.trajectories.lock:
            if not ring.fill_windows(
                block, self.parts, &windows, self.burn_in, True, <int64_t>self.trajectories.change_count
            ):
                if kept is not None and len(self.kept) < NUM_KEPT:
                    self.kept.append(kept)
                return None
        if kept is None:
            batch = ring.window_arrays(block, &windows)
            if not keeps:
                return batch
            kept = new_kept(batch, block, windows.columns, self.length, num)
        return handed_out(self.kept, kept)


@cython.final
cdef class MixedRings:
    """Batches of which several rings give a part each, all written to the arrays of one batch.

    The caller checks the arguments.

    Args:
        names, dtypes, shapes: of the columns of a batch.
        rings: of the parts, all in memory, or None for a part that the caller writes.
        index, weight, source: names of columns that a batch has besides, or None. They are the row's number times the
            number of parts, plus its part; its importance weight; and its part. A row that the ring draws by itself has
            the number -1 and the weight 1. A column of a ring that has one of these names is left out.
    """

    cdef list names
    cdef list dtypes
    cdef list rings
    cdef list kept  # of `KeptBatch`, at most NUM_KEPT
    cdef Pool pool
    cdef Py_ssize_t num_keys
    cdef Py_ssize_t row_nbytes
    cdef readonly Py_ssize_t max_unchecked_rows  # of a batch that is made without a check of the memory left
    cdef Key* keys  # [num_keys]
    cdef int* places  # [rings, most_keys], position of each column of a ring in a batch, or -1
    cdef Py_ssize_t most_keys
    cdef Py_ssize_t index  # position of the column, or -1; and those of the other two
    cdef Py_ssize_t weight
    cdef Py_ssize_t source

    def __cinit__(self, list names, list dtypes, list shapes, list rings, index=None, weight=None, source=None):
        cdef Py_ssize_t at, i
        cdef Ring ring
        self.names, self.dtypes, self.rings, self.num_keys = names, dtypes, rings, len(names)
        self.pool, self.kept = Pool.__new__(Pool), []
        for ring in rings:
            self.most_keys = max(self.most_keys, 0 if ring is None else ring.state.num_keys)
        self.keys = <Key*>PyMem_Calloc(self.num_keys + 1, sizeof(Key))
        self.places = <int*>PyMem_Calloc(len(rings) * self.most_keys + 1, sizeof(int))
        if self.keys == NULL or self.places == NULL:
            raise MemoryError("the tables of a mixture: the system gave no memory")
        for i in range(self.num_keys):
            set_shape(&self.keys[i], shapes[i], dtypes[i].itemsize)
            self.row_nbytes += self.keys[i].nbytes
        self.max_unchecked_rows = UNCHECKED // max(self.row_nbytes, <Py_ssize_t>1)
        for at in range(len(rings)):
            ring = rings[at]
            for i in range(0 if ring is None else ring.state.num_keys):
                self.places[at * self.most_keys + i] = <int>self.place_of(
                    None if ring.names[i] in (index, weight, source) else ring.names[i]
                )
        self.index, self.weight, self.source = self.place_of(index), self.place_of(weight), self.place_of(source)

    def __dealloc__(self):
        PyMem_Free(self.keys)
        PyMem_Free(self.places)

    cdef Py_ssize_t place_of(self, name) except -2:
        return self.names.index(name) if name in self.names else -1

    def sample(
        self, Py_ssize_t num, Py_ssize_t num_batches, list counts, list left, list drawn=None, bint distinct=False
    ):
        """A batch of `num` rows; with `num_batches`, that many batches on a leading axis.

        `counts` has the rows of each ring, batch after batch. `drawn` has for each of them None, so that the ring draws
        the rows, or row numbers int64 [count] and weights float32 [count] or None. Parts that are yet to be written,
        since they have no ring or since their ring does not hold the rows, are appended to `left`: (ring, first row of
        all batches, count).
        """
        cdef Py_ssize_t total = num * max(num_batches, <Py_ssize_t>1), num_parts = len(self.rings), first = 0, at, i
        cdef Py_ssize_t count
        cdef bint keeps = total * self.row_nbytes <= MOST_KEPT
        cdef KeptBatch kept = unheld(self.kept, num, num_batches, self.keys, self.dtypes) if keeps else None
        cdef Block block = kept.block if kept is not None else self.new_batch(total)
        cdef char** columns = <char**>block.memory.data
        for i in range(len(counts)):
            count, at = counts[i], i % num_parts
            if count == 0:
                continue
            found = None if drawn is None else drawn[i]
            if not self.fill(columns, at, first, count, found, distinct):
                left.append((at, first, count))
            self.add_columns(columns, at, first, count, found)
            first += count
        if not keeps:
            return self.arrays(block, columns, num, num_batches)
        if kept is None:
            kept = new_kept(self.arrays(block, columns, num, num_batches), block, columns, num, num_batches)
        return handed_out(self.kept, kept)

    cdef dict drawn_quickly(self, n, MixedCounts counts, list left):
        """`sample` of `n` rows if `n` is an int from 1 to `max_unchecked_rows` whose parts are known; else None."""
        cdef Py_ssize_t num = unchecked_size(n, self.max_unchecked_rows)
        cdef list parts = None if num == 0 else counts.next_counts(num)
        return None if parts is None else self.sample(num, 0, parts, left)

    cdef Block new_batch(self, Py_ssize_t total):
        """A block that begins with the addresses of a batch's columns."""
        cdef Py_ssize_t i, nbytes = lines(self.num_keys * sizeof(char*))
        for i in range(self.num_keys):
            nbytes += lines(total * self.keys[i].nbytes)
        cdef Block block = new_block(self.pool, nbytes)
        cdef char** columns = <char**>block.memory.data
        cdef char* end = block.memory.data + lines(self.num_keys * sizeof(char*))
        for i in range(self.num_keys):
            columns[i] = end
            end += lines(total * self.keys[i].nbytes)
        return block

    cdef bint fill(
        self, char** columns, Py_ssize_t at, Py_ssize_t first, Py_ssize_t num, tuple drawn, bint distinct
    ) except -1:
        """Writes a part; returns False if the ring does not hold the rows, or is None."""
        cdef Ring ring = <Ring>self.rings[at]
        cdef const int* places = self.places + at * self.most_keys
        cdef Py_ssize_t i
        cdef bint has_all = True
        if ring is None:
            return False
        for i in range(ring.state.num_keys):
            has_all = has_all and places[i] >= 0
        # Columns that the batch lacks are written to the block of the part.
        cdef Block block = ring.new_parts(
            num, IN_ARRAYS if has_all else IN_BLOCK, False, table_nbytes(num) if distinct else 0, True
        )
        for i in range(ring.state.num_keys):
            if places[i] >= 0:
                ring.set_column(&block.batch, i, columns[places[i]] + first * ring.state.keys[i].nbytes)
        if drawn is None:
            return ring.draw_into(block, ring, num, num, distinct)
        return ring.take_into(block, <const int64_t*>cnp.PyArray_DATA(<cnp.ndarray?>drawn[0]), num, True)

    cdef int add_columns(
        self, char** columns, Py_ssize_t at, Py_ssize_t first, Py_ssize_t num, tuple drawn
    ) except -1:
        """Writes the columns that a mixture adds to a part."""
        cdef int64_t num_parts = len(self.rings)
        cdef int64_t* values
        cdef float* weights
        cdef const int64_t* numbers = NULL
        cdef const float* given = NULL
        cdef Py_ssize_t i
        if self.source >= 0:
            values = <int64_t*>columns[self.source] + first
            for i in range(num):
                values[i] = at
        if drawn is not None and drawn[1] is not None:
            numbers = <const int64_t*>cnp.PyArray_DATA(<cnp.ndarray?>drawn[0])
            given = <const float*>cnp.PyArray_DATA(<cnp.ndarray?>drawn[1])
        if self.index >= 0:
            values = <int64_t*>columns[self.index] + first
            for i in range(num):
                values[i] = (-1 if numbers == NULL else numbers[i]) * num_parts + at
        if self.weight >= 0:
            weights = <float*>columns[self.weight] + first
            for i in range(num):
                weights[i] = 1 if given == NULL else given[i]
        return 0

    cdef dict arrays(self, Block block, char** columns, Py_ssize_t num, Py_ssize_t num_batches):
        """The columns of a batch as arrays over its block."""
        cdef dict batch = {}
        cdef Py_ssize_t i
        cdef cnp.npy_intp[MAX_DIMS] dims
        cdef int num_lead = lead_dims(dims, num, num_batches)
        for i in range(self.num_keys):
            memcpy(dims + num_lead, self.keys[i].dims, self.keys[i].num_dims * sizeof(cnp.npy_intp))
            batch[self.names[i]] = new_array(
                block, columns[i], self.dtypes[i], dims, num_lead + self.keys[i].num_dims
            )
        return batch


@cython.final
cdef class GroupedRows:
    """Rows in groups at one moment, of which samplers draw.

    Group g has `counts[g]` rows, oldest first, in `rows[base[g]:base[g] + sizes[g]]`: a ring that begins at `first[g]`
    and whose size is a power of two. All are int64.
    """

    cdef Groups groups
    cdef tuple arrays  # that `groups` has the addresses of

    def __cinit__(self, cnp.ndarray first, cnp.ndarray counts, cnp.ndarray base, cnp.ndarray sizes, cnp.ndarray rows):
        self.arrays = (first, counts, base, sizes, rows)
        self.groups.first, self.groups.counts = <int64_t*>cnp.PyArray_DATA(first), <int64_t*>cnp.PyArray_DATA(counts)
        self.groups.base, self.groups.sizes = <int64_t*>cnp.PyArray_DATA(base), <int64_t*>cnp.PyArray_DATA(sizes)
        self.groups.rows = <int64_t*>cnp.PyArray_DATA(rows)

    def draw_of_strata(
        self, const int64_t[::1] drawn, Py_ssize_t num, const int64_t[::1] strata, const double[::1] ends
    ):
        """Numbers of `num` rows for each batch, int64 [batches * num], by systematic sampling of the strata.

        `drawn` has a random number below 2^53 for each batch, then one for each row. `strata` are groups, and `ends`
        where the share of each but the last ends.
        """
        cdef Py_ssize_t at, num_batches = drawn.shape[0] // (num + 1)
        cdef cnp.npy_intp[1] dims
        dims[0] = num_batches * num
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        for at in range(num_batches):
            draw_of_strata(
                &self.groups, &strata[0], &ends[0] if ends.shape[0] > 0 else NULL, ends.shape[0], as_part(drawn[at]),
                &drawn[num_batches + at * num], num, <int64_t*>cnp.PyArray_DATA(found) + at * num,
            )
        return found

    def draw_by_weight(self, const int64_t[::1] drawn, const double[::1] weights, const double[::1] ends):
        """Numbers of rows, int64 [n], by a random number below 2^53 for each.

        A row of group g has `weights[g]`; `ends` are the sums of the weights of all rows up to each group's last one.
        """
        cdef cnp.npy_intp[1] dims
        dims[0] = drawn.shape[0]
        cdef cnp.ndarray found = cnp.PyArray_EMPTY(1, dims, cnp.NPY_INT64, 0)
        draw_by_weight(
            &self.groups, &weights[0], &ends[0], ends.shape[0], &drawn[0], dims[0],
            <int64_t*>cnp.PyArray_DATA(found),
        )
        return found


# Methods of a buffer, whose ring is `_ring`. A call of a Python function takes as long as the copy of a narrow row.


def put_method(slow, translated):
    """`put(self, data)`, which gives a dict to the ring, and what the ring does not take to `slow(self, data)`.

    A RingError is raised as `translated(ring, error)`.
    """
    def put(self, data):
        ring = self._ring
        if type(data) is dict and ring is not None:
            try:
                if (<Ring?>ring).put_dict(<dict>data):
                    return
            except RingError as error:
                raise translated(ring, error) from None
        slow(self, data)

    return put


def sample_method(slow, translated):
    """`sample(self, n, ...)`. If no option is given, the ring draws `n` rows if `_draws_in_ring` is true, and the
    `WindowDraws` in `_window_draws` draws `n` windows if it is not None. Else, as where they return None, `slow` does.

    A RingError is raised as `translated(ring, error)`.
    """
    def sample(self, n, *, replace=True, out=None, beta=None, as_=None):
        ring = self._ring
        try:
            if replace is True and out is None and beta is None and as_ is None and ring is not None:
                batch = None
                if self._draws_in_ring:
                    batch = (<Ring?>ring).drawn_quickly(n)
                elif (windows := self._window_draws) is not None:
                    batch = (<WindowDraws?>windows).drawn_quickly(<Ring?>ring, n)
                if batch is not None:
                    return batch
            return slow(self, n, replace=replace, out=out, beta=beta, as_=as_)
        except RingError as error:
            raise translated(ring, error) from None

    return sample


def mixed_sample_method(slow):
    """`sample(self, n, ...)` of a mixture, whose `_rings` draw `n` rows if no option is given and `_counts` knows their
    parts; else `slow` does. Parts that rings do not hold are left to `_complete(batch, left)`.
    """
    def sample(self, n, *, replace=True, beta=None, as_=None):
        rings = self._rings
        if rings is not None and replace is True and beta is None and as_ is None:
            left = []
            batch = (<MixedRings?>rings).drawn_quickly(n, <MixedCounts?>self._counts, left)
            if batch is not None:
                if left:
                    self._complete(batch, left)
                return batch
        return slow(self, n, replace=replace, beta=beta, as_=as_)

    return sample


cdef cnp.dtype INT32 = cnp.PyArray_DescrFromType(cnp.NPY_INT32)
cdef cnp.dtype INT64 = cnp.PyArray_DescrFromType(cnp.NPY_INT64)
cdef cnp.dtype FLOAT32 = cnp.PyArray_DescrFromType(cnp.NPY_FLOAT32)
cdef cnp.dtype UINT8 = cnp.PyArray_DescrFromType(cnp.NPY_UINT8)


cdef inline const TrajectoryParts* trajectory_parts(index) except NULL:
    """Of a `TrajectoryIndex`, which must live as long as they are used."""
    return <const TrajectoryParts*>PyCapsule_GetPointer(index.parts, "really.trajectories")


cdef inline object new_array(Block block, char* data, object dtype, cnp.npy_intp* dims, int num_dims):
    """An array over a part of the block, which it keeps alive."""
    array = PyArray_NewFromDescr(
        &PyArray_Type, new_reference(dtype), num_dims, dims, NULL, data, cnp.NPY_ARRAY_CARRAY, NULL
    )
    cnp.set_array_base(array, block)
    return array


cdef inline void* new_reference(object owned) noexcept:
    """A reference for a C function that takes it over."""
    Py_INCREF(owned)
    return <void*>owned
