"""The state of a ring, and all that its methods do without Python: they draw, copy and find rows with the lock held."""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from numpy.random cimport bitgen_t

from batch_layout cimport Batch
from bounded_random cimport draw, draw_distinct_batches
from compact cimport compact_all
from cursor_page cimport STATE, Page, first_untouched, read_cursor, store_state
from gather cimport gather, prefetch_rows_from_disk
from matching cimport Sharing, free_sharing
from memory cimport (
    really_aligned_free,
    really_aligned_new,
    really_load_acquire,
    really_store_release,
    really_stream_fence,
)
from n_step cimport Steps, free_steps, gather_steps
from recency cimport ALL_ROWS, Recency, draw_recent, num_drawable
from record cimport STAGE, Cursor, Field, Records, Seam, all_held, none_below, num_held, oldest_row, subtract
from removed cimport Removed, draw_left, follow_rows, free_removed, to_ages
from runs cimport clear_padding, copy_runs, may_copy_runs, set_ages
from shared_rows cimport follow_writers, prefetch_frames_from_disk, reconstruct_all
from starts cimport to_starts
from values cimport Key
from window_batch cimport TrajectoryParts, WindowBatch, fill_windows

cdef enum:
    TRIES = 100  # to copy a batch before another process overwrites one of its rows; and to await that process' updates

cdef struct RingState:
    Records rows
    Cursor cursor  # in memory; of a ring on disk that another process writes, the copy read last
    Page* page  # NULL in memory
    bint writes  # whether this process writes page and records
    int64_t num_rollbacks  # in a process that only reads: `page.num_rollbacks` when it began
    int64_t allocated_end  # rows with numbers below it have space in the file
    int64_t pinned_from  # number of the first row that must not be evicted
    bitgen_t* source
    Py_ssize_t num_keys
    Key* keys  # [num_keys]
    Py_ssize_t num_sharings
    Sharing* sharings  # [num_sharings]
    Py_ssize_t max_stack
    Steps steps
    Recency recency
    Removed removed
    int64_t num_removals  # in a process that only reads: `page.num_removals` when the file of removed rows was read
    int64_t num_updates  # in a process that only reads: `page.num_updates` when the rows were looked up
    bint prefetches_from_disk  # the system is told of all rows of a batch before they are copied


cdef inline bint allocate_tables(RingState* ring) noexcept nogil:
    """Allocates the tables of all fields, keys and sharings. Returns False if there is no memory."""
    cdef Py_ssize_t num = ring.rows.num_fields + 1
    ring.rows.fields = <Field*>calloc(num, sizeof(Field))
    ring.rows.seams = <Seam*>calloc(num, sizeof(Seam))
    ring.rows.stage = <char*>really_aligned_new(STAGE)
    ring.keys = <Key*>calloc(num, sizeof(Key))
    ring.sharings = <Sharing*>calloc(num, sizeof(Sharing))
    if ring.rows.stage != NULL:
        memset(ring.rows.stage, 0, STAGE)  # padding is streamed with the rows: make it zeros
    return (
        ring.rows.fields != NULL and ring.rows.seams != NULL and ring.rows.stage != NULL
        and ring.keys != NULL and ring.sharings != NULL
    )


cdef inline void free_tables(RingState* ring) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(ring.num_sharings):
        free_sharing(&ring.sharings[i])
    free_steps(&ring.steps)
    free_removed(&ring.removed)
    free(ring.sharings)
    free(ring.keys)
    really_aligned_free(ring.rows.stage)
    free(ring.rows.seams)
    free(ring.rows.fields)


cdef inline bint refresh_cursor(RingState* ring) noexcept nogil:
    """Reads the cursor and maps new frames if another process writes them. Hold the lock.

    Returns False if frames cannot be mapped, or if the ring was rolled back.
    """
    cdef Cursor found
    if ring.writes:
        follow_removed(ring)
        return True
    ring.num_updates = really_load_acquire(&ring.page.num_updates)
    read_cursor(ring.page, &found)
    if not 0 <= found.first <= found.num_put:
        return False  # damaged since it was opened: no slot has such rows
    ring.cursor.first, ring.cursor.num_put = found.first, found.num_put
    follow_removed(ring)
    return not is_rolled_back(ring) and follow_writers(ring.sharings, ring.num_sharings)


