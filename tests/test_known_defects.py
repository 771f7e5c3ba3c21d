"""Known defects and checks of other replay buffers, one test each; the docstrings name project and file.

CP is cpprb, SB Stable-Baselines3, TS Tianshou, TR torchrl, RV Reverb, AC Acme.
"""

from __future__ import annotations

import base64
import copy
import pickle
import zlib

import numpy as np
import pytest

from really import ReplayBuffer

# A buffer of each kind, by its options.
KINDS = {
    "uniform": {},
    "prioritized": {"alpha": 0.6},
    "three steps": {"n_step": 3, "gamma": 0.5},
    "three steps, prioritized": {"n_step": 3, "gamma": 0.5, "alpha": 0.6},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def rows(first, num, length=5):
    """Rows of episodes of `length` steps; every value is, or follows from, the row number."""
    at = np.arange(first, first + num)
    end = (at % length == length - 1).astype(np.float32)
    return {
        "state": np.repeat(at[:, None], 3, axis=1).astype(np.float32),
        "half": np.repeat(at[:, None], 2, axis=1).astype(np.float16),
        "action": at.astype(np.int32),
        "reward": at.astype(np.float32),
        "state_new": np.repeat(at[:, None] + 1, 3, axis=1).astype(np.float32),
        "terminal": end * (at // length % 2 == 0),
        "episode_end": end,
    }


def buffer_of(kind, num=0, capacity=20, **options):
    buffer = ReplayBuffer(capacity, **{"seed": 4, **KINDS[kind], **options})
    for first in range(0, num, 6):
        buffer.put(rows(first, min(6, num - first)))
    return buffer


def assert_equal(one, other):
    assert list(one) == list(other)
    for key in one:
        assert one[key].dtype == other[key].dtype
        assert one[key].tobytes() == other[key].tobytes(), key


def test_many_rows_need_more_than_32_bits():
    """CP test_issue.py 45 and 46: sizes and positions in 32 bits."""
    buffer = ReplayBuffer((1 << 33) + 7, spec={"x": np.uint8}, overcommit=True)
    assert (buffer.capacity, len(buffer)) == ((1 << 33) + 7, 0)
    buffer.put({"x": np.arange(200, dtype=np.uint8)})
    assert buffer.take([0, 199])["x"].tolist() == [0, 199]
    assert buffer.sample(5000)["x"].max() > 190


@pytest.mark.slow
def test_rows_beyond_4_gib_keep_their_own_bytes():
    """CP test_issue.py 45 and 46: rows more than 4 GiB behind the first, and the seam after them."""
    buffer, wide = ReplayBuffer(520, spec={"number": np.int64, "x": (np.uint8, (8 << 20,))}), np.uint8
    for number in range(530):
        buffer.put({"number": number, "x": np.broadcast_to(wide(number % 251), (8 << 20,))})
    for age in range(0, 520, 13):
        row = buffer.take([age])
        assert row["number"].tolist() == [age + 10]
        assert (row["x"] == (age + 10) % 251).all()


def test_priorities_and_indices_may_be_read_only():
    """CP test_issue.py 128."""
    buffer = buffer_of("prioritized", 20)
    index, given = np.broadcast_to(np.int64(3), 4), np.frombuffer(np.full(4, 2.0).tobytes())
    assert not index.flags.writeable
    assert not given.flags.writeable
    assert buffer.update_priorities(index, given) == 4


@each_kind
def test_half_precision_stays_half_precision(kind):
    """CP test_issue.py 130."""
    batch = buffer_of(kind, 33).sample(50)
    assert batch["half"].dtype == np.float16
    assert (batch["half"] == batch["state"][:, :2]).all()


@each_kind
def test_dtypes_do_not_drift(kind):
    """CP test_issue.py 112: later rows of other dtypes are cast and change no column's dtype."""
    buffer = buffer_of(kind, 6)
    spec, dtypes = buffer.spec, {key: column.dtype for key, column in buffer.sample(4).items()}
    changes = (np.float64, np.float16, float)
    for first, dtype in zip(range(6, 60, 6), changes * 3, strict=True):
        later = rows(first, 6)
        for key in ("state", "reward", "state_new", "half"):
            later[key] = later[key].astype(dtype) if dtype is not float else later[key].tolist()
        buffer.put({**later, "action": later["action"].tolist()})
        assert buffer.spec == spec
        assert {key: column.dtype for key, column in buffer.sample((2, 9)).items()} == dtypes


@pytest.mark.parametrize("capacity", [4, 7, 12])
def test_the_newest_row_is_whole_at_every_fill(capacity):
    """CP test_issue.py 108: `state_new` of the last row with frame deduplication."""
    frames = np.random.default_rng(0).integers(0, 255, (44, 20, 20), np.uint8)
    stacks = np.stack([frames[at : at + 4] for at in range(41)])
    buffer = ReplayBuffer(capacity)
    for at in range(40):
        buffer.put({"state": stacks[at], "state_new": stacks[at + 1], "reward": float(at)})
        newest = buffer.take([len(buffer) - 1, 0])
        assert newest["reward"][0] == at
        np.testing.assert_array_equal(newest["state_new"][0], stacks[at + 1])
        np.testing.assert_array_equal(newest["state"][1], stacks[int(newest["reward"][1])])
    assert buffer._ring.shared


def test_ends_of_episodes_keep_their_priorities_and_returns():
    """CP test_issue.py 111: n-step returns and priorities disagreed about rows at the end of an episode."""
    buffer = ReplayBuffer(30, n_step=4, gamma=0.5, alpha=1.0, eps=0.0, seed=0)
    for first in range(0, 40, 5):
        buffer.put(rows(first, 5))
    ends = np.arange(14, 40, 5)
    assert buffer.update_priorities(np.arange(10, 40), np.isin(np.arange(10, 40), ends).astype(float)) == 30
    batch = buffer.sample(60)
    assert set(batch["index"].tolist()) == set(ends.tolist())
    np.testing.assert_array_equal(batch["reward"], batch["index"])
    np.testing.assert_array_equal(batch["discount"], 0.5 * (1 - batch["terminal"]))
    assert set(batch["terminal"].tolist()) == {0.0, 1.0}


@each_kind
@pytest.mark.parametrize("one", [False, True])
def test_put_does_not_change_its_input(kind, one):
    """CP test_issue.py 116."""
    data = rows(0, 6)
    data["not_done"], data["new_state"] = 1 - data.pop("terminal"), data.pop("state_new")
    if one:
        data = {key: column[2] for key, column in data.items()}
    before, arrays = copy.deepcopy(data), dict(data)
    buffer = buffer_of(kind, keys=list(rows(0, 1)))
    buffer.put(data)
    batch = buffer.sample(3)
    for column in batch.values():
        column[:] = 77
    assert list(data) == list(before)
    assert all(data[key] is arrays[key] for key in arrays)
    assert all(np.array_equal(data[key], before[key]) for key in before)


@each_kind
def test_the_length_is_the_number_of_rows_or_the_capacity(kind):
    """TS test_buffer.py: min(size, i + 1)."""
    buffer = buffer_of(kind)
    assert len(buffer) == 0
    for at in range(50):
        buffer.put({key: column[0] for key, column in rows(at, 1).items()})
        assert len(buffer) == min(20, at + 1)
        assert buffer.take([len(buffer) - 1])["action"].tolist() == [at]


@each_kind
def test_a_single_row_comes_out_as_it_went_in(kind):
    """RV table_test.cc SampleMatchesInsert."""
    buffer = buffer_of(kind, 1)
    batch, row = buffer.sample((2, 3)), rows(0, 1)
    for key, column in row.items():
        assert batch[key].shape == (2, 3, *column.shape[1:])
        assert (batch[key] == column[0]).all(), key


AGAIN = {
    "state": lambda buffer, path: buffer,
    "pickle": lambda buffer, path: pickle.loads(pickle.dumps(buffer)),
    "copy": lambda buffer, path: copy.deepcopy(buffer),
    "save": lambda buffer, path: (buffer.save(path), ReplayBuffer.load(path))[1],
}


@each_kind
@pytest.mark.parametrize("way", AGAIN)
def test_a_restored_generator_draws_the_same_batches(kind, way, tmp_path):
    """TR test_rb_core.py TestRNG, also through `dumps`."""
    buffer = buffer_of(kind, 33)
    buffer.sample(7)
    state = buffer.state_dict()
    other = AGAIN[way](buffer, tmp_path / "saved")
    expected = [buffer.sample(size) for size in (11, (2, 5), 1)]
    if other is buffer:
        buffer.load_state_dict(state)
    for batch, size in zip(expected, (11, (2, 5), 1), strict=True):
        assert_equal(other.sample(size), batch)


@each_kind
def test_inspecting_a_buffer_changes_nothing(kind):
    """TR test_rb_core.py: statistics have no side effects."""
    looked_at, alone = buffer_of(kind, 33), buffer_of(kind, 33)
    for _ in range(3):
        assert "20" in repr(looked_at)
        assert looked_at.nbytes > 0
        assert looked_at.memory()["held"] > 0
        looked_at.state_dict()
        looked_at.take([0, 19])
        looked_at.to_arrow().read_all()
        pickle.dumps(looked_at)
        assert_equal(looked_at.sample(9), alone.sample(9))


@each_kind
def test_buffers_without_a_seed_differ(kind):
    """RV prioritized_test.cc InstancesSeededIdentically, InstancesSeededDifferentlyByDefault."""
    one, other = (buffer_of(kind, 20, seed=None).sample(7)["action"] for _ in range(2))
    assert not np.array_equal(one, other)
    one, other = (buffer_of(kind, 20, seed=9).sample(7)["action"] for _ in range(2))
    assert np.array_equal(one, other)


def test_one_step_is_the_plain_buffer():
    """SB test_n_step_replay.py: n = 1 equals the buffer without n-step returns."""
    plain, one = buffer_of("uniform", 33), buffer_of("uniform", 33, n_step=1)
    assert_equal(one.take(np.arange(20)), plain.take(np.arange(20)))
    assert_equal(one.sample((3, 8)), plain.sample((3, 8)))


# (n, truncated at, terminated at, rewards, discounts, last rows) for gamma 0.5 and rewards 1 2 4 8 16.
TABLE = {
    "one episode of two steps": (2, None, 4, [2, 4, 8, 16, 16], [0.25] * 3 + [0, 0], [1, 2, 3, 4, 4]),
    "three steps are cut short": (3, None, 4, [3, 6, 12, 16, 16], [0.125] * 2 + [0] * 3, [2, 3, 4, 4, 4]),
    "a truncation bootstraps": (2, 2, 4, [2, 4, 4, 16, 16], [0.25, 0.25, 0.5, 0, 0], [1, 2, 2, 4, 4]),
    "an end at once": (3, None, 0, [1, 6, 12, 16, 16], [0, 0.125, 0.125, 0.25, 0.5], [0, 3, 4, 4, 4]),
    "longer than the episode": (9, None, 4, [5, 8, 12, 16, 16], [0] * 5, [4] * 5),
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("case", TABLE)
def test_n_step_returns_by_hand(case, wrapped):
    """AC test_cases.py for transitions; TS test_returns.py with a time limit in a ring that has wrapped."""
    n, truncated, terminated, rewards, discounts, last = TABLE[case]
    terminal, end = np.zeros(5, np.float32), np.zeros(5, np.float32)
    terminal[terminated] = end[terminated] = 1
    if truncated is not None:
        end[truncated] = 1
    data = {**rows(0, 5), "reward": 2.0 ** np.arange(5), "terminal": terminal, "episode_end": end}
    buffer = ReplayBuffer(5 if wrapped else 9, n_step=n, gamma=0.5)
    buffer.put({key: column.astype(np.float32) if key == "reward" else column for key, column in rows(97, 3).items()})
    if not wrapped:
        buffer.clear()
    buffer.put({**data, "reward": data["reward"].astype(np.float32)})
    batch = buffer.take(np.arange(5))
    assert batch["reward"].tolist() == rewards
    assert batch["discount"].tolist() == discounts
    assert (batch["state_new"][:, 0] - 1).tolist() == last


# A file that save() of the first version wrote: ReplayBuffer(3, seed=5) after rows 0 to 3 of {"x": [n, n / 2], "n": n}.
GOLDEN = """
c-rk$J8K(35MEibtQbd#ph86ov7~Szn|tVSCk&Peq>XWk1RNpO(#kq~FHU>0gb}z*nIeV%MVgc;T;?a_$Al;|dn=!$m=H*-g?-HIJinctle4qe
Z*@ZEFh)5-N(9F)DUv+dCIvXb$mAaQd$8sdzp{mALSQ2nNzU(n&gT_%egd;mH*DQ9nkJl4H{#57r-%KhZyIRvBglWtB=TQizoEk*@|d9QDotb$
F5=;kM+Z8sRjD6)y(qXI!?g)yKX7BuN9vqT<UQ@eddYnrF%d*?aYHX0(Oc%wH?Lkc>nJ@IOmHcao>&yIDH=3Q%{J?r(bAhu(`;FmuGgxzsWpIO
nRQFk487Shv|6>H+pT)jvaFV7G%VA!ZL3z*O^jq9rXkv;N3lg`GvJKaxEDLVFb!aXGDU)4a*RwvfiQA{$Po_5wEWn0F;5n<z9Xh8?JGWAx(q(>
s2_NqgP;wWJLc$^58@DL5yd>ow11VVcx=+Un2Kc=%ne5@C3(1X=l8~fqct7DWuCVXoRO#Ln<nq1>fx)Zfg#itvdXaB!Yq(QjX_z#^p(7(<nMmX
=OvQX)p>WNZpI@Pa@4&Cxw4YmhDnbci>}s~#GXi>MVLF%H@fY}?HQ>^&W_Y6kuq@PC}I6pGD)mu6=yY*>=WhlJIv28PZfO%dG4z->O&a?*M~!A
!UsJWbWd=993VW><_Z40HlHBZ3H-LtJQ?d9*m<t(AhuANs7>4FMt7!cuj_hTumKYc^?%G${IZCj(R~!Z0&wvkFLF$A9M&JlF%PmiSd(`_yb3@q
&`aJllf``zKT*3QxR>bXr9L8w{RT0uki{s1Uea?)V6%v<Y>vEF^`en<WK?|1Ijr;?+b|lotu-F)IlCac_t3*!Wk0)Qf1CXKsI2XO<7e0W;K;Ah
**`qo9>apOlbk!S-ydhx?be#!Jo#@jr#*P1yhN!aaX^HyPrp!D$$C}~wXY0nE50}Ve$($a{eIK$|G(dV%Bei`--Unh-T
"""


def test_a_file_of_the_first_version_is_still_read(tmp_path):
    """CP test_save_load.py, v1/*.npz: files of older versions stay readable, down to the next random draw."""
    (tmp_path / "buffer").write_bytes(zlib.decompress(base64.b85decode("".join(GOLDEN.split()))))
    buffer = ReplayBuffer.load(tmp_path / "buffer")
    assert (buffer.capacity, len(buffer)) == (3, 3)
    assert buffer.spec == {"x": (np.dtype(np.float32), (2,)), "n": (np.dtype(np.int64), ())}
    assert buffer.take([0, 1, 2])["n"].tolist() == [1, 2, 3]
    assert buffer.take([2])["x"].tolist() == [[3.0, 1.5]]
    assert buffer.sample(12)["n"].tolist() == [1, 3, 1, 1, 2, 2, 1, 3, 1, 2, 2, 2]
