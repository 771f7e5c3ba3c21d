"""The replay ring: `Ring` holds rows as records and gives batches of them; `ReplayBuffer` is its one user.

Reading order: record.pxd (what a row is), scatter.pxd (in), gather.pxd over side_by_side.h (out), bounded_random.pxd (which
rows), pool.pxd (where batches live), lock.pxd (who may), then this file, which ties them to Python. What not every ring has, after it:
n_step.pxd (batches of several steps), page.pxd (what outlives the process), and for large rows that share frames
frame_store.pxd, frames.pxd, interleave.pxd, unshare.pxd and sharing.pxd.

One lock guards rows and generator; whoever holds it waits for nothing, the GIL included, so a holder always comes to
release it.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.dict cimport PyDict_GetItemWithError
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.pythread cimport PyThread_allocate_lock, PyThread_free_lock, PyThread_type_lock
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport INT64_MAX, int64_t, uint32_t
from libc.string cimport memcmp, memcpy, memset
from numpy.random cimport bitgen_t

from bounded_random cimport draw, draw_distinct, table_nbytes
from frame_store cimport attach_file, find_blocks, follow_writer, frame_at, give_up_all
from matching cimport FrameColumn, Sharing, free_sharing, init_sharing
from gather cimport ask_for_rows, gather
from lock cimport acquire, release
from memory cimport REALLY_LINE, really_commit, really_lines_free, really_lines_new, really_pages_release, really_pages_reserve
from n_step cimport Steps, walk
from cursor_page cimport STATE, Page, first_untouched, read_cursor, store_state
from pool cimport FreeBlocks, Memory, give_block, release_block, take_block
from record cimport STAGE, Column, Cursor, Field, Records, Seam, lay_out, num_held, oldest_row, oldest_slot, round_up
from scalars cimport store_scalar
from scatter cimport append
from shared_rows cimport Incoming, append_shared, ask_for_frames, bytes_needed, count_rows_anew, count_rows_held, unshare_all
from reconstruct cimport number_frames

cdef extern from "numpy/arrayobject.h":
    # PyArray_NewFromDescr takes over the reference to `dtype`; numpy's own pxd does not declare it.
    object PyArray_NewFromDescr(
        PyTypeObject* subtype, void* dtype, int num_dims, const cnp.npy_intp* dims,
        const cnp.npy_intp* strides, void* data, int flags, PyObject* parent,
    )
    PyTypeObject PyArray_Type

cnp.import_array()

cdef enum:
    SMALL = 1 << 14  # bytes; a copy this short is over before another thread could take the GIL
    QUICK = 1 << 27  # bytes
    MAX_DIMS = 64  # of a NumPy array
    UNKNOWN = -1  # number of rows of a put before its first column is looked at
    SCALAR = 32  # bytes of the largest number, a complex long double
    ONE_ROW = -2  # values without the row axis
    TRIES = 100  # to copy a batch before another process writes over one of its rows
    FEW = 16  # fields whose columns a put finds room for on its stack

cdef int64_t NO_ROW = INT64_MAX  # a number that no row reaches

cdef struct Shape:
    int num_dims
    cnp.npy_intp dims[MAX_DIMS]


@cython.final
@cython.no_gc
cdef class Pool:
    """Memory that batches come from and go back to; lives as long as its last batch."""

    cdef FreeBlocks free

    def __dealloc__(self):
        cdef int i
        for i in range(self.free.num_blocks):
            release_block(self.free.blocks[i])


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Block:
    """Memory of one batch: the base of its arrays, given back to the pool when the last of them is dropped."""

    cdef Pool pool
    cdef Memory memory
    cdef char** fields  # [num_fields], where each field's rows go
    cdef char** columns  # [num_keys], where each key's rows go; a key that shares no frames is a field
    cdef int64_t* ages  # [num_rows], which rows
    cdef float* discounts  # [num_rows], NULL where rows are single steps
    cdef int64_t* lasts  # [num_rows], the last step of each row
    cdef char** after  # [num_fields of it], where the last steps' fields go
    cdef bint is_broken  # rows of several agents alternate
    cdef int64_t* table  # room for drawing without replacement

    def __dealloc__(self):
        if self.memory.data != NULL:
            give_block(&self.pool.free, self.memory)


class RingError(Exception):
    """An error of the ring's own, which `really.replay.engine` alone translates for the user."""


class TooManyFramesError(RingError, MemoryError):
    """The frames of a put exceed `max_bytes`, or the system has no memory for them.

    Arguments: position of the key, rows that share no frame with an earlier one, rows that were tried together, rows
    of the put that are in already.
    """


class FrameFileError(RingError):
    """A file of frames cannot grow. Arguments: errno, name of the key, rows of the put that are in already."""


class AlternatingAgentsError(RingError):
    """Rows of several agents alternate within an episode, so that no row has n steps of one agent.

    Arguments: names of the column that ends episodes and of the column with the agent.
    """


def draw_below(bit_generator, int64_t bound, Py_ssize_t num):
    """[num] int64 from [0, bound), drawn as batches are: what tests see of bounds that no ring reaches."""
    cdef bitgen_t* source = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
    cdef Block block = new_block(Pool.__new__(Pool), lines(num * sizeof(int64_t)))
    cdef cnp.npy_intp[1] dims
    dims[0] = num
    draw(source, bound, <int64_t*>block.memory.data, num)
    return new_array(block, block.memory.data, INT64, dims, 1)


def row_stride(list field_nbytes):
    """Bytes that a row of fields of these lengths takes in a ring, padding included."""
    cdef Records rows
    cdef Py_ssize_t i
    rows.num_fields, rows.num_seams = len(field_nbytes), 0
    rows.fields = <Field*>PyMem_Calloc(rows.num_fields + 1, sizeof(Field))
    rows.seams = <Seam*>PyMem_Calloc(rows.num_fields + 1, sizeof(Seam))
    try:
        if rows.fields == NULL or rows.seams == NULL:
            raise MemoryError("a layout's own few bytes: the system gave no memory")
        for i in range(rows.num_fields):
            rows.fields[i].nbytes = field_nbytes[i]
        lay_out(&rows)
        return rows.stride
    finally:
        PyMem_Free(rows.fields)
        PyMem_Free(rows.seams)


