"""llama.cpp through its C API (llama-cpp-python): prefill and greedy decode, tokens a second.

Usage: llama_c.py FILE.gguf PROMPT NEW THREADS [SEQUENCES]. With SEQUENCES, that many decode side by side and
decode_tokens_per_s is their sum.
"""

import json
import sys
import time

import llama_cpp as L

path, prompt, new, threads = sys.argv[1], *(int(n) for n in sys.argv[2:5])
sequences = int(sys.argv[5]) if len(sys.argv) > 5 else 1

quiet = L.llama_log_callback(lambda *_: None)  # kept: the library calls it until the end
L.llama_log_set(quiet, None)
L.llama_backend_init()
model_params = L.llama_model_default_params()
model_params.n_gpu_layers = 0
model = L.llama_model_load_from_file(path.encode(), model_params)
params = L.llama_context_default_params()
params.n_ctx = sequences * (prompt + new + 8)
params.n_batch = params.n_ubatch = max(prompt, 512)
params.n_seq_max = sequences
params.n_threads = params.n_threads_batch = threads
context = L.llama_init_from_model(model, params)
vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
batch = L.llama_batch_init(max(prompt, sequences), 0, 1)


def decode(rows, wants_all):
    """rows: (token, position, sequence). Logits of the last row, or of all."""
    batch.n_tokens = len(rows)
    for i, (token, position, sequence) in enumerate(rows):
        batch.token[i], batch.pos[i] = token, position
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        batch.logits[i] = wants_all or i == len(rows) - 1
    assert L.llama_decode(context, batch) == 0
    L.llama_get_logits(context)


def token(i):
    return 3 + (i * 7919) % (vocab - 3)


def prefill(sequence):
    decode([(token(i), i, sequence) for i in range(prompt)], False)


prefill(0)
L.llama_memory_clear(L.llama_get_memory(context), True)
started = time.perf_counter()
prefill(0)
prefill_s = time.perf_counter() - started
for sequence in range(1, sequences):
    prefill(sequence)
started = time.perf_counter()
for i in range(new):
    decode([(token(i), prompt + i, sequence) for sequence in range(sequences)], True)
decode_s = time.perf_counter() - started
figures = {
    "prefill_tokens_per_s": prompt / prefill_s,
    "decode_tokens_per_s": sequences * new / decode_s if new > 0 else 0,
}
print(json.dumps(figures))
