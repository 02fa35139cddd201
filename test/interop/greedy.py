"""What the reference stack makes of folders that Nibble wrote. Prints one JSON object.

usage: greedy.py MODEL_DIR ADAPTER_DIR|- IDS NEW_TOKENS   (transformers, peft, bitsandbytes on the CPU)
"""
import json
import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

model_dir, adapter_dir, ids, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
prompt = torch.tensor([[int(i) for i in ids.split(",")]])
messages = []
warnings.showwarning = lambda message, *rest, **more: messages.append(str(message))
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, device_map="cpu")
if adapter_dir != "-":
    model = PeftModel.from_pretrained(model, adapter_dir)
# On CPUs with AVX-512 BF16 bitsandbytes' eval mode rounds to bfloat16; training mode (no dropout here) does not.
model.train()
with torch.no_grad():
    logits = model(input_ids=prompt).logits[0, -1].tolist()
    new = model.generate(input_ids=prompt, max_new_tokens=count, do_sample=False, eos_token_id=None)[0, prompt.shape[1]:]
missing = [m for m in messages if "missing adapter keys" in m]
print(json.dumps({"token_ids": new.tolist(), "logits": logits, "missing": missing, "kind": type(model).__name__}))
