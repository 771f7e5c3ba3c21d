"""Rows are drawn in proportion to (priority + eps)**alpha. The check is seen to fail on each defect it looks for."""

import numpy as np
import pytest
from scipy import stats

from really.replay._sum_tree import SumTree
from really.replay.priorities import Priorities
from tests import priority_checks as checks

END = 1 << 62


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 30])
def test_priorities_pass(n, seed):
    checks.check_distribution(lambda capacity, **more: Priorities(capacity, **{**more, "seed": seed}), n=n)


@pytest.mark.parametrize(("n", "draws"), [(1, 6000), (30, 30_000)])
def test_the_oracle_passes(n, draws):
    checks.check_distribution(checks.PlainPriorities, n=n, draws=draws)


@pytest.mark.parametrize("broken", checks.BROKEN)
def test_a_broken_sampler_fails(broken):
    with pytest.raises(AssertionError, match="not proportional"):
        checks.check_distribution(broken, n=30)


@pytest.mark.parametrize("capacity", [1, 2, 7, 8, 9, 63, 64, 65, 511, 513, 16_384, 16_385])
def test_at_every_shape_of_tree(capacity):
    oracle, priorities = checks.PlainPriorities(capacity), Priorities(capacity, seed=0)
    for each in (oracle, priorities):
        each.add(0, capacity + capacity // 3)
        each.update(
            np.arange(capacity // 3, capacity), np.random.default_rng(0).gamma(0.5, size=capacity - capacity // 3)
        )
    checks.assert_proportional(priorities, oracle, min(1000, 20 * capacity), 20 * capacity)


def test_a_million_rows():
    priorities = Priorities(1_000_000, alpha=1.0, eps=0.0, seed=3)
    priorities.add(0, 1_000_000)
    priorities.update(np.arange(1_000_000), np.arange(1_000_000) % 1000)
    drawn = priorities.sample((10, 100_000))[0].ravel()
    expected = np.arange(1000) / np.arange(1000).sum() * len(drawn)
    by_priority = np.bincount(drawn % 1000, minlength=1000)
    assert by_priority[0] == 0
    assert stats.chisquare(by_priority[1:], expected[1:]).pvalue >= checks.LEAST_P
    by_place = np.bincount(drawn // 10_000, minlength=100)
    assert stats.chisquare(by_place).pvalue >= checks.LEAST_P


def test_each_row_of_a_batch_is_of_its_own_part():
    priorities = Priorities(100, alpha=1.0, eps=0.0, seed=4)
    priorities.add(0, 100)
    assert priorities.sample(100)[0].tolist() == list(range(100))
    assert priorities.sample((3, 50))[0].shape == (3, 50)
    assert (priorities.sample((3, 50))[0] // 2 == np.arange(50)).all()


def test_rare_beside_common():
    """In single precision, or with drifting sums, the rare rows would never be drawn, or always."""
    priorities = Priorities(4096, alpha=1.0, eps=0.0, seed=5)
    priorities.add(0, 4096)
    priorities.update(np.arange(4096), np.where(np.arange(4096) % 2, 1e-9, 1.0))
    tree = priorities._tree
    assert tree.total == pytest.approx(2048 + 2048e-9, rel=1e-15)
    drawn = np.concatenate([priorities.sample(4096)[0] for _ in range(500)])
    assert np.count_nonzero(drawn % 2) < 10
    priorities.update(np.arange(0, 4096, 2), np.zeros(2048))
    assert tree.total == pytest.approx(2048e-9, rel=1e-15)
    assert (priorities.sample(4096)[0] % 2 == 1).all()


@pytest.mark.parametrize("capacity", [9, 1000, 4097])
def test_sums_do_not_drift(capacity):
    """After a million updates of very different size the sums equal those of a new tree, bit for bit."""
    tree = SumTree(capacity, 1.0, 0.0, np.random.SFC64(0))
    tree.add(0, capacity)
    draw = np.random.default_rng(6)
    for _ in range(1000):
        rows = draw.integers(0, capacity, 1000)
        tree.update(rows, 10.0 ** draw.uniform(-12, 12, 1000) * (draw.random(1000) < 0.9), 0, END)
    fresh = SumTree(capacity, 1.0, 0.0, np.random.SFC64(0))
    fresh.load(capacity, tree.state()[1], 1.0)
    assert (tree.total, tree.least) == (fresh.total, fresh.least)
    assert tree.total == pytest.approx(tree.state()[1].sum(), rel=1e-13)
    tree.update(np.arange(capacity), np.zeros(capacity), 0, END)
    assert (tree.total, tree.least) == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_rounding_never_draws_a_row_of_priority_zero(seed):
    draw = np.random.default_rng(seed)
    priorities = Priorities(2000, alpha=1.0, eps=0.0, seed=seed)
    priorities.add(0, 2000)
    for _ in range(30):
        given = 10.0 ** draw.uniform(-300, 280, 2000) * (draw.random(2000) < draw.uniform(0.001, 0.2))
        given[draw.integers(0, 2000)] = 5e-324
        priorities.update(np.arange(2000), given)
        drawn, weights = priorities.sample(3000, 0.0)
        assert (given[drawn] > 0.0).all()
        assert (weights == 1.0).all()


def test_a_target_at_the_very_end_stays_inside():
    """The search ends at the last row with a priority, not at the empty slots behind it."""
    for num in (1, 3, 11, 100):
        priorities = Priorities(128, alpha=1.0, eps=0.0, seed=0)
        priorities.add(0, 128)
        given = np.zeros(128)
        given[:num] = 0.1
        priorities.update(np.arange(128), given)
        for n in (1, 7, 1000):
            assert priorities.sample(n)[0].max() < num
