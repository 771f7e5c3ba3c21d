"""A runner's step: all that it does besides the environment and the network.

Reading order: columns.pxd (rows into columns), choice.pxd (actions), finite.pxd (the look for NaN), then this file. Each
class takes a fast path for the arrays that are usual, and leaves others to NumPy, with the same result to the bit.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_Check
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from choice cimport explores, exploring_choice, first_largest_sum, uniform_choice
from columns cimport Column, write_rows
from finite cimport are_finite_doubles, are_finite_singles

cnp.import_array()

# Numbers of NumPy that float32 can hold, though rounded.
cdef tuple SMALL_NUMBERS = (np.float32, np.integer, np.bool_, np.float16)


cdef inline bint is_plain(object values) noexcept:
    """Whether this is a contiguous, aligned NumPy array in the machine's byte order, and no subclass."""
    return cnp.PyArray_CheckExact(values) and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>values)


cdef inline bint has_shape(cnp.ndarray values, cnp.ndarray array, int first) noexcept:
    """Whether the axes of `values` are those of `array` from axis `first` on."""
    cdef int axis, num_dims = cnp.PyArray_NDIM(values)
    if cnp.PyArray_NDIM(array) != num_dims + first:
        return False
    for axis in range(num_dims):
        if cnp.PyArray_DIM(values, axis) != cnp.PyArray_DIM(array, axis + first):
            return False
    return True


cdef inline bint is_part_of(object values, cnp.ndarray array) noexcept:
    """Whether this is an array, and no subclass, with the dtype and the shape of one part `array[i]`."""
    if not cnp.PyArray_CheckExact(values) or cnp.PyArray_DESCR(<cnp.ndarray>values) != cnp.PyArray_DESCR(array):
        return False
    return has_shape(<cnp.ndarray>values, array, 1)


cpdef bint is_finite(object values):
    """Whether this is a plain array of float32 or float64 without NaN and infinity. Other arrays are not looked at."""
    if not is_plain(values):
        return False
    cdef void* data = cnp.PyArray_DATA(<cnp.ndarray>values)
    cdef Py_ssize_t num = cnp.PyArray_SIZE(values)
    cdef int kind = cnp.PyArray_TYPE(<cnp.ndarray>values)
    if kind == cnp.NPY_FLOAT32:
        return are_finite_singles(<const uint32_t*>data, num)
    return kind == cnp.NPY_FLOAT64 and are_finite_doubles(<const uint64_t*>data, num)


cdef inline bint holds_integers(object values) noexcept:
    """Whether this is an array of integers or bool, which are finite."""
    if not cnp.PyArray_CheckExact(values):
        return False
    return cnp.PyArray_ISINTEGER(<cnp.ndarray>values) or cnp.PyArray_ISBOOL(<cnp.ndarray>values)


def convert(cnp.ndarray array, values):
    """Copies numbers into an array as `array[...] = values` does. What the dtype cannot hold needs no warning of NumPy.

    A float that is too large for the array's dtype becomes infinite, as with NumPy.
    """
    cdef Py_ssize_t at
    cdef float* singles
    cdef const double* doubles
    if (
        is_plain(array) and is_plain(values) and cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32
        and cnp.PyArray_TYPE(<cnp.ndarray>values) == cnp.NPY_FLOAT64 and has_shape(<cnp.ndarray>values, array, 0)
    ):
        singles, doubles = <float*>cnp.PyArray_DATA(array), <const double*>cnp.PyArray_DATA(<cnp.ndarray>values)
        for at in range(cnp.PyArray_SIZE(array)):
            singles[at] = <float>doubles[at]
        return
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(array, values, casting="unsafe")


def fill(list views, leaves):
    """Copies each of the `leaves` into the view at its place, as `view[:] = leaf` does; one row fills all rows."""
    cdef Py_ssize_t at, row, rows, nbytes
    cdef cnp.ndarray view, leaf
    for at in range(len(views)):
        view, given = views[at], leaves[at]
        rows = rows_to_fill(view, given)
        if rows == 0:
            view[:] = given
            continue
        leaf = given
        nbytes = cnp.PyArray_NBYTES(leaf)
        for row in range(rows):
            memcpy(cnp.PyArray_BYTES(view) + row * nbytes, cnp.PyArray_BYTES(leaf), nbytes)