cdef Block new_block(Pool pool, Py_ssize_t nbytes):
    cdef Block block = Block.__new__(Block)
    block.pool = pool
    block.memory = take_block(&pool.free, nbytes)
    if block.memory.data == NULL:
        raise MemoryError(f"a batch of {nbytes} bytes: the system gave no memory")
    return block


@cython.final
cdef class Ring:
    """Rows of named columns, first in first out, in one block of `capacity` records.

    Arguments are checked by the caller: `names` list[str], `dtypes` list[np.dtype], `shapes` list[tuple[int, ...]],
    all of one length. `shared` has an entry (positions of one or two names, stack, axis) for what shares frames:
    rows that are stacks of `stack` frames along that axis, and of two names the second holds what comes after the first.
    `frame_column` is a class with attributes `frames` [frame, ...], `indices` [row, stack] int32 and `axis`, made from
    these three, in which such columns come and go; it has checked the indices. The frames may take `max_bytes`. `storage` is None for memory of the ring's own; else it owns what the ring works in, and the
    ring keeps it alive: `storage.records` uint8 [slots * stride] and `storage.page` uint8 [4096] with the cursor, of which nothing
    is written unless `storage.writable`. `storage.make_room(ring, num_rows)` is called before so many rows are written
    from `allocated_end` on, and raises where they cannot be.
    """

    cdef object __weakref__
    cdef Records rows
    cdef Cursor cursor
    cdef PyThread_type_lock lock
    cdef int64_t pinned_from  # number of the first row that must not be dropped
    cdef bitgen_t* source
    cdef readonly object bit_generator
    cdef readonly list names
    cdef readonly list dtypes
    cdef readonly list shapes
    cdef readonly Py_ssize_t max_unchecked_rows  # how many rows a batch may have without a look at the memory that is left
    cdef readonly list shared
    cdef public int64_t max_bytes
    cdef Py_ssize_t num_sharings
    cdef Py_ssize_t max_stack
    cdef Py_ssize_t num_keys
    cdef Py_ssize_t row_nbytes  # bytes that are copied for a row
    cdef Shape* row_shapes  # [num_keys], `shapes` for C
    cdef Py_ssize_t* key_nbytes  # [num_keys], of a row
    cdef Sharing* sharings  # [num_sharings]
    cdef int* sharing_of  # [num_keys], -1 where rows are kept whole
    cdef Steps steps
    cdef Py_ssize_t* after_fields  # [steps.after.num_fields], which of the ring's fields those are
    cdef Pool pool
    cdef readonly object storage
    cdef Page* page  # NULL in memory of the ring's own
    cdef object frame_column  # class of the columns that come and go as frames and indices
    cdef bint writes  # the page and the records are this process's to write
    cdef readonly int64_t allocated_end  # rows with numbers below it have their space: they can be written
    cdef public bint prefetches_from_disk  # the disk is asked for all rows of a batch before they are copied

    def __cinit__(
        self, int64_t capacity, list names, list dtypes, list shapes, bit_generator, list shared=[],
        int64_t max_bytes=INT64_MAX, storage=None, frame_column=None,
    ):
        cdef Py_ssize_t i, num = len(names)
        self.names, self.dtypes, self.shapes, self.shared = names, dtypes, shapes, shared
        self.frame_column = frame_column
        self.pool = Pool.__new__(Pool)
        self.bit_generator = bit_generator
        self.source = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
        self.rows.capacity = self.rows.num_slots = capacity
        self.rows.cursor = &self.cursor
        self.pinned_from = NO_ROW
        self.max_bytes = max_bytes
        self.num_keys = num
        self.rows.num_fields = num + len(shared)
        self.rows.fields = <Field*>PyMem_Calloc(self.rows.num_fields + 1, sizeof(Field))
        self.rows.seams = <Seam*>PyMem_Calloc(self.rows.num_fields + 1, sizeof(Seam))
        self.row_shapes = <Shape*>PyMem_Calloc(max(num, 1), sizeof(Shape))
        self.key_nbytes = <Py_ssize_t*>PyMem_Calloc(max(num, 1), sizeof(Py_ssize_t))
        self.sharing_of = <int*>PyMem_Calloc(max(num, 1), sizeof(int))
        self.sharings = <Sharing*>PyMem_Calloc(len(shared) + 1, sizeof(Sharing))
        self.lock = PyThread_allocate_lock()
        if (
            self.rows.fields == NULL or self.rows.seams == NULL or self.row_shapes == NULL
            or self.key_nbytes == NULL or self.sharing_of == NULL or self.sharings == NULL or self.lock == NULL
        ):
            raise MemoryError("the ring's own few bytes: the system gave no memory")
        for i in range(num):
            self.rows.fields[i].nbytes = self.key_nbytes[i] = self.set_shape(i)
            self.row_nbytes += self.key_nbytes[i]
            self.sharing_of[i] = -1
        for i in range(len(shared)):
            self.set_sharing(i, shared[i][0], shared[i][1], shared[i][2])
        lay_out(&self.rows)
        self.row_nbytes = max(self.row_nbytes, self.rows.stride)
        self.max_unchecked_rows = QUICK // self.row_nbytes
        self.rows.stage = <char*>really_lines_new(STAGE)
        if storage is None:
            self.writes, self.allocated_end = True, INT64_MAX
            self.rows.data = <char*>really_pages_reserve(self.rows.num_slots * self.rows.stride)
        else:
            self.move_to(storage)
        if self.rows.stage == NULL or self.rows.data == NULL:
            raise MemoryError(
                f"{capacity} rows of {self.rows.stride} bytes: the system gave no address space for them"
            )
        memset(self.rows.stage, 0, STAGE)  # padding goes out with the rows: let it be zeros

    cdef int move_to(self, storage) except -1:
        self.storage, self.writes = storage, storage.writable
        self.rows.data = <char*>cnp.PyArray_DATA(<cnp.ndarray?>storage.records)
        self.rows.num_slots = cnp.PyArray_SIZE(storage.records) // self.rows.stride
        self.page = <Page*>cnp.PyArray_DATA(<cnp.ndarray?>storage.page)
        if self.writes:
            self.rows.cursor = &self.page.cursor
        else:
            self.refresh_cursor()
        return 0

    cdef bint refresh_cursor(self) noexcept nogil:
        """Of files that another process writes, takes the cursor as it is now and maps new frames; the lock is held.

        False where those cannot be mapped.
        """
        cdef Py_ssize_t s
        if self.writes:
            return True
        read_cursor(self.page, &self.cursor)
        for s in range(self.num_sharings):
            if self.sharings[s].store.file == NULL or not follow_writer(&self.sharings[s].store):
                return False
        return True

    cdef int set_sharing(self, Py_ssize_t at, tuple keys, int stack, int axis) except -1:
        """Lets the keys keep numbers of frames in place of their rows."""
        cdef Sharing* sharing = &self.sharings[at]
        cdef Py_ssize_t key, i
        self.num_sharings = at + 1
        sharing.stack, sharing.num_columns = stack, len(keys)
        sharing.outer = 1
        for i in range(axis):
            sharing.outer *= self.row_shapes[<Py_ssize_t>keys[0]].dims[i]
        sharing.store.nbytes = self.rows.fields[<Py_ssize_t>keys[0]].nbytes // stack
        sharing.inner = sharing.store.nbytes // sharing.outer
        for i in range(len(keys)):
            key = sharing.keys[i] = keys[i]
            self.sharing_of[key] = at
            self.rows.fields[key].nbytes = stack * sizeof(uint32_t)
        sharing.low_field = self.num_keys + at
        self.rows.fields[sharing.low_field].nbytes = sizeof(uint32_t)
        self.max_stack = max(self.max_stack, <Py_ssize_t>stack)
        if not init_sharing(sharing, self.rows.capacity, self.rows.num_slots):
            raise MemoryError("the tables of a frame store: the system gave no memory")
        return 0

    def set_steps(self, int num, double gamma, int reward, int end, int terminal, int agent, list after):
        """Batches are of up to `num` steps from now on: of the keys at these places, float32 [] but for `agent`, -1 for
        none; those of `after` are taken from the last step. Called once, before the ring is used."""
        cdef Py_ssize_t i
        self.after_fields = <Py_ssize_t*>PyMem_Calloc(len(after) + 1, sizeof(Py_ssize_t))
        self.steps.after = self.rows
        self.steps.after.fields = <Field*>PyMem_Calloc(len(after) + 1, sizeof(Field))
        if self.after_fields == NULL or self.steps.after.fields == NULL:
            raise MemoryError("the ring's own few bytes: the system gave no memory")
        self.steps.after.num_fields = len(after)
        for i in range(len(after)):
            self.after_fields[i] = after[i]
            self.steps.after.fields[i] = self.rows.fields[self.after_fields[i]]
        self.steps.gamma, self.steps.most = gamma, num
        self.steps.reward, self.steps.end, self.steps.terminal, self.steps.agent = reward, end, terminal, agent

    cdef Py_ssize_t set_shape(self, Py_ssize_t i) except -1:
        cdef Py_ssize_t axis, nbytes = self.dtypes[i].itemsize
        for axis in self.shapes[i]:
            self.row_shapes[i].dims[self.row_shapes[i].num_dims] = axis
            self.row_shapes[i].num_dims += 1
            nbytes *= axis
        return nbytes

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.storage is None:
            really_pages_release(self.rows.data, self.rows.num_slots * self.rows.stride)
        really_lines_free(self.rows.stage)
        PyMem_Free(self.rows.fields)
        PyMem_Free(self.rows.seams)
        PyMem_Free(self.row_shapes)
        PyMem_Free(self.key_nbytes)
        PyMem_Free(self.after_fields)
        PyMem_Free(self.steps.after.fields)
        PyMem_Free(self.sharing_of)
        for i in range(self.num_sharings):
            free_sharing(&self.sharings[i])
        PyMem_Free(self.sharings)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    def __len__(self):
        oldest, num_put = self.held_rows()  # a put amid the reading of the cursor would make it more than the capacity
        return num_put - oldest

    @property
    def capacity(self):
        """How many rows are kept."""
        return self.rows.capacity

    @property
    def num_put(self):
        """How many rows have been put since the ring began; the number of the row to come."""
        return self.held_rows()[1]

    @property
    def oldest_row(self):
        """The number of the oldest row held."""
        return self.held_rows()[0]

    @property
    def stride(self):
        """Bytes that a row takes, padding included."""
        return self.rows.stride

    @property
    def offsets(self):
        """Where each name's bytes start in a row."""
        return [self.rows.fields[i].offset for i in range(self.num_keys)]

    @property
    def frames_nbytes(self):
        """Bytes that frames take at the moment."""
        cdef Py_ssize_t s
        acquire(self.lock)
        if not self.writes and self.refresh_cursor():
            for s in range(self.num_sharings):
                count_rows_anew(&self.rows, &self.sharings[s])
        cdef int64_t nbytes = bytes_needed(self.sharings, self.num_sharings)
        release(self.lock)
        return nbytes

    def records(self):
        """The rows held as one or two uint8 arrays [n, stride], oldest first: read-only views of the ring itself."""
        acquire(self.lock)
        self.refresh_cursor()
        cdef int64_t oldest = oldest_slot(&self.rows), size = num_held(&self.rows)
        release(self.lock)
        cdef int64_t num_behind = min(size, self.rows.num_slots - oldest)
        parts = [self.view(oldest, num_behind), self.view(0, size - num_behind)]
        return [part for part in parts if len(part)]

    cdef object view(self, int64_t slot, int64_t num):
        cdef cnp.npy_intp[2] dims
        dims[0], dims[1] = num, self.rows.stride
        array = PyArray_NewFromDescr(
            &PyArray_Type, new_reference(UINT8), 2, dims, NULL,
            self.rows.data + slot * self.rows.stride, cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED, NULL
        )
        cnp.set_array_base(array, self)
        return array

    def acquire(self):
        """Takes the lock, for a fork or for the generator's state; `release` must follow."""
        acquire(self.lock)

    def release(self):
        """Gives the lock back."""
        release(self.lock)

    def held_rows(self):
        """Numbers of the oldest row held and of the row to come, as they are together."""
        acquire(self.lock)
        self.refresh_cursor()
        numbers = oldest_row(&self.rows), self.rows.cursor.num_put
        release(self.lock)
        return numbers

    def pin_held(self):
        """`held_rows`, none of which `put` and `clear` drop until `pin_from` unpins them."""
        acquire(self.lock)
        self.refresh_cursor()
        numbers = oldest_row(&self.rows), self.rows.cursor.num_put
        self.pinned_from = min(self.pinned_from, <int64_t>numbers[0])
        release(self.lock)
        return numbers

    def pin_from(self, int64_t number=NO_ROW):
        """`put` and `clear` refuse to drop the rows from this number on; by default they may drop all."""
        acquire(self.lock)
        self.pinned_from = number
        release(self.lock)

    def set_first_number(self, int64_t number):
        """Lets the first row of a ring that is empty have this number."""
        acquire(self.lock)
        if self.writes and num_held(&self.rows) == 0:
            self.rows.cursor.num_put = self.rows.cursor.first = number
        release(self.lock)

    def clear(self):
        """Drops all rows; False, with nothing done, if one of them is kept."""
        acquire(self.lock)
        cdef bint may = self.writes and self.pinned_from >= self.rows.cursor.num_put
        cdef Py_ssize_t s
        if may:
            really_commit(&self.rows.cursor.first, self.rows.cursor.num_put)
            for s in range(self.num_sharings):
                give_up_all(&self.sharings[s].store)
        release(self.lock)
        return may

    def set_allocated_end(self, int64_t number):
        """From now on rows of numbers below this one can be written."""
        acquire(self.lock)
        if self.writes:
            self.allocated_end = number
        release(self.lock)

    def detach(self):
        """Writes to the storage no more, as if another process had opened it; what is held can still be read."""
        acquire(self.lock)
        cdef Py_ssize_t s
        self.writes, self.allocated_end, self.rows.cursor = False, -1, &self.cursor
        for s in range(self.num_sharings):
            if self.sharings[s].store.file != NULL:
                self.sharings[s].store.file.writable = False
        self.refresh_cursor()
        release(self.lock)

    @property
    def frame_tables(self):
        """Of each sharing, how many bytes a block of frames has, and how many places the table of blocks."""
        return [
            (self.sharings[i].store.block_nbytes, self.sharings[i].store.num_blocks) for i in range(self.num_sharings)
        ]

    def attach_frames(self, Py_ssize_t at, int descriptor, cnp.ndarray table, unsigned int num_blocks):
        """Keeps a sharing's frames in a file of `num_blocks` blocks, before the ring is used and after
        `prefetches_from_disk` is set; `table` is theirs, mapped.

        False if the table names a block that the file has not.
        """
        cdef Sharing* sharing = &self.sharings[at]
        if not attach_file(&sharing.store, descriptor, <char*>cnp.PyArray_DATA(table), num_blocks, self.writes, not self.prefetches_from_disk):
            raise MemoryError("the tables of a frame store: the system gave no memory")
        if not self.writes:
            return follow_writer(&sharing.store)
        count_rows_held(&self.rows, sharing)
        return find_blocks(&sharing.store)

    def generator_bytes(self):
        """The generator's state as it is in memory; the lock is held, or nobody else draws."""
        return (<const char*>self.source.state)[:STATE]

    def store_generator(self):
        """Keeps the generator's state where it outlives the process; the lock is held, or nobody else draws."""
        self.keep_state()

    cdef void keep_state(self) noexcept nogil:
        if self.page != NULL and self.writes:
            store_state(self.page, self.source.state)

    # In -----------------------------------------------------------------------------------------------------------

    def put(self, dict data):
        """Appends a row or rows that need no conversion; False, with nothing done, if they do or are wrong, or if
        rows that are kept would be dropped.

        Raises TooManyFramesError where there is no room for the frames of rows that share them, and what
        `storage.make_room` does; with nothing done either.
        """
        if self.num_sharings > 0:
            return self.put_shared(data)
        cdef Column few[FEW]  # this call's own: the wait for the lock lets other puts in
        cdef char few_scalars[FEW * SCALAR]
        cdef Column* columns
        if self.num_keys <= FEW:
            return self.put_columns(data, few, few_scalars)
        columns = <Column*>PyMem_Malloc(self.num_keys * (sizeof(Column) + SCALAR))
        if columns == NULL:
            raise MemoryError("a put's own few bytes: the system gave no memory")
        try:
            return self.put_columns(data, columns, <char*>(columns + self.num_keys))
        finally:
            PyMem_Free(columns)

    cdef bint put_columns(self, dict data, Column* columns, char* scalars) except -1:
        """`put` with room for every field's column and scalar."""
        cdef Py_ssize_t i, num = self.num_keys
        cdef int64_t num_rows = UNKNOWN
        cdef PyObject* value
        cdef tuple held = PyTuple_New(num)  # another thread may empty `data` while the GIL is away
        for i in range(num):
            value = PyDict_GetItemWithError(data, self.names[i])
            if value == NULL or not self.find_column(<object>value, i, scalars + i * SCALAR, &columns[i], &num_rows):
                return False
            Py_INCREF(<object>value)
            PyTuple_SET_ITEM(held, i, <object>value)
        return self.append_columns(columns, 1 if num_rows == ONE_ROW else num_rows)

    cdef bint put_shared(self, dict data) except -1:
        """`put` of rows of which some share frames; those may come as a `frame_column`."""
        cdef Py_ssize_t i, num = self.rows.num_fields
        cdef int64_t num_rows = UNKNOWN
        cdef PyObject* value
        cdef list held = []
        cdef Incoming rows
        rows.columns = <Column*>PyMem_Calloc(num + 1, 2 * sizeof(Column) + sizeof(FrameColumn) + SCALAR)
        if rows.columns == NULL:
            raise MemoryError("a put's own few bytes: the system gave no memory")
        rows.piece = rows.columns + num
        rows.frames = <FrameColumn*>(rows.piece + num)
        cdef char* scalars = <char*>(rows.frames + num)
        try:
            for i in range(self.num_keys):
                value = PyDict_GetItemWithError(data, self.names[i])
                if value == NULL:
                    return False
                held.append(<object>value)
                if self.sharing_of[i] >= 0 and type(<object>value) is self.frame_column:
                    if not self.find_frames(<object>value, i, &rows.frames[i], &num_rows):
                        return False
                    continue
                if not self.find_column(<object>value, i, scalars + i * SCALAR, &rows.columns[i], &num_rows):
                    return False
                rows.frames[i].data, rows.frames[i].stride = rows.columns[i].data, rows.columns[i].stride
            return self.append_sharing(&rows, 1 if num_rows == ONE_ROW else num_rows)
        finally:
            PyMem_Free(rows.columns)

    cdef bint find_frames(self, value, Py_ssize_t i, FrameColumn* column, int64_t* num_rows) except -1:
        """`find_column` of rows that come as frames and indices."""
        cdef cnp.ndarray frames = value.frames, indices = value.indices
        cdef Sharing* sharing = &self.sharings[self.sharing_of[i]]
        axis = self.shared[self.sharing_of[i]][2]
        if value.axis != axis or cnp.PyArray_DIM(indices, 1) != sharing.stack or (
            frames.dtype != self.dtypes[i]
            or (<object>frames).shape[1:] != frame_shape(self.shapes[i], sharing.stack, axis)
        ):
            return False
        column.data = <const char*>cnp.PyArray_DATA(frames)
        column.stride = sharing.store.nbytes
        column.indices = <const int*>cnp.PyArray_DATA(indices)
        if num_rows[0] == UNKNOWN:
            num_rows[0] = cnp.PyArray_DIM(indices, 0)
        return num_rows[0] == cnp.PyArray_DIM(indices, 0)

    cdef bint append_sharing(self, Incoming* rows, int64_t num_rows) except -1:
        """`append_columns` of rows of which some share frames."""
        cdef int64_t first = max(num_rows - self.rows.capacity, <int64_t>0)
        cdef int64_t num, start = first, spare = self.rows.num_slots - self.rows.capacity
        cdef int64_t piece = min(num_rows, spare) if spare > 0 else num_rows - first
        cdef Py_ssize_t i, failed = -1
        cdef bint may
        rows.room = (piece + 1) * self.max_stack
        rows.numbers = <uint32_t*>PyMem_Malloc(rows.room * self.rows.num_fields * sizeof(uint32_t))
        if rows.numbers == NULL:
            raise MemoryError(f"a put of {num_rows} rows: the system gave no memory for the numbers of their frames")
        try:
            self.hold_with_room(num_rows)
        except BaseException:
            PyMem_Free(rows.numbers)
            raise
        may = self.may_drop(num_rows)
        with nogil:
            while may and start < num_rows and failed < 0:
                num = min(piece, num_rows - start)
                failed = append_shared(
                    &self.rows, self.sharings, self.num_sharings, self.max_bytes, rows, start, num
                )
                start += num
        release(self.lock)
        PyMem_Free(rows.numbers)
        if failed >= 0:
            self.refuse(&self.sharings[failed], num, start - num - first)
        return may

    cdef int refuse(self, const Sharing* sharing, int64_t num_rows, int64_t num_in) except -1:
        """Says why there is no room for the frames of a put, of which rows may be in already."""
        if sharing.store.file != NULL and sharing.store.file.error != 0:
            raise FrameFileError(sharing.store.file.error, self.names[sharing.keys[0]], num_in)
        raise TooManyFramesError(sharing.keys[0], sharing.num_alone, num_rows, num_in)

    cdef bint find_column(
        self, value, Py_ssize_t i, char* scalar, Column* column, int64_t* num_rows
    ) except -1:
        """Where the value's rows are; False if it is not what field `i` holds, or of another number of rows.

        A number is written to `scalar`, which has room for the largest.
        """
        cdef int64_t num = ONE_ROW
        cdef int num_lead
        cdef cnp.ndarray array
        if cnp.PyArray_CheckExact(value):
            array = <cnp.ndarray>value
            num_lead = 1 if cnp.PyArray_NDIM(array) > self.row_shapes[i].num_dims else 0
            if not self.is_column(array, i, num_lead):
                return False
            column.data = <const char*>cnp.PyArray_DATA(array)
            column.stride = 0
            if num_lead == 1:
                num = cnp.PyArray_DIM(array, 0)
                column.stride = cnp.PyArray_STRIDE(array, 0)
        elif self.row_shapes[i].num_dims == 0 and store_scalar(value, <cnp.dtype>self.dtypes[i], scalar):
            column.data = scalar
            column.stride = 0
        else:
            return False
        if num_rows[0] == UNKNOWN:
            num_rows[0] = num
        return num_rows[0] == num

    cdef bint is_column(self, cnp.ndarray array, Py_ssize_t i, int num_lead) except -1:
        """Whether the array is rows of field `i` with so many axes in front, each row's bytes in C order."""
        cdef Shape* shape = &self.row_shapes[i]
        cdef cnp.dtype expected = <cnp.dtype>self.dtypes[i]
        cdef int axis
        cdef bint is_empty = cnp.PyArray_SIZE(array) == 0
        cdef Py_ssize_t stride = cnp.PyArray_ITEMSIZE(array)
        if <PyObject*>cnp.PyArray_DESCR(array) != <PyObject*>expected and not cnp.PyArray_EquivTypes(
            array.dtype, expected
        ):
            return False
        if cnp.PyArray_NDIM(array) != num_lead + shape.num_dims:
            return False
        for axis in range(shape.num_dims - 1, -1, -1):
            if cnp.PyArray_DIM(array, num_lead + axis) != shape.dims[axis]:
                return False
            if shape.dims[axis] > 1 and not is_empty and cnp.PyArray_STRIDE(array, num_lead + axis) != stride:
                return False
            stride *= shape.dims[axis]
        return True

    cdef bint may_drop(self, int64_t num_rows) noexcept:
        """Whether so many new rows drop none that is kept."""
        cdef int64_t oldest_then = self.rows.cursor.num_put - max(self.rows.capacity - num_rows, <int64_t>0)
        return num_rows == 0 or oldest_then <= self.pinned_from

    cdef int hold_with_room(self, int64_t num_rows) except -1:
        """Takes the lock with room for so many rows."""
        acquire(self.lock)
        while self.rows.cursor.num_put + min(num_rows, self.rows.capacity) > self.allocated_end:
            release(self.lock)
            self.storage.make_room(self, num_rows)
            acquire(self.lock)
        return 0

    cdef bint append_columns(self, Column* columns, int64_t num_rows) except -1:
        cdef bint may
        self.hold_with_room(num_rows)
        may = self.may_drop(num_rows)
        if may and num_rows * self.rows.stride <= SMALL:
            append(&self.rows, columns, num_rows)
        elif may:
            with nogil:
                append(&self.rows, columns, num_rows)
        release(self.lock)
        return may

    # Out ----------------------------------------------------------------------------------------------------------

    def sample(self, Py_ssize_t num, Py_ssize_t num_batches=0, bint distinct=False, dict out=None):
        """A batch of `num` rows drawn from all held; with `num_batches`, that many on a leading axis.

        `distinct` draws each batch without replacement. `out` holds an array for every name, which the caller
        has checked. None if there are too few rows, or if another process drops them as fast as they are copied.
        """
        cdef Py_ssize_t total = num * max(num_batches, <Py_ssize_t>1)
        cdef Block block = self.new_batch(total, table_nbytes(num) if distinct else 0, out, whole=True, steps=self.steps.most > 0)
        cdef bint drawn
        acquire(self.lock)
        if total * self.row_nbytes <= SMALL and not self.prefetches_from_disk:
            drawn = self.draw_rows(block, total, num, distinct)
        else:
            with nogil:
                drawn = self.draw_rows(block, total, num, distinct)
        release(self.lock)
        if not drawn:
            return None
        return self.arrays(block, num, num_batches) if out is None else out

    cdef bint draw_rows(self, Block block, Py_ssize_t total, Py_ssize_t num, bint distinct) noexcept nogil:
        cdef int i
        for i in range(TRIES):
            if not self.refresh_cursor() or num_held(&self.rows) < (num if distinct else 1):
                return False
            if self.copy_drawn(block, total, num, distinct):
                return True
        return False

    cdef bint copy_drawn(self, Block block, Py_ssize_t total, Py_ssize_t num, bint distinct) noexcept nogil:
        """As copy_rows does, rows that are drawn: where nothing has to know all of them first, while they are copied."""
        if distinct or self.prefetches_from_disk:
            self.draw_ages(block, total, num, distinct)
            return self.copy_rows(block, total)
        self.gather_rows(block, total, self.source)
        self.keep_state()
        return self.are_whole(block, total)

    cdef bint copy_rows(self, Block block, Py_ssize_t total) noexcept nogil:
        """Copies the rows of the block's ages; False if another process has begun to write over one of them."""
        if self.prefetches_from_disk:
            ask_for_rows(&self.rows, block.ages, total)
        self.gather_rows(block, total, NULL)
        return self.are_whole(block, total)

    cdef bint are_whole(self, Block block, Py_ssize_t total) noexcept nogil:
        """Whether no other process has begun to write over one of the rows of the block's ages."""
        return self.writes or none_below(block.ages, total, self.first_whole() - oldest_row(&self.rows))

    cdef int64_t first_whole(self) noexcept nogil:
        """In a process that only reads, number of the first row that has not been written over by now."""
        cdef int64_t first = first_untouched(self.page, self.rows.num_slots)
        # Frames of rows that have been dropped may be written over at once, their records are not yet.
        if self.num_sharings == 0:
            return first
        return max(first, max(self.page.cursor.first, self.page.cursor.num_put - self.rows.capacity))

    def fits(self, out, Py_ssize_t num, Py_ssize_t num_batches=0):
        """Whether `out` is a dict of arrays, one for every name, that a batch can be written to as it is."""
        cdef cnp.npy_intp[MAX_DIMS] dims
        cdef int num_lead = lead_dims(dims, num, num_batches)
        cdef PyObject* array
        cdef Py_ssize_t i
        if type(out) is not dict:
            return False
        for i in range(self.num_keys):
            array = PyDict_GetItemWithError(out, self.names[i])
            if array == NULL or not cnp.PyArray_CheckExact(<object>array):
                return False
            if not cnp.PyArray_ISCARRAY(<cnp.ndarray>array) or not self.is_column(<cnp.ndarray>array, i, num_lead):
                return False
            if memcmp(cnp.PyArray_DIMS(<cnp.ndarray>array), dims, num_lead * sizeof(cnp.npy_intp)) != 0:
                return False
        return True

    def sample_ages(self, Py_ssize_t num, Py_ssize_t num_batches=0, bint distinct=False):
        """The ages, int64, that `sample` with the same arguments would draw; None if there are too few rows."""
        cdef Py_ssize_t total = num * max(num_batches, <Py_ssize_t>1)
        cdef Block block = self.new_batch(total, table_nbytes(num) if distinct else 0, {})
        acquire(self.lock)
        self.refresh_cursor()
        if num_held(&self.rows) < (num if distinct else 1):
            release(self.lock)
            return None
        with nogil:
            self.draw_ages(block, total, num, distinct)
        release(self.lock)
        cdef cnp.npy_intp[MAX_DIMS] dims
        return new_array(block, <char*>block.ages, INT64, dims, lead_dims(dims, num, num_batches))

    def take(
        self, const int64_t[::1] rows, Py_ssize_t num, Py_ssize_t num_batches=0, dict out=None, bint by_number=False,
        bint steps=False,
    ):
        """The rows of these ages (or numbers), laid out as `sample` does; None if one of them is not held.

        Single ones, unless `steps` says that they are to be of several steps where batches are so.
        """
        cdef Py_ssize_t total = rows.shape[0]
        cdef Block block = self.new_batch(total, 0, out, whole=True, steps=steps and self.steps.most > 0)
        cdef bint held = False
        cdef int i
        cdef int64_t origin = 0, oldest
        if total > 0:
            memcpy(block.ages, &rows[0], total * sizeof(int64_t))
        acquire(self.lock)
        with nogil:
            for i in range(TRIES):
                held = self.refresh_cursor()
                oldest = oldest_row(&self.rows)
                if by_number:
                    subtract(block.ages, total, oldest - origin)
                    origin = oldest
                held = held and all_held(&self.rows, block.ages, total)
                if not held or self.copy_rows(block, total):
                    break
                held = False
        release(self.lock)
        if not held:
            return None
        return self.arrays(block, num, num_batches) if out is None else out

    cdef void gather_rows(self, Block block, Py_ssize_t total, bitgen_t* source) noexcept nogil:
        gather(&self.rows, block.ages, total, block.fields, source)
        if block.discounts != NULL:
            self.gather_steps(block, total)
        if self.num_sharings > 0:
            if not self.are_whole(block, total):
                return  # numbers written over name no frames; are_whole sees it again
            if self.prefetches_from_disk:
                ask_for_frames(self.sharings, self.num_sharings, block.fields, total)
            unshare_all(self.sharings, self.num_sharings, block.fields, total, block.columns)

    cdef void gather_steps(self, Block block, Py_ssize_t total) noexcept nogil:
        cdef float* rewards = <float*>block.fields[self.steps.reward]
        block.is_broken = not walk(
            &self.rows, &self.steps, block.ages, total, block.lasts, rewards, block.discounts
        )
        self.steps.after.cursor = self.rows.cursor
        if not block.is_broken:
            gather(&self.steps.after, block.lasts, total, block.after, NULL)

    def read(self, int64_t first, Py_ssize_t num):
        """Rows `first` to `first + num` by number, those that share frames as `frame_column`s; None if one is not held."""
        cdef Block block = self.new_batch(num, 0, None, whole=False)
        cdef Py_ssize_t i
        cdef dict rows
        acquire(self.lock)
        try:
            if not self.find_ages(block, first, num):
                return None
            gather(&self.rows, block.ages, num, block.fields, NULL)
            rows = self.arrays(block, num, 0)
            if not self.are_whole(block, num):
                return None  # numbers written over name no frames
            for i in range(self.num_sharings):
                self.read_frames(&self.sharings[i], block, num, rows)
            return rows if self.are_whole(block, num) else None
        finally:
            release(self.lock)

    cdef bint find_ages(self, Block block, int64_t first, Py_ssize_t num) noexcept nogil:
        """Sets the block's ages to those of rows `first` to `first + num` by number; False if one is not held."""
        cdef Py_ssize_t i
        if not self.refresh_cursor():
            return False
        for i in range(num):
            block.ages[i] = first - oldest_row(&self.rows) + i
        return all_held(&self.rows, block.ages, num)

    def read_keys(self, int64_t first, Py_ssize_t num, dict out):
        """Copies rows `first` to `first + num` by number to an array for each of some keys that share no frames.

        The caller has checked the arrays. False if one of the rows is not held.
        """
        cdef Block block = self.new_batch(num, 0, {})
        cdef Records some
        cdef Field* fields = <Field*>PyMem_Malloc(len(out) * sizeof(Field) + 1)
        cdef Py_ssize_t i
        cdef bint held
        if fields == NULL:
            raise MemoryError("the fields of a few keys: the system gave no memory")
        acquire(self.lock)
        held = self.find_ages(block, first, num)
        some = self.rows
        some.fields, some.num_fields = fields, 0
        for i in range(self.num_keys):
            if self.names[i] in out:
                fields[some.num_fields] = self.rows.fields[i]
                block.columns[some.num_fields] = <char*>cnp.PyArray_DATA(<cnp.ndarray>out[self.names[i]])
                some.num_fields += 1
        if held:
            with nogil:
                gather(&some, block.ages, num, block.columns, NULL)
            held = self.are_whole(block, num)
        release(self.lock)
        PyMem_Free(fields)
        return held

    cdef int read_frames(self, Sharing* sharing, Block block, Py_ssize_t num, dict rows) except -1:
        """Puts the columns that share frames into `rows`, frames numbered in the order in which rows need them."""
        cdef Py_ssize_t i, key, count, total = num * sharing.stack
        cdef Py_ssize_t first = sharing.keys[0], last = sharing.keys[sharing.num_columns - 1]
        cdef cnp.npy_intp[2] dims
        cdef int64_t* order = <int64_t*>PyMem_Malloc((2 * total + 1) * sizeof(int64_t))
        dims[0], dims[1] = num, sharing.stack
        indices = {key: cnp.PyArray_SimpleNew(2, dims, cnp.NPY_INT32) for key in {first, last}}
        if order == NULL:
            raise MemoryError("the numbers of a few frames: the system gave no memory")
        try:
            count = number_frames(
                sharing, <uint32_t*>block.fields[first], <uint32_t*>block.fields[last], num,
                <int*>cnp.PyArray_DATA(<cnp.ndarray>indices[first]), <int*>cnp.PyArray_DATA(<cnp.ndarray>indices[last]),
                order,
            )
            if count < 0:
                raise MemoryError("the numbers of a few frames: the system gave no memory")
            axis = self.shared[self.sharing_of[first]][2]
            frames = np.empty((count, *frame_shape(self.shapes[first], sharing.stack, axis)), self.dtypes[first])
            for i in range(count):
                memcpy(
                    <char*>cnp.PyArray_DATA(<cnp.ndarray>frames) + i * sharing.store.nbytes,
                    frame_at(&sharing.store, order[i]), sharing.store.nbytes,
                )
        finally:
            PyMem_Free(order)
        for key in indices:
            rows[self.names[key]] = self.frame_column(frames, indices[key], axis)
        return 0

    cdef void draw_ages(self, Block block, Py_ssize_t total, Py_ssize_t num, bint distinct) noexcept nogil:
        cdef Py_ssize_t first = 0
        cdef int64_t held = num_held(&self.rows)
        if distinct:
            while first < total:
                draw_distinct(self.source, held, block.ages + first, num, block.table)
                first += num
        else:
            draw(self.source, held, block.ages, total)
        self.keep_state()

    cdef Block new_batch(self, Py_ssize_t total, Py_ssize_t table, dict out, bint whole=True, bint steps=False):
        """A block with room for `total` rows; where `out` is given its arrays are the columns instead.

        Unless `whole`, there is no room for rows of columns that share frames, only for the numbers of their frames.
        """
        cdef Py_ssize_t i, at, num = self.rows.num_fields
        cdef Py_ssize_t nbytes = lines(2 * num * sizeof(char*)) + lines(total * sizeof(int64_t)) + lines(table)
        for i in range(num):
            nbytes += lines(total * self.rows.fields[i].nbytes) if self.is_between(i, out) else 0
            if i < self.num_keys and out is None and (whole or self.sharing_of[i] < 0):
                nbytes += lines(total * self.key_nbytes[i])
        if steps:
            nbytes += lines(num * sizeof(char*)) + lines(total * sizeof(int64_t)) + lines(total * sizeof(float))
        cdef Block block = new_block(self.pool, nbytes)
        block.fields = <char**>block.memory.data
        block.columns = block.fields + num
        at = lines(2 * num * sizeof(char*))
        block.ages = <int64_t*>(block.memory.data + at)
        at += lines(total * sizeof(int64_t))
        block.table = <int64_t*>(block.memory.data + at)
        at += lines(table)
        for i in range(self.num_keys):
            if out is None and not whole and self.sharing_of[i] >= 0:
                block.columns[i] = NULL
            elif out is None:
                block.columns[i] = block.memory.data + at
                at += lines(total * self.key_nbytes[i])
            elif out:
                block.columns[i] = <char*>cnp.PyArray_DATA(<cnp.ndarray>out[self.names[i]])
        for i in range(num):
            if self.is_between(i, out):
                block.fields[i] = block.memory.data + at
                at += lines(total * self.rows.fields[i].nbytes)
            elif i < self.num_keys:
                block.fields[i] = block.columns[i]
        block.discounts = NULL
        if steps:
            block.after = <char**>(block.memory.data + at)
            at += lines(num * sizeof(char*))
            block.lasts = <int64_t*>(block.memory.data + at)
            at += lines(total * sizeof(int64_t))
            block.discounts = <float*>(block.memory.data + at)
            for i in range(self.steps.after.num_fields):
                block.after[i] = block.fields[self.after_fields[i]]
        return block

    cdef bint is_between(self, Py_ssize_t i, dict out) noexcept:
        """Whether the field's rows are no column of a batch, but numbers of its frames."""
        return (i >= self.num_keys or self.sharing_of[i] >= 0) and (out is None or len(out) > 0)

    cdef dict arrays(self, Block block, Py_ssize_t num, Py_ssize_t num_batches):
        cdef dict batch = {}
        cdef Py_ssize_t i
        cdef cnp.npy_intp[MAX_DIMS] dims
        cdef int num_lead = lead_dims(dims, num, num_batches)
        if block.is_broken:
            raise AlternatingAgentsError(self.names[self.steps.end], self.names[self.steps.agent])
        if block.discounts != NULL:
            batch["discount"] = new_array(block, <char*>block.discounts, FLOAT32, dims, num_lead)
        for i in range(self.num_keys):
            if block.columns[i] == NULL:
                continue
            memcpy(dims + num_lead, self.row_shapes[i].dims, self.row_shapes[i].num_dims * sizeof(cnp.npy_intp))
            batch[self.names[i]] = new_array(
                block, block.columns[i], self.dtypes[i], dims, num_lead + self.row_shapes[i].num_dims
            )
        return batch


