"""Times OpenBLAS sgemm through numpy: for each line "m n k times" on stdin, so many products; prints the seconds of
one on the clock and of CPU time.

The first line printed is the library's name. Threads: OPENBLAS_NUM_THREADS.
"""

import sys
import time

import numpy as np

blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
print(f"{blas['name']} {blas['version']} through numpy {np.__version__}", flush=True)
shape, x, w, y = None, None, None, None
for line in sys.stdin:
    *wanted, times = (int(part) for part in line.split())
    if wanted != shape:
        shape = wanted
        m, n, k = shape
        rng = np.random.default_rng(1)
        x = rng.standard_normal((m, k), dtype=np.float32)
        w = rng.standard_normal((n, k), dtype=np.float32)
        y = np.empty((m, n), dtype=np.float32)
        np.matmul(x, w.T, out=y)
    started, worked = time.perf_counter(), time.process_time()
    for _ in range(times):
        np.matmul(x, w.T, out=y)
    print((time.perf_counter() - started) / times, (time.process_time() - worked) / times, flush=True)
