"""A QLoRA step of transformers + PEFT + bitsandbytes on the CPU: tokens a second and peak resident memory.

The recipe is that of bench/train-step.ts: NF4 with double quantization, LoRA on every linear layer, gradient
checkpointing, every token trained, gradients clipped at 0.3, AdamW.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--seq", type=int, default=256)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--steps", type=int, default=3)
parser.add_argument("--threads", type=int, required=True)
parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
options = parser.parse_args()

torch.set_num_threads(options.threads)
dtype = getattr(torch, options.dtype)
quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=dtype,
)
model = AutoModelForCausalLM.from_pretrained(
    options.model, quantization_config=quantization, device_map={"": "cpu"}, dtype=dtype
)
model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
lora = LoraConfig(
    r=options.rank, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
)
model = get_peft_model(model, lora)
model.train()
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=2e-4, weight_decay=0.0)
generator = torch.Generator().manual_seed(0)
ids = torch.randint(3, model.config.vocab_size, (options.batch, options.seq), generator=generator)


def step():
    started = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 0.3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - started


step()  # the first one takes memory
worked = time.process_time()
seconds = [step() for _ in range(options.steps)]
figures = {
    "tokens_per_s": options.batch * options.seq / statistics.median(seconds),
    "step_s": statistics.median(seconds),
    "cpu_s": (time.process_time() - worked) / options.steps,
    "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "dtype": options.dtype,
}
print(json.dumps(figures))