cdef inline Py_ssize_t rows_to_fill(cnp.ndarray view, object leaf) noexcept:
    """How many times the bytes of `leaf` fill `view`. Returns 0 unless both are plain and of the same form."""
    if not (is_plain(view) and is_plain(leaf)):
        return 0
    if cnp.PyArray_DESCR(<cnp.ndarray>leaf) != cnp.PyArray_DESCR(view) or cnp.PyArray_TYPE(view) == cnp.NPY_OBJECT:
        return 0
    if has_shape(<cnp.ndarray>leaf, view, 0):
        return 1
    cdef int axis, num_dims = cnp.PyArray_NDIM(view)
    if cnp.PyArray_NDIM(<cnp.ndarray>leaf) != num_dims or cnp.PyArray_DIM(<cnp.ndarray>leaf, 0) != 1:
        return 0
    for axis in range(1, num_dims):
        if cnp.PyArray_DIM(<cnp.ndarray>leaf, axis) != cnp.PyArray_DIM(view, axis):
            return 0
    return cnp.PyArray_DIM(view, 0)


@cython.final
cdef class Columns:
    """Writes the rows of a step into columns, views [time, env, ...]."""

    cdef list views
    cdef Column* columns

    def __cinit__(self, list views):
        self.views = views
        self.columns = <Column*>PyMem_Calloc(max(len(views), 1), sizeof(Column))
        if self.columns == NULL:
            raise MemoryError(f"{len(views)} columns: the system gave no memory")
        for at, view in enumerate(views):
            self.describe(&self.columns[at], view)

    def __dealloc__(self):
        PyMem_Free(self.columns)

    def write(self, Py_ssize_t step, tuple values):
        """Writes arrays [env, ...], one for each column, at a step. Their dtypes may differ from those of columns."""
        cdef Py_ssize_t at
        if len(values) != len(self.views):
            raise ValueError(f"values: expected {len(self.views)} arrays, got {len(values)}")
        for at in range(len(values)):
            self.put(at, step, values[at])

    cdef void describe(self, Column* column, cnp.ndarray view):
        """Says where the rows are. Leaves the time axis at 0, so that NumPy writes, unless rows are contiguous."""
        cdef int axis, num_dims = cnp.PyArray_NDIM(view)
        cdef Py_ssize_t row_bytes = cnp.PyArray_ITEMSIZE(view)
        for axis in range(num_dims - 1, 1, -1):
            if cnp.PyArray_STRIDE(view, axis) != row_bytes:
                return
            row_bytes *= cnp.PyArray_DIM(view, axis)
        if num_dims < 2 or not cnp.PyArray_ISBEHAVED(view) or cnp.PyArray_TYPE(view) == cnp.NPY_OBJECT:
            return
        column.data, column.row_bytes = cnp.PyArray_BYTES(view), row_bytes
        column.time, column.envs = cnp.PyArray_DIM(view, 0), cnp.PyArray_DIM(view, 1)
        column.time_stride, column.env_stride = cnp.PyArray_STRIDE(view, 0), cnp.PyArray_STRIDE(view, 1)

    cdef inline int put(self, Py_ssize_t at, Py_ssize_t step, object values) except -1:
        """Writes one array into the column at this place."""
        if at >= len(self.views):
            raise IndexError(f"columns: expected one for each array, got {len(self.views)}")
        cdef cnp.ndarray view = self.views[at]
        if 0 <= step < self.columns[at].time and is_part_of(values, view) and is_plain(values):
            write_rows(&self.columns[at], step, cnp.PyArray_BYTES(<cnp.ndarray>values))
        else:
            view[step] = values
        return 0


