"""Prefetching hides sampling behind the learner's step; `dataset` is faster than `from_generator`."""

import os
import time

from benchmarks.workloads import LAYOUTS
from really import ReplayBuffer

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROWS = {"cartpole": 64, "wide": 256, "atari": 64}
HELD = {"cartpole": 100_000, "wide": 20_000, "atari": 2_000}
# Size of the matrices in a step: some milliseconds, mostly outside the GIL, like a learner's.
STEP_WIDTH = 300


def filled(workload):
    buffer = ReplayBuffer(HELD[workload], spec=LAYOUTS[workload].spec, seed=0)
    buffer.put(LAYOUTS[workload].rows(HELD[workload]))
    return buffer


def learner_step():
    """A compiled step of matrix products that ignores the batch, so that it takes the same time for all ways."""
    import tensorflow as tf

    weights = tf.Variable(tf.random.normal((STEP_WIDTH, STEP_WIDTH), stddev=0.05))

    @tf.function
    def step():
        x = weights
        for _ in range(6):
            x = tf.tanh(x @ weights)
        weights.assign(weights + 1e-6 * x)
        return x[0, 0]

    return lambda: float(step())


class Ahead:
    """With `ahead` the learner waits some 30 us for any batch: the hand-over between two threads.

    Sampling `in_loop` takes less for narrow rows, which leave nothing to hide, and many times that for wide rows and
    images. Whole turns are as fast as `step_alone` only if a core is free for the thread.
    """

    params = (list(LAYOUTS), ["step_alone", "in_loop", "ahead"])
    param_names = ("workload", "way")

    def setup(self, workload, way):
        buffer, rows, step = filled(workload), ROWS[workload], learner_step()
        self.batches = buffer.batches(rows, prefetch=2)
        draw = {"step_alone": lambda: None, "in_loop": lambda: buffer.sample(rows), "ahead": lambda: next(self.batches)}
        self.draw, self.step = draw[way], step
        self.draw(), self.step()

    def teardown(self, workload, way):
        self.batches.close()

    def track_seconds_waiting(self, workload, way):
        waits = []
        for _ in range(200):
            start = time.perf_counter()
            self.draw()
            waits.append(time.perf_counter() - start)
            self.step()
        return sorted(waits)[len(waits) // 2]

    track_seconds_waiting.unit = "seconds"

    def time_ten_turns(self, workload, way):
        for _ in range(10):
            self.draw()
            self.step()


class Dataset:
    """Fifty batches in a compiled loop: `dataset` against `from_generator`, and `sample` in Python beside them."""

    params = (list(LAYOUTS), ["sample", "sample_as_tf", "dataset", "one_a_call", "from_generator"])
    param_names = ("workload", "way")

    def setup(self, workload, way):
        import tensorflow as tf

        buffer, rows = filled(workload), ROWS[workload]
        eager = {"sample": lambda: buffer.sample(rows), "sample_as_tf": buffer.batches(rows, 0, as_="tf").__next__}
        if way in eager:
            self.run = lambda: [eager[way]() for _ in range(50)]
        else:
            iterator, key = iter(self.dataset(way, buffer, rows)), next(iter(buffer.spec))

            @tf.function
            def loop():
                total = tf.constant(0.0)
                for _ in tf.range(50):
                    total += tf.cast(tf.reshape(next(iterator)[key], [-1])[0], tf.float32)
                return total

            self.run = loop
        self.run()

    def dataset(self, way, buffer, rows):
        import tensorflow as tf

        if way != "from_generator":
            return buffer.dataset(rows, batches_per_call=1 if way == "one_a_call" else None)

        def generate():
            while True:
                yield buffer.sample(rows)

        signature = {key: tf.TensorSpec((rows, *shape), dtype) for key, (dtype, shape) in buffer.spec.items()}
        return tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(2)

    def time_fifty_batches(self, workload, way):
        self.run()