cdef inline void follow_removed(RingState* ring) noexcept nogil:
    if ring.removed.any:
        follow_rows(&ring.removed, oldest_row(&ring.rows), ring.rows.cursor.num_put)


cdef inline bint is_behind_removals(RingState* ring) noexcept nogil:
    """Whether the process that writes has removed rows that this one does not know of."""
    return not ring.writes and really_load_acquire(&ring.page.num_removals) != ring.num_removals


cdef inline int64_t num_left(const RingState* ring) noexcept nogil:
    """How many of the rows held are not removed."""
    return ring.removed.left.num if ring.removed.any else num_held(&ring.rows)


cdef inline bint is_rolled_back(RingState* ring) noexcept nogil:
    """Whether the process that writes has returned to a checkpoint since this one began to read."""
    return not ring.writes and really_load_acquire(&ring.page.num_rollbacks) != ring.num_rollbacks


cdef inline void roll_back(RingState* ring, int64_t num_put, int64_t first, const void* generator) noexcept nogil:
    """Makes the rows from `first` to before `num_put` those that are held, and sets the generator's state."""
    really_store_release(&ring.page.num_rollbacks, ring.page.num_rollbacks + 1)
    really_stream_fence()
    really_store_release(&ring.page.cursor.first, first)
    really_store_release(&ring.page.cursor.num_put, num_put)
    memcpy(ring.source.state, generator, STATE)
    keep_state(ring)


cdef inline void keep_state(RingState* ring) noexcept nogil:
    if ring.page != NULL and ring.writes:
        store_state(ring.page, ring.source.state)


cdef inline bint are_intact(RingState* ring, const Batch* batch, Py_ssize_t num_rows) noexcept nogil:
    """Whether no other process has started to overwrite a row of the batch, or to update rows."""
    return ring.writes or (
        none_below(batch.ages, num_rows, first_intact(ring) - oldest_row(&ring.rows)) and not is_rolled_back(ring)
        and not is_updated(ring)
    )


cdef inline bint is_updating(RingState* ring) noexcept nogil:
    """Whether the process that writes is in the middle of an update."""
    return not ring.writes and really_load_acquire(&ring.page.num_updates) % 2 == 1


cdef inline bint is_updated(RingState* ring) noexcept nogil:
    """Whether another process has updated rows since `refresh_cursor`; call it after `first_intact`.

    A batch that was not intact for that reason may be intact after that update.
    """
    return not ring.writes and (
        ring.num_updates % 2 == 1 or really_load_acquire(&ring.page.num_updates) != ring.num_updates
    )


cdef inline void begin_update(RingState* ring) noexcept nogil:
    """Tells processes that read the storage that rows change from now on."""
    if ring.page != NULL and ring.writes:
        really_store_release(&ring.page.num_updates, ring.page.num_updates | 1)
        really_stream_fence()


cdef inline void end_update(RingState* ring) noexcept nogil:
    """Tells them that the rows are whole."""
    if ring.page != NULL and ring.writes:
        really_store_release(&ring.page.num_updates, ring.page.num_updates + 1)


cdef inline int64_t first_intact(RingState* ring) noexcept nogil:
    """In a process that only reads, number of the oldest row that has not been overwritten."""
    cdef int64_t first = first_untouched(ring.page, ring.rows.num_slots)
    # The frames of an evicted row may be overwritten at once; its record is not yet.
    if ring.num_sharings == 0:
        return first
    return max(first, max(ring.page.cursor.first, ring.page.cursor.num_put - ring.rows.capacity))


cdef inline bint may_evict(RingState* ring, int64_t num_rows) noexcept nogil:
    """Whether `num_rows` new rows evict none that is pinned."""
    cdef int64_t oldest_then = ring.rows.cursor.num_put - max(ring.rows.capacity - num_rows, <int64_t>0)
    return num_rows == 0 or oldest_then <= ring.pinned_from