@cython.final
cdef class DiscreteSampler:
    """Samples actions `start`, `start` + 1, ... from an output [env, actions] and noise [env, time, ...] float64.

    Args:
        name: the output with a value for each action.
        start: the first action.
        noise: with `explores`, one number for each step [env, time, 1]; otherwise one for each action.
        scale: the noise is multiplied by it.
        explores: takes action floor(scale * noise) if that is one, and the greedy one otherwise. Without it, takes the
            action whose value plus scaled noise is the largest.
        num_actions: number of actions.
        otherwise: the same function of (outputs, step), for outputs of other dtypes.
    """

    cdef str name
    cdef int64_t start
    cdef cnp.ndarray noise
    cdef double scale
    cdef bint explores
    cdef object otherwise
    cdef Py_ssize_t envs, time, width, num_actions

    def __cinit__(
        self,
        str name,
        int64_t start,
        cnp.ndarray noise not None,
        double scale,
        bint explores,
        Py_ssize_t num_actions,
        otherwise,
    ):
        self.name, self.start, self.noise, self.scale, self.explores = name, start, noise, scale, explores
        self.num_actions, self.otherwise = num_actions, otherwise
        if cnp.PyArray_NDIM(noise) == 3 and is_plain(noise) and cnp.PyArray_TYPE(noise) == cnp.NPY_FLOAT64:
            self.envs, self.time, self.width = noise.shape[0], noise.shape[1], noise.shape[2]

    def __call__(self, outputs, Py_ssize_t step):
        """Actions [env] int64 for outputs [env, ...] at a step of the noise."""
        return self.sample(outputs, step)

    cdef cnp.ndarray sample(self, object outputs, Py_ssize_t step):
        values = outputs[self.name]
        if not (0 <= step < self.time and is_plain(values) and cnp.PyArray_NDIM(<cnp.ndarray>values) == 2):
            return self.otherwise(outputs, step)
        cdef cnp.npy_intp num = cnp.PyArray_DIM(<cnp.ndarray>values, 0), actions = cnp.PyArray_DIM(<cnp.ndarray>values, 1)
        cdef int kind = cnp.PyArray_TYPE(<cnp.ndarray>values)
        if num != self.envs or not actions or not (self.explores or actions == self.width):
            return self.otherwise(outputs, step)
        if kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64:
            return self.otherwise(outputs, step)
        cdef cnp.ndarray chosen = cnp.PyArray_EMPTY(1, &num, cnp.NPY_INT64, 0)
        cdef int64_t* to = <int64_t*>cnp.PyArray_DATA(chosen)
        cdef const double* noise = <const double*>cnp.PyArray_DATA(self.noise) + step * self.width
        if kind == cnp.NPY_FLOAT32:
            self.choose(<const float*>cnp.PyArray_DATA(<cnp.ndarray>values), noise, actions, to)
        else:
            self.choose(<const double*>cnp.PyArray_DATA(<cnp.ndarray>values), noise, actions, to)
        return chosen

    def explored(self, Py_ssize_t step):
        """Actions [env] int64 at a step of the noise if every environment explores; None if one needs the outputs."""
        cdef Py_ssize_t env, ahead = self.time * self.width
        cdef cnp.npy_intp num = self.envs
        if not (self.explores and 0 <= step < self.time):
            return None
        cdef const double* noise = <const double*>cnp.PyArray_DATA(self.noise) + step * self.width
        for env in range(self.envs):
            if not explores(noise[env * ahead], self.scale, self.num_actions):
                return None
        cdef cnp.ndarray chosen = cnp.PyArray_EMPTY(1, &num, cnp.NPY_INT64, 0)
        cdef int64_t* to = <int64_t*>cnp.PyArray_DATA(chosen)
        for env in range(self.envs):
            to[env] = self.start + uniform_choice(noise[env * ahead], self.scale)
        return chosen

    cdef void choose(
        self, const cython.floating* values, const double* noise, Py_ssize_t actions, int64_t* to
    ) noexcept nogil:
        cdef Py_ssize_t env, ahead = self.time * self.width
        for env in range(self.envs):
            if self.explores:
                to[env] = self.start + exploring_choice(values + env * actions, noise[env * ahead], self.scale, actions)
            else:
                to[env] = self.start + first_largest_sum(
                    values + env * actions, noise + env * ahead, self.scale, actions
                )


