"""The replay ring: `Ring` holds rows as records and gives batches of them; `ReplayBuffer` is its one user.

Reading order: record.pxd (what a row is), scatter.pxd (in), gather.pxd (out), bounded_random.pxd (which rows),
pool.pxd (where batches live), page.pxd (what outlives the process), lock.pxd, then this file, which ties them to Python. One lock guards rows and generator; whoever
holds it waits for nothing, the GIL included, so a holder always comes to release it.
"""

cimport cython
cimport numpy as cnp
from cpython.dict cimport PyDict_GetItemWithError
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.pythread cimport PyThread_allocate_lock, PyThread_free_lock, PyThread_type_lock
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport INT64_MAX, int64_t
from libc.math cimport isinf
from libc.string cimport memcmp, memcpy, memset
from numpy.random cimport bitgen_t

from bounded_random cimport draw, draw_distinct, table_nbytes
from gather cimport BLOCK, ask_for_rows, gather, prefetch_rows
from lock cimport hold, let_go
from memory cimport REALLY_LINE, really_commit, really_lines_free, really_lines_new, really_pages_release, really_pages_reserve
from page cimport STATE, Page, first_untouched, read_cursor, store_state
from pool cimport FreeBlocks, Memory, give_block, release_block, take_block
from record cimport STAGE, Column, Cursor, Field, Records, Seam, lay_out, num_held, oldest_row, oldest_slot, round_up
from scatter cimport append

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
    REFUSED = 0
    DONE = 1
    NO_ROOM = 2  # the system has yet to set memory aside for the rows

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
    cdef char** columns  # [num_fields], where each key's rows go
    cdef int64_t* ages  # [num_rows], which rows
    cdef int64_t* table  # room for drawing without replacement

    def __dealloc__(self):
        if self.memory.data != NULL:
            give_block(&self.pool.free, self.memory)


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
    all of one length. `storage` is None for memory of the ring's own; else it owns what the ring works in, and the ring
    keeps it alive: `storage.records` uint8 [slots * stride] and `storage.page` uint8 [4096] with the cursor, of which nothing
    is written unless `storage.writable`. `storage.make_room(ring, num_rows)` is called before so many rows are written
    beyond `room`, and raises where they cannot be.
    """

    cdef object __weakref__
    cdef Records rows
    cdef Cursor cursor
    cdef PyThread_type_lock lock
    cdef int64_t kept_from  # number of the first row that must not be dropped
    cdef bitgen_t* source
    cdef readonly object bit_generator
    cdef readonly list names
    cdef readonly list dtypes
    cdef readonly list shapes
    cdef readonly Py_ssize_t quick_rows  # how many rows a batch may have without a look at the memory that is left
    cdef Shape* row_shapes  # [num_fields], `shapes` for C
    cdef Pool pool
    cdef readonly object storage
    cdef Page* page  # NULL in memory of the ring's own
    cdef bint writes  # the page and the records are this process's to write
    cdef readonly int64_t room  # rows of numbers below it can be written
    cdef public bint asks_early  # the disk is asked for all rows of a batch before they are copied

    def __cinit__(self, int64_t capacity, list names, list dtypes, list shapes, bit_generator, storage=None):
        cdef Py_ssize_t i, num = len(names)
        self.names, self.dtypes, self.shapes = names, dtypes, shapes
        self.pool = Pool.__new__(Pool)
        self.bit_generator = bit_generator
        self.source = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
        self.rows.capacity = self.rows.num_slots = capacity
        self.rows.cursor = &self.cursor
        self.kept_from = NO_ROW
        self.rows.num_fields = num
        self.rows.fields = <Field*>PyMem_Calloc(max(num, 1), sizeof(Field))
        self.rows.seams = <Seam*>PyMem_Calloc(num + 1, sizeof(Seam))
        self.row_shapes = <Shape*>PyMem_Calloc(max(num, 1), sizeof(Shape))
        self.lock = PyThread_allocate_lock()
        if self.rows.fields == NULL or self.rows.seams == NULL or self.row_shapes == NULL or self.lock == NULL:
            raise MemoryError("the ring's own few bytes: the system gave no memory")
        for i in range(num):
            self.rows.fields[i].nbytes = self.set_shape(i)
        lay_out(&self.rows)
        self.quick_rows = QUICK // self.rows.stride
        self.rows.stage = <char*>really_lines_new(STAGE)
        if storage is None:
            self.writes, self.room = True, INT64_MAX
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
            self.look()
        return 0

    cdef void look(self) noexcept nogil:
        """Of a page that another process writes, takes the cursor as it is now; the lock is held."""
        if not self.writes:
            read_cursor(self.page, &self.cursor)

    cdef Py_ssize_t set_shape(self, Py_ssize_t i) except -1:
        cdef Py_ssize_t axis, nbytes = self.dtypes[i].itemsize
        for axis in self.shapes[i]:
            self.row_shapes[i].dims[self.row_shapes[i].num_dims] = axis
            self.row_shapes[i].num_dims += 1
            nbytes *= axis
        return nbytes

    def __dealloc__(self):
        if self.storage is None:
            really_pages_release(self.rows.data, self.rows.num_slots * self.rows.stride)
        really_lines_free(self.rows.stage)
        PyMem_Free(self.rows.fields)
        PyMem_Free(self.rows.seams)
        PyMem_Free(self.row_shapes)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    def __len__(self):
        if self.writes:
            return num_held(&self.rows)
        oldest, num_put = self.held_rows()
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
        return [self.rows.fields[i].offset for i in range(self.rows.num_fields)]

    def records(self):
        """The rows held as one or two uint8 arrays [n, stride], oldest first: read-only views of the ring itself."""
        hold(self.lock)
        self.look()
        cdef int64_t oldest = oldest_slot(&self.rows), size = num_held(&self.rows)
        let_go(self.lock)
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
        hold(self.lock)

    def release(self):
        """Gives the lock back."""
        let_go(self.lock)

    def held_rows(self):
        """Numbers of the oldest row held and of the row to come, as they are together."""
        hold(self.lock)
        self.look()
        numbers = oldest_row(&self.rows), self.rows.cursor.num_put
        let_go(self.lock)
        return numbers

    def keep_held(self):
        """`held_rows`, none of which `put` and `clear` drop until `keep_from` lets them go."""
        hold(self.lock)
        self.look()
        numbers = oldest_row(&self.rows), self.rows.cursor.num_put
        self.kept_from = min(self.kept_from, <int64_t>numbers[0])
        let_go(self.lock)
        return numbers

    def keep_from(self, int64_t number=NO_ROW):
        """`put` and `clear` refuse to drop the rows from this number on; by default they may drop all."""
        hold(self.lock)
        self.kept_from = number
        let_go(self.lock)

    def clear(self):
        """Drops all rows; False, with nothing done, if one of them is kept."""
        hold(self.lock)
        cdef bint may = self.writes and self.kept_from >= self.rows.cursor.num_put
        if may:
            really_commit(&self.rows.cursor.first, self.rows.cursor.num_put)
        let_go(self.lock)
        return may

    def set_room(self, int64_t number):
        """From now on rows of numbers below this one can be written."""
        hold(self.lock)
        if self.writes:
            self.room = number
        let_go(self.lock)

    def leave(self):
        """Writes to the storage no more, as if another process had opened it; what is held can still be read."""
        hold(self.lock)
        self.writes, self.room, self.rows.cursor = False, -1, &self.cursor
        self.look()
        let_go(self.lock)

    def generator_bytes(self):
        """The generator's state as it is in memory; the lock is held, or nobody else draws."""
        return (<const char*>self.source.state)[:STATE]

    def store_generator(self):
        """Keeps the generator's state where it outlives the process; the lock is held, or nobody else draws."""
        if self.page != NULL and self.writes:
            store_state(self.page, self.source.state)

    # In -----------------------------------------------------------------------------------------------------------

    def put(self, dict data):
        """Appends a row or rows that need no conversion; False, with nothing done, if they do or are wrong, or if
        rows that are kept would be dropped. Raises what `storage.make_room` does, with nothing done either."""
        cdef Py_ssize_t i, num = self.rows.num_fields
        cdef int64_t num_rows = UNKNOWN
        cdef int outcome
        cdef PyObject* value
        cdef list held = []  # another thread may empty `data` while the GIL is away
        cdef Column* columns = <Column*>PyMem_Malloc((num + 1) * (sizeof(Column) + SCALAR))
        cdef char* scalars = <char*>(columns + num)  # this call's own: the wait for the lock lets other puts in
        if columns == NULL:
            raise MemoryError("a put's own few bytes: the system gave no memory")
        try:
            for i in range(num):
                value = PyDict_GetItemWithError(data, self.names[i])
                if value == NULL or not self.find_column(<object>value, i, scalars + i * SCALAR, &columns[i], &num_rows):
                    return False
                held.append(<object>value)
            if num_rows == ONE_ROW:
                num_rows = 1
            while True:
                outcome = self.append_columns(columns, num_rows)
                if outcome != NO_ROOM:
                    return outcome == DONE
                self.storage.make_room(self, num_rows)
        finally:
            PyMem_Free(columns)

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
        elif self.row_shapes[i].num_dims == 0 and self.store_scalar(value, i, scalar):
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

    cdef bint store_scalar(self, value, Py_ssize_t i, char* to) except -1:
        """Writes a number as field `i` holds it if that loses nothing; False if it would or cannot be told."""
        cdef int kind = (<cnp.dtype>self.dtypes[i]).type_num
        cdef int overflow = 0
        cdef long long whole
        if PyFloat_Check(value):
            return store_float(to, kind, PyFloat_AS_DOUBLE(value))
        if PyLong_CheckExact(value):
            whole = PyLong_AsLongLongAndOverflow(value, &overflow)
            return overflow == 0 and store_whole(to, kind, whole)
        if value is True or value is False:
            return store_bool(to, kind, value is True)
        if not cnp.PyArray_CheckScalar(value) or cnp.PyArray_Check(value) or not (cnp.PyTypeNum_ISNUMBER(kind) or kind == cnp.NPY_BOOL):
            return False
        if not cnp.PyArray_EquivTypes(cnp.PyArray_DescrFromScalar(value), <cnp.dtype>self.dtypes[i]):
            return False
        cnp.PyArray_ScalarAsCtype(value, to)
        return True

    cdef int append_columns(self, Column* columns, int64_t num_rows) noexcept:
        cdef bint may
        hold(self.lock)
        if self.rows.cursor.num_put + min(num_rows, self.rows.capacity) > self.room:
            let_go(self.lock)
            return NO_ROOM
        may = num_rows == 0 or self.rows.cursor.num_put - max(self.rows.capacity - num_rows, <int64_t>0) <= self.kept_from
        if may and num_rows * self.rows.stride <= SMALL:
            append(&self.rows, columns, num_rows)
        elif may:
            with nogil:
                append(&self.rows, columns, num_rows)
        let_go(self.lock)
        return DONE if may else REFUSED

    # Out ----------------------------------------------------------------------------------------------------------

    def sample(self, Py_ssize_t num, Py_ssize_t num_batches=0, bint distinct=False, dict out=None):
        """A batch of `num` rows drawn from all held; with `num_batches`, that many on a leading axis.

        `distinct` draws each batch without replacement. `out` holds an array for every name, which the caller
        has checked. None if there are too few rows, or if another process drops them as fast as they are copied.
        """
        cdef Py_ssize_t total = num * max(num_batches, <Py_ssize_t>1)
        cdef Block block = self.new_batch(total, table_nbytes(num) if distinct else 0, out)
        cdef bint drawn
        hold(self.lock)
        if total * self.rows.stride <= SMALL and not self.asks_early:
            drawn = self.draw_rows(block, total, num, distinct)
        else:
            with nogil:
                drawn = self.draw_rows(block, total, num, distinct)
        let_go(self.lock)
        if not drawn:
            return None
        return self.arrays(block, num, num_batches) if out is None else out

    cdef bint draw_rows(self, Block block, Py_ssize_t total, Py_ssize_t num, bint distinct) noexcept nogil:
        cdef int i
        for i in range(TRIES):
            self.look()
            if num_held(&self.rows) < (num if distinct else 1):
                return False
            self.draw_ages(block, total, num, distinct)
            if self.copy_rows(block, total):
                return True
        return False

    cdef bint copy_rows(self, Block block, Py_ssize_t total) noexcept nogil:
        """Copies the rows of the block's ages; False if another process has begun to write over one of them."""
        cdef int64_t first
        if self.asks_early:
            ask_for_rows(&self.rows, block.ages, total)
        gather(&self.rows, block.ages, total, block.columns)
        if self.writes:
            return True
        first = first_untouched(self.page, self.rows.num_slots) - oldest_row(&self.rows)
        return first <= 0 or none_below(block.ages, total, first)

    def fits(self, out, Py_ssize_t num, Py_ssize_t num_batches=0):
        """Whether `out` is a dict of arrays, one for every name, that a batch can be written to as it is."""
        cdef cnp.npy_intp[MAX_DIMS] dims
        cdef int num_lead = lead_dims(dims, num, num_batches)
        cdef PyObject* array
        cdef Py_ssize_t i
        if type(out) is not dict:
            return False
        for i in range(self.rows.num_fields):
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
        hold(self.lock)
        self.look()
        if num_held(&self.rows) < (num if distinct else 1):
            let_go(self.lock)
            return None
        with nogil:
            self.draw_ages(block, total, num, distinct)
        let_go(self.lock)
        cdef cnp.npy_intp[MAX_DIMS] dims
        return new_array(block, <char*>block.ages, INT64, dims, lead_dims(dims, num, num_batches))

    def take(
        self, const int64_t[::1] rows, Py_ssize_t num, Py_ssize_t num_batches=0, dict out=None, bint by_number=False
    ):
        """The rows of these ages (or numbers), laid out as `sample` does; None if one of them is not held."""
        cdef Py_ssize_t total = rows.shape[0]
        cdef Block block = self.new_batch(total, 0, out)
        cdef bint held = False
        cdef int i
        cdef int64_t origin = 0, oldest
        if total > 0:
            memcpy(block.ages, &rows[0], total * sizeof(int64_t))
        hold(self.lock)
        with nogil:
            for i in range(TRIES):
                self.look()
                oldest = oldest_row(&self.rows)
                if by_number:
                    subtract(block.ages, total, oldest - origin)
                    origin = oldest
                held = all_held(&self.rows, block.ages, total)
                if not held or self.copy_rows(block, total):
                    break
                held = False
        let_go(self.lock)
        if not held:
            return None
        return self.arrays(block, num, num_batches) if out is None else out

    cdef void draw_ages(self, Block block, Py_ssize_t total, Py_ssize_t num, bint distinct) noexcept nogil:
        cdef Py_ssize_t first = 0
        cdef int64_t held = num_held(&self.rows)
        if not distinct:
            # Memory begins to bring the first rows while the others are drawn.
            first = min(total, <Py_ssize_t>BLOCK)
            draw(self.source, held, block.ages, first)
            prefetch_rows(&self.rows, block.ages, first)
            draw(self.source, held, block.ages + first, total - first)
            first = total
        while first < total:
            draw_distinct(self.source, held, block.ages + first, num, block.table)
            first += num
        if self.page != NULL and self.writes:
            store_state(self.page, self.source.state)

    cdef Block new_batch(self, Py_ssize_t total, Py_ssize_t table, dict out):
        """A block with room for `total` rows; where `out` is given its arrays are the columns instead."""
        cdef Py_ssize_t i, at, num = self.rows.num_fields
        cdef Py_ssize_t nbytes = lines(num * sizeof(char*)) + lines(total * sizeof(int64_t)) + lines(table)
        if out is None:
            for i in range(num):
                nbytes += lines(total * self.rows.fields[i].nbytes)
        cdef Block block = new_block(self.pool, nbytes)
        block.columns = <char**>block.memory.data
        at = lines(num * sizeof(char*))
        block.ages = <int64_t*>(block.memory.data + at)
        at += lines(total * sizeof(int64_t))
        block.table = <int64_t*>(block.memory.data + at)
        at += lines(table)
        for i in range(num):
            if out is None:
                block.columns[i] = block.memory.data + at
                at += lines(total * self.rows.fields[i].nbytes)
            elif out:
                block.columns[i] = <char*>cnp.PyArray_DATA(<cnp.ndarray>out[self.names[i]])
        return block

    cdef dict arrays(self, Block block, Py_ssize_t num, Py_ssize_t num_batches):
        cdef dict batch = {}
        cdef Py_ssize_t i
        cdef cnp.npy_intp[MAX_DIMS] dims
        cdef int num_lead = lead_dims(dims, num, num_batches)
        for i in range(self.rows.num_fields):
            memcpy(dims + num_lead, self.row_shapes[i].dims, self.row_shapes[i].num_dims * sizeof(cnp.npy_intp))
            batch[self.names[i]] = new_array(
                block, block.columns[i], self.dtypes[i], dims, num_lead + self.row_shapes[i].num_dims
            )
        return batch


cdef cnp.dtype INT64 = cnp.PyArray_DescrFromType(cnp.NPY_INT64)
cdef cnp.dtype UINT8 = cnp.PyArray_DescrFromType(cnp.NPY_UINT8)


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


cdef inline bint store_float(char* to, int kind, double value) noexcept:
    cdef float single = <float>value
    if kind == cnp.NPY_FLOAT64:
        memcpy(to, &value, sizeof(double))
    elif kind == cnp.NPY_FLOAT32 and isinf(single) == isinf(value):
        memcpy(to, &single, sizeof(float))
    else:
        return False
    return True


cdef inline bint store_whole(char* to, int kind, int64_t value) noexcept:
    if kind == cnp.NPY_INT64:
        memcpy(to, &value, sizeof(int64_t))
        return True
    return -(1 << 24) <= value <= 1 << 24 and store_float(to, kind, <double>value)


cdef inline bint store_bool(char* to, int kind, bint value) noexcept:
    if kind == cnp.NPY_BOOL:
        to[0] = value
        return True
    return store_float(to, kind, <double>value)
