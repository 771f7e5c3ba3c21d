"""A seed gives the same batches from version to version, bit for bit."""

import pytest

from tests.seeded_runs import EXACT

# A change of one of these is a change of every seeded experiment: it needs a line in docs/changelog.md.
HASHES = {
    "uniform": "5a6d19e7fa3113d1",
    "many_dtypes": "a199ff79cb0316d7",
    "without_replacement": "dc3ae1a4824e43bf",
    "single_rows": "aed21ca9208acd3a",
    "indices": "5c6a2bd828480f8a",
    "into_arrays": "a0cbefeae6e2356a",
    "several_steps": "50c893a17e9f23b5",
    "stacked_frames": "b08f6abd4830034e",
    "frames_of_the_last_axis": "b5276ba75d880d1f",
    "shuffled_frames": "cb9f1c1afa76efb4",
    "past_the_cache": "68c173cfbaa6cc05",
    "half_life": "3042d73957d0a117",
    "removed_rows": "85335e89f227623e",
    "windows": "e6d3cc2a4c0f39f8",
    "interchanged": "e73006986bbe14c3",
}


@pytest.mark.parametrize("name", EXACT)
def test_a_seeded_run_gives_what_it_gave(name):
    assert EXACT[name]().hex() == HASHES[name]
