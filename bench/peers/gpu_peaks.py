"""What PyTorch gets out of a device: bytes a second of a copy, operations a second of a square bfloat16 product."""

import argparse
import json
import statistics
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--device", required=True)
parser.add_argument("--size", type=int, required=True)
options = parser.parse_args()
device = "cuda" if options.device == "cuda" else "cpu"


def seconds(work, repeats=10):
    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        work()
    wait()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


n = options.size
a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
b = torch.randn(n, n, device=device, dtype=torch.bfloat16)
flops = 2 * n**3 / seconds(lambda: a @ b)
source = torch.empty(16 * n * n, device=device, dtype=torch.uint8).random_()
target = torch.empty_like(source)
copied = 2 * source.numel() / seconds(lambda: target.copy_(source))
print(json.dumps({"flops": flops, "copy_bytes_per_s": copied, "torch": torch.__version__}))
