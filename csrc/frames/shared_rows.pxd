"""Rows that share frames, in and out of a ring: matching.pxd stores the frames, records keep the frames' numbers."""

from libc.stdint cimport INT64_MAX, UINT32_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from frame_store cimport (
    FrameStore,
    count_rows,
    follow_writer,
    frame_at,
    full_number,
    is_stored,
    num_blocks_needed,
    publish_next,
    release_unneeded_blocks,
)
from incoming cimport Incoming, rows_of_piece
from matching cimport MAX_STACK, Sharing, StackColumn, store_rows, undo_put
from memory cimport really_advise_willneed, really_store_release
from reconstruct cimport reconstruct
from record cimport Column, Field, Records, num_held, num_skipped, oldest_kept, oldest_slot, row_at
from scatter cimport append
from values cimport Key

cdef struct NoRoom:  # why a put stopped
    Py_ssize_t sharing  # which sharing has no room for the frames of a piece; -1 if all pieces are in
    int64_t num_rows  # rows of the piece
    int64_t num_in  # rows of the put before it, which are in
    bint gave_up  # frames that only a checkpoint needed had to make room


cdef inline void lay_out_sharing(Sharing* sharing, const Key* keys, Field* fields, int axis) noexcept nogil:
    """Sets the sizes of a sharing, whose stack and keys are set, and of the fields that hold its frame numbers."""
    cdef int i
    sharing.outer = 1
    for i in range(axis):
        sharing.outer *= keys[sharing.keys[0]].dims[i]
    sharing.store.nbytes = keys[sharing.keys[0]].nbytes // sharing.stack
    sharing.inner = sharing.store.nbytes // sharing.outer
    for i in range(sharing.num_columns):
        fields[sharing.keys[i]].nbytes = sharing.stack * sizeof(uint32_t)
    fields[sharing.oldest_field].nbytes = sizeof(uint32_t)


cdef inline NoRoom append_pieces(
    Records* records, Sharing* sharings, Py_ssize_t num_sharings, int64_t max_bytes,
    const Incoming* rows, int64_t num_rows,
) noexcept nogil:
    """Appends rows piece by piece, of more rows than fit the newest, until a sharing has no room for its frames."""
    cdef NoRoom failure
    cdef int64_t first = num_skipped(records, num_rows), start = first
    cdef int64_t num, piece = rows_of_piece(records, num_rows)
    failure.sharing, failure.num_rows, failure.num_in, failure.gave_up = -1, 0, 0, False
    while start < num_rows and failure.sharing < 0:
        num = min(piece, num_rows - start)
        failure.sharing = append_piece(records, sharings, num_sharings, max_bytes, rows, start, num, first)
        if failure.sharing >= 0 and keep_from(records, sharings, num_sharings, INT64_MAX):
            failure.gave_up = True
            failure.sharing = append_piece(records, sharings, num_sharings, max_bytes, rows, start, num, first)
        failure.num_rows, failure.num_in = num, start - first
        start += num
    return failure


cdef inline bint keep_from(
    Records* records, Sharing* sharings, Py_ssize_t num_sharings, int64_t number
) noexcept nogil:
    """Keeps the frames of rows from this number on, even of rows that are no longer held, for a checkpoint.

    Frames that have been released stay so. Returns whether frames of a row were released.
    """
    cdef int64_t before = oldest_kept(records, 0)
    cdef Py_ssize_t s
    really_store_release(&records.cursor.kept_from, max(number, before))
    cdef int64_t num = oldest_kept(records, 0) - before
    for s in range(num_sharings):
        count_range(records, &sharings[s], before, num, -1)
        release_unneeded_blocks(&sharings[s].store)
    return num > 0