@cython.final
cdef class PlainLoop:
    """Steps plain environments one after the other, and writes what they return.

    Args:
        num_envs: number of environments.
        limit: steps after which an episode is truncated.
        takes_ints: whether actions are passed as Python's ints, and not as rows of the array.
        received: the `ReceivedObservations` to which observations go.
        outcome: arrays [env] of rewards (float32), terminated and truncated (bool).
        number: makes a number of a reward that NumPy refuses, or raises TypeError.
        flag: makes a bool of (name, value) for what an environment returns as a flag, or raises TypeError.

    Attributes:
        steps: the environments' functions.
        elapsed: [env] int64, the steps of each environment's episode.
        at: the environment that was stepped last, for messages.
    """

    cdef public list steps
    cdef readonly cnp.ndarray elapsed
    cdef readonly Py_ssize_t at
    cdef int64_t* counts
    cdef int64_t limit
    cdef bint takes_ints
    cdef Py_ssize_t num_envs
    cdef object received, number, flag, path
    cdef cnp.ndarray rewards, terminated, truncated, single

    def __cinit__(self, Py_ssize_t num_envs, int64_t limit, bint takes_ints, received, tuple outcome, number, flag):
        cdef cnp.npy_intp num = num_envs
        self.num_envs, self.limit, self.takes_ints, self.received = num_envs, limit, takes_ints, received
        self.elapsed = cnp.PyArray_ZEROS(1, &num, cnp.NPY_INT64, 0)
        self.counts = <int64_t*>cnp.PyArray_DATA(self.elapsed)
        self.rewards, self.terminated, self.truncated = outcome
        self.number, self.flag, self.steps = number, flag, []

    def run(self, actions, active):
        """Steps the environments `active`, or all if it is None. Returns those whose episode ended, as a list."""
        cdef list ended = []
        cdef list numbers = None if active is None else active.tolist()
        cdef Py_ssize_t turn
        given = self.arguments(actions)
        for turn in range(self.num_envs if numbers is None else len(numbers)):
            self.at = turn if numbers is None else numbers[turn]
            if not 0 <= self.at < self.num_envs:
                raise IndexError(f"active: expected numbers from 0 to {self.num_envs - 1}, got {self.at}")
            if self.step_one(self.at, given[self.at]):
                ended.append(self.at)
        return ended

    def write(self, Py_ssize_t i, observation):
        """Takes the first observation of an episode of environment `i`."""
        if not 0 <= i < self.num_envs:
            raise IndexError(f"environment: expected a number from 0 to {self.num_envs - 1}, got {i}")
        self.write_observation(i, observation)

    cdef inline object arguments(self, object actions):
        """The actions as the environments take them, by environment."""
        if not self.takes_ints:
            return actions
        if self.num_envs == 1 and is_plain(actions) and cnp.PyArray_TYPE(<cnp.ndarray>actions) == cnp.NPY_INT64:
            return [(<int64_t*>cnp.PyArray_DATA(<cnp.ndarray>actions))[0]]
        return actions.tolist()

    cdef bint step_one(self, Py_ssize_t i, object action) except -1:
        """Steps one environment; returns whether its episode ended."""
        observation, reward, terminated, truncated, _ = self.steps[i](action)
        self.write_reward(i, reward)
        if self.counts[i] + 1 >= self.limit:
            truncated = True
        self.write_observation(i, observation)
        self.counts[i] += 1
        if not (terminated or truncated):
            return False
        self.terminated[i] = self.flag("terminated", terminated)
        self.truncated[i] = self.flag("truncated", truncated)
        return True

    cdef inline int write_reward(self, Py_ssize_t i, object reward) except -1:
        cdef double value
        if PyFloat_Check(reward):
            value = PyFloat_AS_DOUBLE(reward)
        elif PyLong_Check(reward):
            value = reward
        elif isinstance(reward, SMALL_NUMBERS):
            self.rewards[i] = reward
            return 0
        else:
            value = self.number(reward)
        # A float that is too large becomes infinite, and the delivery of its row raises the error.
        (<float*>cnp.PyArray_DATA(self.rewards))[i] = <float>value
        return 0

    cdef inline int write_observation(self, Py_ssize_t i, object observation) except -1:
        path = self.received.path
        if path is not self.path:
            self.path, self.single = path, path[0]
        cdef cnp.ndarray single = self.single
        if single is None or not is_part_of(observation, single):
            self.received.write(i, observation)
        elif is_plain(observation) and is_plain(single):
            memcpy(
                cnp.PyArray_BYTES(single) + i * cnp.PyArray_STRIDE(single, 0),
                cnp.PyArray_BYTES(<cnp.ndarray>observation),
                cnp.PyArray_NBYTES(<cnp.ndarray>observation),
            )
        else:
            single[i] = observation
        return 0


