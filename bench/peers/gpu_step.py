"""A QLoRA step of transformers + PEFT on random weights of a shape: tokens a second and peak memory; with --plain that of
plain_llama.py, where they are not installed.

Linear layers are bitsandbytes' where it is installed and has the device, else NF4 blocks that plain PyTorch decodes by
a table of pairs before each product. As bench/gpu/rows/packed.ts: bfloat16, LoRA on every linear layer, gradient
checkpointing, every token trained, gradients clipped at 0.3, AdamW.
"""

import argparse
import json
import statistics
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--device", required=True)
parser.add_argument("--shape", required=True, help="hidden,ffn,layers,heads,kv heads,vocabulary")
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--seq", type=int, required=True)
parser.add_argument("--rank", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--plain", action="store_true")
options = parser.parse_args()
device = "cuda" if options.device == "cuda" else "cpu"
hidden, ffn, layers, heads, kv_heads, vocab = map(int, options.shape.split(","))
BLOCK = 64
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
table = torch.tensor(NF4, dtype=torch.bfloat16)
pairs = torch.stack([table.repeat_interleave(16), table.repeat(16)], 1).to(device)  # of each byte, high nibble first


class PlainNf4(torch.nn.Linear):
    """Random codes and constants: what they cost is what real ones cost."""

    def __init__(self, in_features, out_features):
        super().__init__(0, 0, bias=False, device=device, dtype=torch.bfloat16)
        self.in_features, self.out_features = in_features, out_features
        count = in_features * out_features
        self.codes = torch.randint(0, 256, (count // 2,), device=device, dtype=torch.uint8)
        self.absmax = torch.rand(count // BLOCK, 1, device=device).mul_(0.04).add_(0.02).bfloat16()

    def forward(self, x):
        values = torch.nn.functional.embedding(self.codes.int(), pairs).view(-1, BLOCK) * self.absmax
        return torch.nn.functional.linear(x, values.view(self.out_features, self.in_features))


def bitsandbytes_linear(in_features, out_features):
    import bitsandbytes as bnb

    layer = bnb.nn.Linear4bit(
        in_features, out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", device="meta"
    )
    weight = torch.randn(out_features, in_features, device=device, dtype=torch.bfloat16) * 0.02
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
    return layer.to(device)


def quantizer():
    if device == "cuda":
        try:
            bitsandbytes_linear(64, 64)(torch.randn(1, 64, device=device, dtype=torch.bfloat16))
            return "bitsandbytes", bitsandbytes_linear
        except Exception:  # not installed, or not for this device
            pass
    return "NF4 decoded by plain PyTorch", PlainNf4


def build(make):
    """A model of transformers with adapters by PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocab, max_position_embeddings=max(options.seq, 2048),
        attn_implementation="sdpa", use_cache=False, dtype=torch.bfloat16,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, torch.nn.Linear):
                    setattr(part, name, make(layer.in_features, layer.out_features))
    with torch.device(device):
        rotary = type(model.model.rotary_emb)(config)
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            if p.is_meta:
                value = torch.randn(p.shape, device=device, dtype=torch.bfloat16) * 0.02 + (p.dim() == 1)
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    model.model.rotary_emb = rotary
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    lora = LoraConfig(
        r=options.rank, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, lora)
    return model, lambda ids: model(input_ids=ids, labels=ids).loss


def build_plain(make):
    from plain_llama import Llama

    model = Llama(hidden, ffn, layers, heads, kv_heads, vocab, options.rank, make, device)
    return model, model


quantized_by, make = quantizer()
model, loss_of = (build_plain if options.plain else build)(make)
model.train()
parameters = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
ids = torch.randint(0, vocab, (options.batch, options.seq), device=device)


def step():
    started = time.perf_counter()
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = loss_of(ids)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 0.3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    float(loss.detach())
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


step()
seconds = [step() for _ in range(options.steps)]
print(
    json.dumps(
        {
            "tokens_per_s": options.batch * options.seq / statistics.median(seconds),
            "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else float("nan"),
            "quantizer": quantized_by,
        }
    ).replace("NaN", "null")
)
