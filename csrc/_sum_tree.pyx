"""`SumTree`: the priorities of a ring's rows; `really.replay.Priorities` is its only user.

Reading order: sums.pxd (the tree), proportional.pxd (drawing and importance weights), window.pxd (which row is in which
slot), then this file, which makes them a Python class. One lock guards everything, as in _ring.pyx.
"""

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t
from numpy.random cimport bitgen_t

from bounded_random cimport draw
from generator cimport copied_state
from lock cimport Lock, acquire, acquire_without_gc, free_lock, new_lock, release, release_with_gc
from memory cimport really_pages_release, really_pages_reserve
from proportional cimport Exponents, draw_targets, is_valid_priority, scaled_priority, weigh
from sums cimport Sums, find, least_positive, lay_out_sums, place_sums, set_values, total
from window cimport (
    Window,
    admit,
    drop_before,
    hide_from,
    put_rows,
    row_in_slot,
    set_bounds,
    set_rows,
    show_from,
    slot_of_row,
)

cnp.import_array()

cdef enum:
    SMALL = 1 << 11  # rows; so few are done before another thread could take the GIL

cdef double LARGEST = 2.0**960
"""The largest value of a row: the sum of all values of a tree stays finite."""


@cython.final
cdef class SumTree:
    """The values of the newest `capacity` rows. A row's number is the number of rows before it.

    The caller checks arguments: 0 <= alpha, 0 <= eps, row numbers from 0 to 2**62, contiguous arrays.
    """

    cdef object __weakref__
    cdef Sums tree
    cdef Window window
    cdef Exponents exponents
    cdef readonly double highest  # value of new rows: the largest ever set, at first that of priority 1
    cdef char* memory
    cdef Py_ssize_t tree_nbytes
    cdef readonly Py_ssize_t nbytes  # of the tree and the hidden values, if the tree is full
    cdef Lock* lock
    cdef bint is_forking  # `acquire` has taken the lock
    cdef bitgen_t* source
    cdef readonly object bit_generator

    def __cinit__(self, int64_t capacity, double alpha, double eps, bit_generator):
        self.bit_generator = bit_generator
        self.source = <bitgen_t*>PyCapsule_GetPointer(bit_generator.capsule, "BitGenerator")
        self.exponents.alpha, self.exponents.eps = alpha, eps
        self.highest = scaled_priority(self.exponents, 1.0)
        self.window.capacity = capacity
        self.tree_nbytes = lay_out_sums(&self.tree, capacity)
        self.nbytes = self.tree_nbytes + capacity * sizeof(double)
        self.memory = <char*>really_pages_reserve(self.nbytes)
        self.lock = new_lock()
        if self.memory == NULL or self.lock == NULL:
            raise MemoryError(
                f"priorities of {capacity} rows: the system gave no address space for {self.nbytes} bytes"
            )
        place_sums(&self.tree, <double*>self.memory)
        self.window.hidden = <double*>(self.memory + self.tree_nbytes)

    def __dealloc__(self):
        really_pages_release(self.memory, self.nbytes)
        free_lock(self.lock)

    def __len__(self):
        return self.window.newest - self.window.oldest

    @property
    def oldest(self):
        """Number of the oldest row held."""
        return self.window.oldest

    @property
    def newest(self):
        """Number of the next row."""
        return self.window.newest

    @property
    def total(self):
        """Sum of all values."""
        return total(&self.tree)

    @property
    def least(self):
        """The smallest value above 0; 0 if there is none."""
        return least_positive(&self.tree)

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

    def generator_state(self):
        """The state of the generator, while no thread draws."""
        return copied_state(self.lock, self.bit_generator)

    def set_generator_state(self, dict state):
        """Sets the state of the generator while no thread draws."""
        cdef bint collects = acquire_without_gc(self.lock)
        try:
            self.bit_generator.state = state
        finally:
            release_with_gc(self.lock, collects)

    # In -----------------------------------------------------------------------------------------------------------

    def add(self, int64_t first, int64_t num):
        """Adds `num` rows from number `first` on, with the highest value; evicts the oldest beyond `capacity`."""
        acquire(self.lock)
        if num <= SMALL:
            self.add_rows(first, first + num)
        else:
            with nogil:
                self.add_rows(first, first + num)
        release(self.lock)

    cdef void add_rows(self, int64_t first, int64_t end) noexcept nogil:
        admit(&self.window, &self.tree, first, end)
        set_rows(&self.window, &self.tree, max(first, self.window.oldest), end, self.highest)

    def update(self, cnp.ndarray numbers not None, cnp.ndarray priorities not None, int64_t oldest, int64_t newest):
        """Sets the priorities [n] float64 of rows [n] int64; ignores rows before `oldest`.

        Returns how many were set. Returns ~i, with nothing done, if the row or the priority at i is invalid: rows are
        from 0 to before `newest`.
        """
        cdef Py_ssize_t num = cnp.PyArray_SIZE(numbers), num_set
        cdef const int64_t* rows = <const int64_t*>cnp.PyArray_DATA(numbers)
        cdef const double* given = <const double*>cnp.PyArray_DATA(priorities)
        cdef int64_t* slots = <int64_t*>PyMem_Malloc(num * (2 * sizeof(int64_t) + sizeof(double)) + 1)
        if slots == NULL:
            raise MemoryError(f"an update of {num} rows: the system gave no memory")
        acquire(self.lock)
        if num <= SMALL:
            num_set = self.update_rows(rows, given, num, oldest, newest, slots)
        else:
            with nogil:
                num_set = self.update_rows(rows, given, num, oldest, newest, slots)
        release(self.lock)
        PyMem_Free(slots)
        return num_set

    cdef Py_ssize_t update_rows(
        self, const int64_t* rows, const double* given, Py_ssize_t num, int64_t oldest, int64_t newest, int64_t* slots
    ) noexcept nogil:
        cdef double* values = <double*>(slots + 2 * num)
        cdef double highest = self.highest
        cdef Py_ssize_t i, num_set = 0
        oldest, newest = max(oldest, self.window.oldest), min(newest, self.window.newest)
        for i in range(num):
            values[num_set] = scaled_priority(self.exponents, given[i])
            if not (is_valid_priority(given[i]) and values[num_set] <= LARGEST and 0 <= rows[i] < newest):
                return ~i
            if rows[i] >= oldest:
                slots[num_set] = slot_of_row(&self.window, rows[i])
                highest = max(highest, values[num_set])
                num_set += 1
        set_values(&self.tree, slots, values, num_set, slots + num)
        self.highest = highest
        return num_set

    def set_drawable(self, const int64_t[::1] numbers, bint drawable):
        """Gives those of these rows that have the value 0 the highest value, or all of them the value 0.

        Ignores rows that are not held.
        """
        cdef Py_ssize_t i, num = numbers.shape[0], num_set = 0
        cdef int64_t* slots = <int64_t*>PyMem_Malloc(num * (2 * sizeof(int64_t) + sizeof(double)) + 1)
        cdef double* values = <double*>(slots + 2 * num)
        if slots == NULL:
            raise MemoryError(f"an update of {num} rows: the system gave no memory")
        acquire(self.lock)
        for i in range(num):
            if self.window.oldest <= numbers[i] < self.window.newest:
                slots[num_set] = slot_of_row(&self.window, numbers[i])
                values[num_set] = self.tree.sums[0][slots[num_set]]
                if not drawable or values[num_set] == 0.0:
                    values[num_set] = self.highest if drawable else 0.0
                num_set += 1
        set_values(&self.tree, slots, values, num_set, slots + num)
        release(self.lock)
        PyMem_Free(slots)

    def clear(self):
        """Removes all rows; the next row keeps its number."""
        acquire(self.lock)
        with nogil:
            drop_before(&self.window, &self.tree, self.window.newest)
            self.highest = scaled_priority(self.exponents, 1.0)
        release(self.lock)

    def load(self, int64_t newest, cnp.ndarray values not None, double highest):
        """Replaces all rows by the n <= capacity rows before `newest`, with these values [n] float64."""
        cdef const double* given = <const double*>cnp.PyArray_DATA(values)
        cdef int64_t first = newest - cnp.PyArray_SIZE(values)
        acquire(self.lock)
        with nogil:
            drop_before(&self.window, &self.tree, self.window.newest)
            set_bounds(&self.window, first, newest)
            put_rows(&self.window, &self.tree, first, newest, given)
            self.highest = highest
        release(self.lock)

    # Out ----------------------------------------------------------------------------------------------------------

    def sample(self, Py_ssize_t num, Py_ssize_t num_batches, double beta, int64_t oldest, int64_t newest):
        """Draws `num` rows from `oldest` to before `newest`: numbers int64, importance weights float32.

        With `num_batches`, that many batches on a leading axis. Returns None if no such row is held. Removes rows
        before `oldest` for good.
        """
        cdef Py_ssize_t batches = max(num_batches, <Py_ssize_t>1)
        cdef int num_dims = 2 if num_batches > 0 else 1
        cdef bint found
        cdef cnp.npy_intp[2] dims
        dims[0], dims[num_dims - 1] = batches, num
        cdef cnp.ndarray numbers = cnp.PyArray_EMPTY(num_dims, dims, cnp.NPY_INT64, 0)
        cdef cnp.ndarray weights = cnp.PyArray_EMPTY(num_dims, dims, cnp.NPY_FLOAT32, 0)
        cdef int64_t* rows = <int64_t*>cnp.PyArray_DATA(numbers)
        cdef float* importance = <float*>cnp.PyArray_DATA(weights)
        cdef double* targets = <double*>PyMem_Malloc(num * sizeof(double))
        if targets == NULL:
            raise MemoryError(f"a batch of {num} rows: the system gave no memory")
        acquire(self.lock)
        if num * batches <= SMALL:
            found = self.sample_rows(num, batches, beta, oldest, newest, targets, rows, importance)
        else:
            with nogil:
                found = self.sample_rows(num, batches, beta, oldest, newest, targets, rows, importance)
        release(self.lock)
        PyMem_Free(targets)
        return (numbers, weights) if found else None

    cdef bint sample_rows(
        self, Py_ssize_t num, Py_ssize_t batches, double beta, int64_t oldest, int64_t newest,
        double* targets, int64_t* rows, float* weights,
    ) noexcept nogil:
        cdef Py_ssize_t i
        drop_before(&self.window, &self.tree, oldest)
        newest = min(newest, self.window.newest)
        if newest <= self.window.oldest:
            return False
        hide_from(&self.window, &self.tree, newest)
        if total(&self.tree) > 0.0:
            for i in range(batches):
                self.sample_batch(num, beta, targets, rows + i * num, weights + i * num)
        else:
            self.sample_evenly(num * batches, newest, rows, weights)
        show_from(&self.window, &self.tree, newest)
        return True

    cdef void sample_batch(
        self, Py_ssize_t num, double beta, double* targets, int64_t* rows, float* weights
    ) noexcept nogil:
        cdef Py_ssize_t i
        draw_targets(self.source, &self.tree, targets, num)
        find(&self.tree, targets, rows, num)
        weigh(&self.tree, rows, beta, weights, num)
        for i in range(num):
            rows[i] = row_in_slot(&self.window, rows[i])

    cdef void sample_evenly(self, Py_ssize_t num, int64_t newest, int64_t* rows, float* weights) noexcept nogil:
        cdef Py_ssize_t i
        draw(self.source, newest - self.window.oldest, rows, num)
        for i in range(num):
            rows[i] += self.window.oldest
            weights[i] = 1.0

    def state(self):
        """All at one moment: number of the next row, values [n] float64 of the rows held, oldest first, the highest
        value, and the state of the generator."""
        cdef bint collects = acquire_without_gc(self.lock)
        try:
            return self.window.newest, self.values(), self.highest, dict(self.bit_generator.state)
        finally:
            release_with_gc(self.lock, collects)

    cdef cnp.ndarray values(self):
        """The values of the rows held. Hold the lock."""
        cdef cnp.npy_intp[1] dims
        dims[0] = self.window.newest - self.window.oldest
        cdef cnp.ndarray values = cnp.PyArray_EMPTY(1, dims, cnp.NPY_FLOAT64, 0)
        cdef double* to = <double*>cnp.PyArray_DATA(values)
        cdef int64_t number
        for number in range(self.window.oldest, self.window.newest):
            to[number - self.window.oldest] = self.tree.sums[0][slot_of_row(&self.window, number)]
        return values