cdef inline bint draw_rows(
    RingState* ring, RingState* drawing, Batch* batch, Py_ssize_t total, Py_ssize_t num, bint distinct
) noexcept nogil:
    """Copies a batch of the rows that `drawing` draws: the ring itself, or another one of this process.

    Returns False if there are too few rows, if the other ring has not as many, or after TRIES copies of which none is
    intact. Only the copy that is intact counts as an update.
    """
    cdef int64_t update = drawing.recency.update
    cdef int i
    for i in range(TRIES):
        if not refresh_cursor(ring) or (drawing != ring and not has_as_many_rows(ring, drawing)):
            return False
        if num_choices(drawing) < (num if distinct else 1):
            return False
        if copy_drawn(ring, drawing, batch, total, num, distinct):
            return True
        drawing.recency.update = update
    return False


cdef inline bint has_as_many_rows(RingState* ring, RingState* drawing) noexcept nogil:
    """Whether both rings hold as many rows, of which as many are left."""
    return (
        refresh_cursor(drawing) and num_held(&ring.rows) == num_held(&drawing.rows)
        and num_left(ring) == num_left(drawing)
    )


cdef inline bint take_rows(RingState* ring, Batch* batch, Py_ssize_t total, bint by_number) noexcept nogil:
    """Copies the rows of the batch's ranks, or numbers. Returns False if one of them is not held."""
    cdef int64_t origin = 0, oldest
    cdef int i
    for i in range(TRIES):
        if not refresh_cursor(ring):
            return False
        oldest = oldest_row(&ring.rows)
        if not by_number and not to_held_ages(ring, batch.ages, total):
            return False
        if not by_number and ring.removed.any:
            by_number, origin = True, oldest
        elif by_number:
            subtract(batch.ages, total, oldest - origin)
            origin = oldest
        if not all_held(&ring.rows, batch.ages, total):
            return False
        if copy_rows(ring, batch, total):
            return True
    return False


cdef inline bint take_windows(
    RingState* ring, Batch* batch, const TrajectoryParts* index, WindowBatch* windows, Py_ssize_t burn_in, bint draws
) noexcept nogil:
    """Copies windows of an index of the ring's rows, whose starts are given or drawn. Returns False if there is no
    start, if a row is not held, or if another process overwrites one of them."""
    cdef Py_ssize_t i
    if not refresh_cursor(ring):
        return False
    if draws:
        if index.starts.rows.num == 0:
            return False
        draw(ring.source, index.starts.rows.num, windows.starts, windows.num)
        keep_state(ring)
        to_starts(index.starts, index.rows, windows.starts, windows.num)
    if index.rows.newest > ring.rows.cursor.num_put or not fill_windows(index, windows, burn_in):
        return False
    for i in range(windows.num):  # the rows of a window are ascending
        if windows.starts[i] < oldest_row(&ring.rows):
            return False
    return copy_windows(ring, batch, windows)


cdef inline bint copy_drawn(
    RingState* ring, RingState* drawing, Batch* batch, Py_ssize_t total, Py_ssize_t num, bint distinct
) noexcept nogil:
    """`copy_rows` for rows that `drawing` draws. Draws and copies block by block unless all row numbers are needed first
    (without replacement, to prefetch from disk, if new rows are preferred, or if most rows are removed)."""
    if distinct or ring.prefetches_from_disk or drawing.recency.kind != ALL_ROWS or are_most_removed(drawing):
        draw_ages(drawing, batch, total, num, distinct)
        return copy_rows(ring, batch, total)
    gather_rows(ring, batch, total, drawing.source)
    keep_state(drawing)
    return are_intact(ring, batch, total)


cdef inline bint copy_rows(RingState* ring, Batch* batch, Py_ssize_t total) noexcept nogil:
    """Copies the rows of the batch's ages. Returns False if another process has started to overwrite one of them."""
    if ring.prefetches_from_disk:
        prefetch_rows_from_disk(&ring.rows, batch.ages, total)
    gather_rows(ring, batch, total, NULL)
    return are_intact(ring, batch, total)


cdef inline void gather_rows(RingState* ring, Batch* batch, Py_ssize_t total, bitgen_t* source) noexcept nogil:
    """Gathers the fields, follows the steps and reconstructs the rows of shared frames."""
    cdef Records rows = ring.rows
    rows.num_fields = ring.num_keys  # no batch has the numbers of the oldest frames
    batch.misses_frames = False
    gather(&rows, batch.ages, total, batch.fields, source, &ring.removed if ring.removed.any else NULL)
    if batch.discounts != NULL:
        gather_steps(&ring.rows, &ring.steps, &ring.removed, batch, total)
    reconstruct_rows(ring, batch, total)


