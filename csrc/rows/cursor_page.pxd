"""The page in which a ring's cursor and its generator's state outlive the process: a file's first page, mapped shared.

`really/storage.py` writes and checks `head`; offsets are part of the format, see there.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from memory cimport really_commit, really_loads_end, really_look
from record cimport Cursor

cdef enum:
    STATE = 40  # bytes of SFC64's state in memory: four words, whether half a one is left over, and that half

cdef struct Page:
    char head[64]
    Cursor cursor
    char line_end[40]
    int64_t num_states  # stored so far; the last one is in states[num_states % 2]
    char other_line_end[56]
    char states[2][64]


cdef inline void store_state(Page* page, const void* state) noexcept nogil:
    """Keeps a generator's state; whenever the process is killed, this one or the one before is there whole."""
    memcpy(page.states[(page.num_states + 1) & 1], state, STATE)
    really_commit(&page.num_states, page.num_states + 1)


cdef inline void read_cursor(const Page* page, Cursor* to) noexcept nogil:
    """The cursor as it was at one time, for a process that does not write it."""
    to.first = really_look(&page.cursor.first)  # before num_put: it is never beyond it
    to.num_put = really_look(&page.cursor.num_put)


cdef inline int64_t first_untouched(const Page* page, int64_t num_slots) noexcept nogil:
    """Number of the first row that no put had begun to write over when the loads before this were made."""
    really_loads_end()
    return really_look(&page.cursor.num_begun) - num_slots
