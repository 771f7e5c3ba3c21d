"""The mapped page that keeps the cursor and the generator's state of a ring on disk.

`really/replay/disk/cursor_page.py` writes and checks `head`. The offsets are part of the format, which it describes.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from memory cimport really_store_release, really_acquire_fence, really_load_acquire
from record cimport Cursor

cdef enum:
    STATE = 40  # bytes of SFC64's state in memory: four words, a flag whether half a word is left over, and that half

cdef struct Page:
    char head[64]
    Cursor cursor
    int64_t num_rollbacks  # how often rows were dropped to return to a checkpoint; readers from before are refused
    int64_t num_removals  # how often rows were removed; readers then read the file of removed rows again
    int64_t num_updates  # 2 for each update of rows that are held; odd while one is written
    char seal_mark[8]  # whether the seal of the file of checksums counts; the ring leaves it alone
    int64_t num_states  # states stored so far; the last one is in states[num_states % 2]
    char other_line_end[56]
    char states[2][64]


cdef inline void store_state(Page* page, const void* state) noexcept nogil:
    """Stores a generator's state. If the process is killed meanwhile, the state before is still complete."""
    memcpy(page.states[(page.num_states + 1) & 1], state, STATE)
    really_store_release(&page.num_states, page.num_states + 1)


cdef inline void read_cursor(const Page* page, Cursor* to) noexcept nogil:
    """Reads a consistent cursor in a process that does not write it."""
    to.first = really_load_acquire(&page.cursor.first)  # before num_put, so that it is never greater
    to.num_put = really_load_acquire(&page.cursor.num_put)


cdef inline int64_t first_untouched(const Page* page, int64_t num_slots) noexcept nogil:
    """Oldest row number that no put had started to overwrite when the preceding loads happened; rows from it on were
    copied intact."""
    really_acquire_fence()
    return really_load_acquire(&page.cursor.num_begun) - num_slots
