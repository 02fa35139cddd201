"""bitsandbytes on the CPU: every linear layer of the blocks to NF4 with double quantization.

quantize_s: tensors that are in memory, as they are in the file. load_quantize_s: from the file (page cache warm).
Usage: quantize.py FOLDER THREADS
"""

import json
import os
import sys
import time

import torch
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import load_file

torch.set_num_threads(int(sys.argv[2]))
path = os.path.join(sys.argv[1], "model.safetensors")


def linears():
    tensors = load_file(path)
    return [t for name, t in tensors.items() if t.dim() == 2 and ".layers." in name]


def quantize(tensors):
    return [quantize_4bit(t, quant_type="nf4", compress_statistics=True) for t in tensors]


tensors = linears()
for t in tensors:
    t.view(torch.int16).sum()  # safetensors maps the file: what is not touched is not in memory
quantize(tensors)
started = time.perf_counter()
quantize(tensors)
quantize_s = time.perf_counter() - started
del tensors
started = time.perf_counter()
quantize(linears())
load_quantize_s = time.perf_counter() - started
print(json.dumps({"quantize_s": quantize_s, "load_quantize_s": load_quantize_s}))
