"""Rows to tokens and labels with datasets + tokenizers: data.py TOKENIZER_JSON ROWS_JSONL. One line of JSON."""
import json
import sys
import tempfile
import time

from datasets import load_dataset
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(sys.argv[1])
eos = tokenizer.token_to_id("</s>")
bos = tokenizer.token_to_id("<s>")
limit = 1024


def tokenize(batch):
    prompts = tokenizer.encode_batch(batch["prompt"], add_special_tokens=False)
    completions = tokenizer.encode_batch(batch["completion"], add_special_tokens=False)
    ids, labels = [], []
    for prompt, completion in zip(prompts, completions):
        row = [bos, *prompt.ids, *completion.ids, eos]
        ids.append(row[:limit])
        labels.append(([-100] * (1 + len(prompt.ids)) + row[1 + len(prompt.ids):])[:limit])
    return {"input_ids": ids, "labels": labels, "length": [len(row) for row in ids]}


with tempfile.TemporaryDirectory() as cache:
    started = time.process_time()
    rows = load_dataset("json", data_files=sys.argv[2], split="train", cache_dir=cache)
    rows = rows.map(tokenize, batched=True, remove_columns=rows.column_names)
    tokens = sum(rows["length"])
    seconds = time.process_time() - started
print(json.dumps({"tokens": tokens, "tokensPerSecond": tokens / seconds, "seconds": seconds}))
