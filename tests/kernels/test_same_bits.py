"""The same bits from a process that compiles the kernels as from one that finds them compiled, on any number of
threads."""

import os
import subprocess
import sys

import pytest

# Operations with sums in the bodies of parallel loops, and long expressions.
OPERATIONS = ("batch_norm", "cosine_embedding_loss", "cross_entropy", "layer_norm", "radam", "softmax", "sum")

PROGRAM = """
import hashlib, sys
import numpy as np
from ranvier.kernels.operation import Operation, all_operations

def like(rng, output):
    if isinstance(output, tuple):
        return tuple(like(rng, part) for part in output)
    return rng.standard_normal(output.shape).astype(output.dtype)

def feed(digest, value):
    if isinstance(value, tuple):
        for part in value:
            feed(digest, part)
    elif value is not None:
        digest.update(np.ascontiguousarray(value).tobytes())

list(all_operations())
for name in sys.argv[1:]:
    operation = Operation.registry[name]
    for sample in operation.samples:
        if sample.large or sample.name == "integers":
            continue
        rng, digest = np.random.default_rng(0), hashlib.sha256()
        inputs = sample.build(rng, np.dtype("float32"))
        output, saved = operation.forward(*inputs, **sample.attributes)
        feed(digest, output)
        if operation.differentiable:
            needs = tuple(getattr(x, "dtype", np.dtype("i8")).kind == "f" for x in inputs)
            feed(digest, operation.backward(saved, like(rng, output), needs))
        print(name, sample.name, digest.hexdigest())
"""


@pytest.mark.slow
def test_bits_are_those_of_every_process(tmp_path):
    def run(threads):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": str(threads)}
        command = [sys.executable, "-c", PROGRAM, *OPERATIONS]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    compiling, loading, threaded = run(1), run(1), run(2)
    assert len(compiling) >= 20
    assert loading == compiling
    assert threaded == compiling
