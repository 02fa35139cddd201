"""PEFT adapters that are more than LoRA on the golden models, each with the logits after one prompt.

Run: python test/golden/make_peft.py test/golden   (torch, transformers 5, peft); then remove what README.md's it wrote.
"""

import json
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
prompt = torch.tensor([[5, 77, 130, 9, 300, 41]])


def make(name, base, added_tokens=0, **settings):
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/{base}", dtype=torch.float32)
    if added_tokens:
        model.resize_token_embeddings(model.config.vocab_size + added_tokens, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    adapted.eval()
    adapted.save_pretrained(f"{folder}/peft/{name}")
    with torch.no_grad():
        logits = adapted(prompt).logits[0, -1]
    with open(f"{folder}/peft/{name}/logits.json", "w") as file:
        json.dump(logits.tolist(), file)


make("dora", "llama_untied", target_modules=["q_proj", "v_proj", "down_proj"], use_dora=True)
make("resized", "llama_untied", added_tokens=3, target_modules=["q_proj"])
make("tokens_tied", "llama_tied", target_modules=["q_proj"], trainable_token_indices=[5, 77])
make("mod_tied", "llama_tied", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
