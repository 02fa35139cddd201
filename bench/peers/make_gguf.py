"""A Llama folder as GGUF for llama.cpp: linear layers Q4_0, embedding (and tied head) Q8_0, norms float32.

Usage: make_gguf.py FOLDER OUT.gguf. The tokenizer goes along when it is a byte-level BPE (tokenizer.json);
another one is replaced by a byte vocabulary of the same size. Needs gguf, numpy, torch, safetensors.
"""

import json
import os
import sys

import gguf
import numpy as np
from safetensors.torch import load_file

Q4_0, Q8_0, F32 = (
    gguf.GGMLQuantizationType.Q4_0,
    gguf.GGMLQuantizationType.Q8_0,
    gguf.GGMLQuantizationType.F32,
)
LINEAR = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORM = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def interleave(rows, heads):
    """llama.cpp rotates neighbouring pairs, Hugging Face the two halves of a head."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(rows.shape))


def add_settings(out, config):
    out.add_block_count(config["num_hidden_layers"])
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    rope = config.get("rope_parameters") or config
    out.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    out.add_vocab_size(config["vocab_size"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)


def add_tokenizer(out, folder, config):
    path = os.path.join(folder, "tokenizer.json")
    size = config["vocab_size"]
    model = json.load(open(path))["model"] if os.path.exists(path) else {}
    if model.get("type") == "BPE" and len(model["vocab"]) <= size:
        tokens = [f"<unused{i}>" for i in range(size)]
        for token, i in model["vocab"].items():
            tokens[i] = token
        special = {t["id"] for t in json.load(open(path)).get("added_tokens", [])}
        out.add_tokenizer_model("gpt2")
        out.add_tokenizer_pre("smollm")
        out.add_token_list(tokens)
        out.add_token_types([3 if i in special else 1 for i in range(size)])
        out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    else:
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
        tokens += [f"t{i}" for i in range(len(tokens), size)]
        out.add_tokenizer_model("llama")
        out.add_token_list(tokens)
        out.add_token_scores([0.0] * size)
        out.add_token_types([2, 3, 3] + [6] * 256 + [1] * (size - 259))
    out.add_bos_token_id(config.get("bos_token_id") or 0)
    eos = config.get("eos_token_id") or 0
    out.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)


def add_tensor(out, name, values, dtype):
    if dtype == F32:
        out.add_tensor(name, values)
    else:
        out.add_tensor(name, gguf.quants.quantize(values, dtype), raw_dtype=dtype)


def add_weights(out, folder, config):
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    for key, tensor in load_file(os.path.join(folder, "model.safetensors")).items():
        values = tensor.float().numpy()
        if key == "model.embed_tokens.weight":
            add_tensor(out, "token_embd.weight", values, Q8_0)
        elif key == "lm_head.weight":
            add_tensor(out, "output.weight", values, Q8_0)
        elif key == "model.norm.weight":
            add_tensor(out, "output_norm.weight", values, F32)
        else:
            _, _, layer, rest = key.split(".", 3)
            module = rest.removesuffix(".weight")
            if module in NORM:
                add_tensor(out, f"blk.{layer}.{NORM[module]}.weight", values, F32)
                continue
            if module == "self_attn.q_proj":
                values = interleave(values, heads)
            if module == "self_attn.k_proj":
                values = interleave(values, kv_heads)
            add_tensor(out, f"blk.{layer}.{LINEAR[module]}.weight", values, Q4_0)


folder, path = sys.argv[1:3]
config = json.load(open(os.path.join(folder, "config.json")))
writer = gguf.GGUFWriter(path, "llama")
add_settings(writer, config)
add_tokenizer(writer, folder, config)
add_weights(writer, folder, config)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(json.dumps({"bytes": os.path.getsize(path)}))