cdef inline void reconstruct_rows(RingState* ring, Batch* batch, Py_ssize_t total) noexcept nogil:
    """Reconstructs the rows of shared frames, whose numbers are gathered."""
    if ring.num_sharings > 0:
        if not are_intact(ring, batch, total):
            return  # an overwritten frame number may have no frame; the caller tests again
        if ring.prefetches_from_disk:
            prefetch_frames_from_disk(ring.sharings, ring.num_sharings, batch.fields, total)
        if batch.compact != NULL:
            batch.misses_frames = not compact_all(ring.sharings, ring.num_sharings, batch.fields, batch.compact)
        else:
            batch.misses_frames = not reconstruct_all(
                ring.sharings, ring.num_sharings, batch.fields, total, batch.columns
            )


cdef inline bint copy_windows(RingState* ring, Batch* batch, const WindowBatch* windows) noexcept nogil:
    """Copies the rows of the windows, which are held, and makes their padding zeros. Returns False if another process
    has started to overwrite one of them."""
    cdef Py_ssize_t total = windows.num * windows.length
    cdef bint are_runs = may_copy_runs(&ring.rows, windows) and (ring.num_sharings == 0 or windows.num_padded == 0)
    batch.misses_frames = False
    if not are_runs or not ring.writes or ring.prefetches_from_disk:
        set_ages(batch.ages, windows, oldest_row(&ring.rows))
    if ring.prefetches_from_disk:
        prefetch_rows_from_disk(&ring.rows, batch.ages, total)
    if are_runs:
        copy_runs(&ring.rows, windows, batch.fields)
    else:
        gather(&ring.rows, batch.ages, total, batch.fields, NULL, NULL)
    reconstruct_rows(ring, batch, total)
    if windows.num_padded > 0:
        clear_padding(windows, ring.keys, ring.num_keys, batch.columns)
    return are_intact(ring, batch, total)


cdef inline void draw_ages(
    RingState* ring, Batch* batch, Py_ssize_t total, Py_ssize_t num, bint distinct
) noexcept nogil:
    cdef int64_t left = num_left(ring), choices = num_choices(ring)
    cdef bint has_ranks = ring.removed.any
    cdef Py_ssize_t i
    if distinct:
        draw_distinct_batches(ring.source, choices, batch.ages, total, num, batch.table)
        for i in range(total if choices < left else 0):
            batch.ages[i] += left - choices
    elif ring.recency.kind != ALL_ROWS:
        draw_recent(ring.source, &ring.recency, left, ring.rows.cursor.num_put, batch.ages, total, num)
    elif has_ranks and not are_most_removed(ring):
        draw_left(ring.source, &ring.removed, batch.ages, total)
        has_ranks = False
    else:
        draw(ring.source, left, batch.ages, total)
    if has_ranks:
        to_ages(&ring.removed, batch.ages, total)
    keep_state(ring)


cdef inline bint are_most_removed(const RingState* ring) noexcept nogil:
    """Whether so many rows are removed that it is faster to draw ranks than ages of which few are kept."""
    return ring.removed.any and 4 * ring.removed.left.num < num_held(&ring.rows)


cdef inline int64_t num_choices(const RingState* ring) noexcept nogil:
    """How many of the rows held can be drawn."""
    return num_drawable(&ring.recency, num_left(ring))


cdef inline bint to_held_ages(RingState* ring, int64_t* ranks, Py_ssize_t num) noexcept nogil:
    """Replaces ranks by ages. Returns False if no row is left that has one of them."""
    cdef int64_t left = num_left(ring)
    cdef Py_ssize_t i
    for i in range(num):
        if not 0 <= ranks[i] < left:
            return False
    if ring.removed.any:
        to_ages(&ring.removed, ranks, num)
    return True


cdef inline bint find_ages(RingState* ring, Batch* batch, int64_t first, Py_ssize_t num) noexcept nogil:
    """Sets the batch's ages to those of rows `first` to `first + num` by number. Returns False if one is not held."""
    cdef Py_ssize_t i
    if not refresh_cursor(ring):
        return False
    for i in range(num):
        batch.ages[i] = first - oldest_row(&ring.rows) + i
    return all_held(&ring.rows, batch.ages, num)