cdef inline Py_ssize_t append_piece(
    Records* records, Sharing* sharings, Py_ssize_t num_sharings, int64_t max_bytes,
    const Incoming* rows, int64_t first, int64_t num_rows, int64_t skipped,
) noexcept nogil:
    """Appends rows `first` to `first + num_rows`, which are committed together. The first `skipped` rows of a put are
    numbered with them; then all rows held are evicted.

    Returns -1. Returns which sharing has no room for its frames, with nothing done, otherwise.
    """
    cdef int64_t end_kept = min(oldest_kept(records, skipped + num_rows), records.cursor.num_put)
    cdef int64_t num_evicted = end_kept - oldest_kept(records, 0)
    cdef Py_ssize_t s, k
    for k in range(records.num_fields):
        rows.piece[k] = rows.columns[k]
        rows.piece[k].data += first * rows.columns[k].stride
    for s in range(num_sharings):
        if not store_keys(&sharings[s], rows, first, num_rows):
            undo_all(sharings, s + 1)
            return s
    count_in_and_out(records, sharings, num_sharings, rows, num_evicted, num_rows, 1)
    if bytes_needed(sharings, num_sharings) > max_bytes:
        count_in_and_out(records, sharings, num_sharings, rows, num_evicted, num_rows, -1)
        undo_all(sharings, num_sharings)
        return largest(sharings, num_sharings)
    for s in range(num_sharings):
        publish_next(&sharings[s].store)
    append(records, rows.piece, num_rows, skipped)
    for s in range(num_sharings):
        release_unneeded_blocks(&sharings[s].store)
    return -1


cdef inline bint store_keys(
    Sharing* sharing, const Incoming* rows, int64_t first, int64_t num_rows
) noexcept nogil:
    """Stores the frames of a piece, and sets its columns to their numbers. Returns False if there is no memory."""
    cdef StackColumn columns[2]
    cdef uint32_t* numbers[2]
    cdef int c
    cdef Py_ssize_t key
    cdef uint32_t* oldest = rows.numbers + sharing.oldest_field * rows.room
    for c in range(sharing.num_columns):
        key = sharing.keys[c]
        columns[c], numbers[c] = rows.stacks[key], rows.numbers + key * rows.room
        rows.piece[key].data, rows.piece[key].stride = <char*>numbers[c], sharing.stack * sizeof(uint32_t)
    rows.piece[sharing.oldest_field].data, rows.piece[sharing.oldest_field].stride = <char*>oldest, sizeof(uint32_t)
    return store_rows(sharing, columns, first, num_rows, numbers, oldest)


cdef inline void count_in_and_out(
    const Records* records, Sharing* sharings, Py_ssize_t num_sharings, const Incoming* rows,
    int64_t num_evicted, int64_t num_rows, int64_t by,
) noexcept nogil:
    """Subtracts `by` from the counts of the rows whose frames are not kept, and adds it to those of the new rows."""
    cdef Py_ssize_t s
    cdef Column oldest
    for s in range(num_sharings):
        count_range(records, &sharings[s], oldest_kept(records, 0), num_evicted, -by)
        oldest = rows.piece[sharings[s].oldest_field]
        count_rows(&sharings[s].store, oldest.data, oldest.stride, num_rows, by)


cdef inline void count_range(
    const Records* records, Sharing* sharing, int64_t first, int64_t num_rows, int64_t by
) noexcept nogil:
    """Adds `by` to the counts of the rows from number `first` on."""
    cdef int64_t slot = first % records.num_slots
    cdef int64_t num = min(num_rows, records.num_slots - slot)
    cdef const char* numbers = records.data + records.fields[sharing.oldest_field].offset
    count_rows(&sharing.store, numbers + slot * records.stride, records.stride, num, by)
    count_rows(&sharing.store, numbers, records.stride, num_rows - num, by)


cdef struct NumberWords:  # where a record has its frame numbers: two at a time, then those that are left
    int64_t pairs[MAX_STACK]
    int64_t singles[3]
    int num_pairs, num_singles


cdef inline int64_t first_damaged(const Records* records, const Sharing* sharing) noexcept nogil:
    """Age of the first row held whose frame numbers no put has written; -1 if there is none."""
    cdef int64_t age, oldest = oldest_slot(records), block = -1, num_after = 0
    cdef NumberWords words = number_words(records, sharing)
    cdef const char* record = NULL
    cdef const char* before
    for age in range(num_held(records)):
        before, record = record, row_at(records, oldest, age)
        if num_after > 0 and is_one_frame_on(&words, before, record):
            num_after -= 1
        elif not has_sound_numbers(records, sharing, record, &block, &num_after):
            return age
    return -1


cdef inline NumberWords number_words(const Records* records, const Sharing* sharing) noexcept nogil:
    cdef NumberWords words
    cdef int64_t offset
    cdef int c, j
    words.num_pairs, words.num_singles = 0, 1
    words.singles[0] = records.fields[sharing.oldest_field].offset
    for c in range(sharing.num_columns):
        offset = records.fields[sharing.keys[c]].offset
        for j in range(0, sharing.stack - 1, 2):
            words.pairs[words.num_pairs] = offset + j * sizeof(uint32_t)
            words.num_pairs += 1
        if sharing.stack % 2:
            words.singles[words.num_singles] = offset + (sharing.stack - 1) * sizeof(uint32_t)
            words.num_singles += 1
    return words