cdef cnp.dtype INT64 = cnp.PyArray_DescrFromType(cnp.NPY_INT64)
cdef cnp.dtype FLOAT32 = cnp.PyArray_DescrFromType(cnp.NPY_FLOAT32)
cdef cnp.dtype UINT8 = cnp.PyArray_DescrFromType(cnp.NPY_UINT8)


cdef tuple frame_shape(tuple shape, int stack, int axis):
    """Shape of the frames of which rows of `shape` are stacks; a stack of one frame along axis 0 has no axis for it."""
    return shape if stack == 1 and axis == 0 else shape[:axis] + shape[axis + 1:]


cdef inline void* new_reference(object owned) noexcept:
    """For a C function that takes its reference over."""
    Py_INCREF(owned)
    return <void*>owned


cdef inline Py_ssize_t lines(Py_ssize_t nbytes) noexcept nogil:
    return round_up(nbytes, REALLY_LINE)


cdef inline int lead_dims(cnp.npy_intp* dims, Py_ssize_t num, Py_ssize_t num_batches) noexcept:
    if num_batches == 0:
        dims[0] = num
        return 1
    dims[0] = num_batches
    dims[1] = num
    return 2


cdef inline object new_array(Block block, char* data, cnp.dtype dtype, cnp.npy_intp* dims, int num_dims):
    array = PyArray_NewFromDescr(
        &PyArray_Type, new_reference(dtype), num_dims, dims, NULL, data, cnp.NPY_ARRAY_CARRAY, NULL
    )
    cnp.set_array_base(array, block)
    return array


cdef inline void subtract(int64_t* numbers, Py_ssize_t num, int64_t origin) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(num):
        numbers[i] -= origin


cdef inline bint all_held(const Records* records, const int64_t* ages, Py_ssize_t num) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t held = num_held(records)
    for i in range(num):
        if ages[i] < 0 or ages[i] >= held:
            return False
    return True


cdef inline bint none_below(const int64_t* ages, Py_ssize_t num, int64_t first) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(num):
        if ages[i] < first:
            return False
    return True
