"""Putting: rows are stored at the speed of streaming stores; one transition costs less than the Python around it."""

import numpy as np
import pyarrow as pa

from benchmarks.peers import PEERS, filled, filled_floor, peers_for
from benchmarks.sampling import HELD
from benchmarks.workloads import LAYOUTS
from really import ReplayBuffer


class Put:
    """ReplayBuffer puts rows faster than every peer, whether or not they fit in the cache."""

    params = (list(LAYOUTS), list(PEERS), [100, 1000, 20_000])
    param_names = ("workload", "peer", "rows")

    def setup(self, workload, peer, rows):
        if peer not in peers_for(LAYOUTS[workload]) or (workload == "atari" and rows > 1000):
            raise NotImplementedError(f"{peer} does not do {rows} rows of {workload}")
        self.peer = filled(peer, LAYOUTS[workload], HELD[workload])
        self.rows = self.peer.for_put(LAYOUTS[workload].rows(rows))

    def time_put(self, workload, peer, rows):
        self.peer.put(*self.rows)


class PutOne:
    """One transition at a time is fast, too."""

    params = (list(LAYOUTS), list(PEERS))
    param_names = ("workload", "peer")

    def setup(self, workload, peer):
        if peer not in peers_for(LAYOUTS[workload]):
            raise NotImplementedError(f"{peer} cannot hold {workload}")
        self.peer = filled(peer, LAYOUTS[workload], HELD[workload])
        row = {name: column[0] for name, column in LAYOUTS[workload].rows(1).items()}
        self.row = self.peer.for_one({name: value if value.ndim else value.item() for name, value in row.items()})

    def time_put_one(self, workload, peer):
        self.peer.put_one(*self.row)


class Floor:
    """The rate of plain C, which assembles records in the cache and streams them out."""

    params = (list(LAYOUTS), [500, 1000, 20_000])
    param_names = ("workload", "rows")

    def setup(self, workload, rows):
        if rows > HELD[workload]:
            raise NotImplementedError(f"{rows} rows of {workload} are more than are held")
        self.floor = filled_floor(LAYOUTS[workload], HELD[workload])
        self.rows = LAYOUTS[workload].rows(rows)

    def track_seconds(self, workload, rows):
        return self.floor.seconds_per_scatter(self.rows, 5)

    track_seconds.unit = "seconds"


class Inputs:
    """Arrays that need no conversion cost nothing extra; Arrow from shared memory costs no copy."""

    params = (["arrays", "arrow", "arrow in 8 chunks", "float64", "lists", "alias"],)
    param_names = ("data",)

    def setup(self, data):
        rows = LAYOUTS["cartpole"].rows(2000)
        flat = {
            name: pa.array(column)
            if column.ndim == 1
            else pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])
            for name, column in rows.items()
        }
        table = pa.table(flat)
        self.data = {
            "arrays": rows,
            "arrow": table,
            "arrow in 8 chunks": pa.concat_tables([table.slice(250 * at, 250) for at in range(8)]),
            "float64": {**rows, "state": rows["state"].astype(np.float64)},
            "lists": {name: column.tolist() for name, column in rows.items()},
            "alias": {"new_state" if name == "state_new" else name: column for name, column in rows.items()},
        }[data]
        self.buffer = ReplayBuffer(1_000_000, spec=LAYOUTS["cartpole"].spec)

    def time_put_2000_rows(self, data):
        self.buffer.put(self.data)


class Construction:
    """A buffer of any capacity is made at once: it reserves address space, and pages come with rows."""

    params = ([1_000, 1_000_000, 100_000_000],)
    param_names = ("capacity",)

    def setup(self, capacity):
        self.spec = LAYOUTS["cartpole"].spec

    def time_construct(self, capacity):
        ReplayBuffer(capacity, spec=self.spec, overcommit=True)

    def peakmem_construct(self, capacity):
        ReplayBuffer(capacity, spec=self.spec, overcommit=True)


class Import:
    """`import really` takes less than 0.3 s."""

    def timeraw_import_really(self):
        return "import really"

    def timeraw_import_buffer(self):
        return "from really import ReplayBuffer"