cdef inline bint is_one_frame_on(const NumberWords* words, const char* before, const char* record) noexcept nogil:
    """Whether each frame number of a record is 1 more than that of the record before, in which none is UINT32_MAX."""
    cdef uint64_t was, now, differing = 0, one_in_both = 0x100000001
    cdef uint32_t number_before, number
    cdef int i
    for i in range(words.num_pairs):
        memcpy(&was, before + words.pairs[i], sizeof(uint64_t))
        memcpy(&now, record + words.pairs[i], sizeof(uint64_t))
        differing |= (was + one_in_both) ^ now
    for i in range(words.num_singles):
        memcpy(&number_before, before + words.singles[i], sizeof(uint32_t))
        memcpy(&number, record + words.singles[i], sizeof(uint32_t))
        differing |= number - number_before - 1
    return differing == 0


cdef inline bint has_sound_numbers(
    const Records* records, const Sharing* sharing, const char* record, int64_t* block, int64_t* num_after
) noexcept nogil:
    """Whether all frames of a record are stored, and its oldest frame is the oldest of them.

    `block` is a block that is known to be held, or -1; it is replaced by that of the record. `num_after` becomes how
    many rows after the record have all frames in that block, if each is one frame on.
    """
    cdef const FrameStore* store = &sharing.store
    cdef uint32_t oldest, least_back = UINT32_MAX, most_back = 0  # from a frame to the next one
    cdef int64_t first, last
    cdef int c
    for c in range(sharing.num_columns):
        find_backs(
            record + records.fields[sharing.keys[c]].offset, sharing.stack, <uint32_t>store.next, &least_back, &most_back
        )
    memcpy(&oldest, record + records.fields[sharing.oldest_field].offset, sizeof(uint32_t))
    first, last, num_after[0] = store.next - most_back, store.next - least_back, 0
    if first != full_number(store, oldest):
        return False
    if least_back == 0 or first >> store.shift != block[0] or last >> store.shift != block[0]:
        if not is_stored(store, first) or not is_stored(store, last):
            return False
        if first >> store.shift != last >> store.shift:
            return has_stored_frames(records, sharing, record)
        block[0] = first >> store.shift
    # Their block has all frames that are between them.
    num_after[0] = min(store.next, (block[0] + 1) << store.shift) - 1 - last
    return True


cdef inline bint has_stored_frames(const Records* records, const Sharing* sharing, const char* record) noexcept nogil:
    """Whether each frame of a record is stored."""
    cdef const FrameStore* store = &sharing.store
    cdef int c, j
    for c in range(sharing.num_columns):
        for j in range(sharing.stack):
            if not is_stored(store, full_number(store, stored_number(records, sharing, record, c, j))):
                return False
    return True


cdef inline void find_backs(
    const char* numbers, int stack, uint32_t next_frame, uint32_t* least, uint32_t* most
) noexcept nogil:
    """Extends the range of distances from frames of a record to the next frame."""
    cdef uint32_t back[4]
    cdef int j
    if stack == 4:  # without a loop, which takes twice as long
        memcpy(back, numbers, sizeof(back))
        for j in range(4):
            back[j] = next_frame - back[j]
        least[0] = min(least[0], min(min(back[0], back[1]), min(back[2], back[3])))
        most[0] = max(most[0], max(max(back[0], back[1]), max(back[2], back[3])))
        return
    for j in range(stack):
        memcpy(back, numbers + j * sizeof(uint32_t), sizeof(uint32_t))
        back[0] = next_frame - back[0]
        least[0], most[0] = min(least[0], back[0]), max(most[0], back[0])


cdef inline uint32_t stored_number(
    const Records* records, const Sharing* sharing, const char* record, int column, int frame
) noexcept nogil:
    """A frame's number as a record has it."""
    cdef uint32_t number
    memcpy(
        &number, record + records.fields[sharing.keys[column]].offset + frame * sizeof(uint32_t), sizeof(uint32_t)
    )
    return number


cdef inline void recount_rows(const Records* records, Sharing* sharing) noexcept nogil:
    """Counts anew all rows whose frames are kept."""
    cdef int64_t first = oldest_kept(records, 0)
    memset(sharing.store.num_rows, 0, sharing.store.num_blocks * sizeof(int64_t))
    count_range(records, sharing, first, records.cursor.num_put - first, 1)