@cython.final
cdef class Stepper:
    """A step of a runner's environments: network, check, actions, environments, and the rows of the rollout.

    It makes no Python object per transition besides those that plain environments take and return.

    Args:
        envs: the `EnvironmentBatch`.
        required: names of the outputs that are to be finite.
        check: raises the error for outputs that may hold NaN or infinity.
        to_environment: makes of stored actions those that environments take.
        masked: (rollout, step, active, outputs) -> the outputs under action masks; None for environments without.
        estimate: writes columns of (rollout, step, outputs, actions); None if there are none.
        is_recurrent: whether the network has a state, and so needs each observation.

    Attributes:
        forward: the network: outputs of observations.
        sample: actions of (outputs, steps since `drawn_at`).
        step: the step of the rollout that is taken at the moment.
    """

    cdef public object forward, sample
    cdef public Py_ssize_t step, drawn_at
    cdef object envs, check, to_environment, masked, estimate
    cdef tuple required
    cdef Py_ssize_t num_envs
    cdef bint skips_network

    def __cinit__(self, envs, tuple required, check, to_environment, masked, estimate, bint is_recurrent):
        self.envs, self.required, self.check, self.to_environment = envs, required, check, to_environment
        self.masked, self.estimate, self.num_envs = masked, estimate, envs.num_envs
        self.skips_network = masked is None and estimate is None and not is_recurrent

    def advance(self, rollout, Py_ssize_t start, Py_ssize_t stop, cnp.ndarray active not None):
        """Takes steps `start` to `stop` of the rollout with the environments `active` [number] int64."""
        cdef Py_ssize_t step
        for step in range(start, stop):
            self.advance_one(rollout, step, active)

    cdef int advance_one(self, rollout, Py_ssize_t step, cnp.ndarray active) except -1:
        cdef Columns before = rollout.before, after = rollout.after
        cdef Py_ssize_t at = 0
        envs, self.step = self.envs, step
        outputs, actions = None, self.explored(step)
        if actions is None:
            outputs = self.outputs(rollout, step, active)
            actions = self.actions(outputs, step - self.drawn_at)
        for leaf in envs.observations:
            before.put(at, step, leaf)
            at += 1
        before.put(at, step, actions)
        if self.estimate is not None:
            self.estimate(rollout, step, outputs, actions)
        envs.step(self.to_environment(actions), None if cnp.PyArray_SIZE(active) == self.num_envs else active)
        at = 0
        for leaf in envs.final_observations:
            after.put(at, step, leaf)
            at += 1
        after.put(at, step, envs.rewards)
        after.put(at + 1, step, envs.terminated)
        after.put(at + 2, step, envs.truncated)
        if self.masked is not None and rollout.masks:
            rollout.masks[1][step] = envs.final_action_masks
        return 0

    cdef inline object explored(self, Py_ssize_t step):
        """The actions if no environment needs the network for them, else None.

        The network is asked nevertheless at the first step, for weights that are not finite, and for observations that
        may not be.
        """
        if not (self.skips_network and step and type(self.sample) is DiscreteSampler):
            return None
        actions = (<DiscreteSampler>self.sample).explored(step - self.drawn_at)
        if actions is not None:
            for leaf in self.envs.observations:
                if not (is_finite(leaf) or holds_integers(leaf)):
                    return None
        return actions

    cdef object outputs(self, rollout, Py_ssize_t step, cnp.ndarray active):
        """What the policy reads: outputs that are finite, under action masks if there are any."""
        outputs = self.forward(self.envs.observations)
        for name in self.required:
            if not is_finite(outputs[name]):
                self.check(outputs)
                break
        return outputs if self.masked is None else self.masked(rollout, step, active, outputs)

    cdef inline object actions(self, object outputs, Py_ssize_t step):
        if type(self.sample) is DiscreteSampler:
            return (<DiscreteSampler>self.sample).sample(outputs, step)
        return self.sample(outputs, step)
