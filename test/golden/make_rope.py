"""Inverse frequencies and attention factors of transformers' rope variants, for test/golden/rope.test.ts.

Run: python test/golden/make_rope.py > test/golden/rope.json   (transformers 5, torch)
"""
import json

import transformers
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

cases = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 512},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    "yarn_mscale": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "mscale": 1.0,
                    "mscale_all_dim": 0.5, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False},
}
out = {"made_with": f"transformers {transformers.__version__}", "cases": []}
for name, scaling in cases.items():
    for length in [512, 3000]:
        config = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=512,
                             rope_parameters={"rope_theta": 10000.0, **scaling})
        inverse, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu", seq_len=length)
        out["cases"].append({"name": name, "positions": length, "config": {"hidden_size": 256, "num_attention_heads": 4,
                             "max_position_embeddings": 512, "rope_parameters": {"rope_theta": 10000.0, **scaling}},
                             "inverse": inverse.tolist(), "factor": factor})
print(json.dumps(out, indent=1))