cdef inline void undo_all(Sharing* sharings, Py_ssize_t num) noexcept nogil:
    cdef Py_ssize_t s
    for s in range(num):
        undo_put(&sharings[s])


cdef inline int64_t bytes_needed(const Sharing* sharings, Py_ssize_t num) noexcept nogil:
    """Bytes of the blocks that the rows held need."""
    cdef int64_t nbytes = 0
    cdef Py_ssize_t s
    for s in range(num):
        nbytes += num_blocks_needed(&sharings[s].store) * sharings[s].store.block_nbytes
    return nbytes


cdef inline Py_ssize_t largest(const Sharing* sharings, Py_ssize_t num) noexcept nogil:
    """The sharing whose frames take the most bytes."""
    cdef Py_ssize_t s, found = 0
    for s in range(1, num):
        if bytes_needed(&sharings[s], 1) > bytes_needed(&sharings[found], 1):
            found = s
    return found


cdef inline bint reconstruct_all(
    const Sharing* sharings, Py_ssize_t num, char** fields, Py_ssize_t num_rows, char** columns
) noexcept nogil:
    """Copies frames to rows, `columns[key]`, by their gathered numbers, `fields[key]`. Returns False if a frame has no
    block."""
    cdef Py_ssize_t s
    cdef int c
    cdef uint32_t* numbers[2]
    cdef char* rows[2]
    for s in range(num):
        for c in range(sharings[s].num_columns):
            numbers[c] = <uint32_t*>fields[sharings[s].keys[c]]
            rows[c] = columns[sharings[s].keys[c]]
        if not reconstruct(&sharings[s], numbers, num_rows, rows):
            return False
    return True


cdef inline void prefetch_frames_from_disk(
    const Sharing* sharings, Py_ssize_t num, char** fields, Py_ssize_t num_rows
) noexcept nogil:
    """Tells the system at once that the frames of all gathered numbers are needed."""
    cdef Py_ssize_t s, i
    for s in range(num):
        for i in range(num_rows):
            prefetch_row_from_disk(&sharings[s], fields, i)


cdef inline void prefetch_row_from_disk(const Sharing* sharing, char** fields, Py_ssize_t i) noexcept nogil:
    """Names each frame of row `i` to the system once, and contiguous frames of either column in one call."""
    cdef const FrameStore* store = &sharing.store
    cdef const uint32_t* numbers = <const uint32_t*>fields[sharing.keys[0]] + i * sharing.stack
    cdef const char* frame = frame_at(store, numbers[0])
    cdef const char* start = frame
    cdef const char* end = frame
    cdef int c, j
    for c in range(sharing.num_columns):
        numbers = <const uint32_t*>fields[sharing.keys[c]] + i * sharing.stack
        for j in range(sharing.stack):
            frame = frame_at(store, numbers[j])
            if frame == end:
                end += store.stride
            elif frame < start or frame > end:
                really_advise_willneed(start, end - start)
                start, end = frame, frame + store.stride
    really_advise_willneed(start, end - start)


cdef inline bint follow_writers(Sharing* sharings, Py_ssize_t num) noexcept nogil:
    """In a process that only reads, maps the new blocks of all files of frames. Returns False if the system refuses."""
    cdef Py_ssize_t s
    for s in range(num):
        if sharings[s].store.file == NULL or not follow_writer(&sharings[s].store):
            return False
    return True


cdef inline void release_dropped(const Records* records, Sharing* sharings, Py_ssize_t num) noexcept nogil:
    """Releases the frames that no row needs after rows were dropped."""
    cdef Py_ssize_t s
    for s in range(num):
        recount_rows(records, &sharings[s])
        release_unneeded_blocks(&sharings[s].store)


cdef inline void return_to_frame(
    const Records* records, Sharing* sharing, int64_t number
) noexcept nogil:
    """Removes the frames from this number on, after the rows that needed them were dropped."""
    recount_rows(records, sharing)
    if number < sharing.store.next:
        sharing.store.oldest_block = min(sharing.store.oldest_block, number >> sharing.store.shift)
        sharing.start = number
        undo_put(sharing)
        publish_next(&sharing.store)
    release_unneeded_blocks(&sharing.store)


cdef inline void stop_writing(Sharing* sharings, Py_ssize_t num) noexcept nogil:
    """Makes this process one that only reads the files of frames."""
    cdef Py_ssize_t s
    for s in range(num):
        if sharings[s].store.file != NULL:
            sharings[s].store.file.writable = False
