"""What Python's users of the Hub do, against whatever HF_ENDPOINT says. Prints one JSON object on its last line.

usage: hub.py upload REPO DIR | snapshot REPO | load REPO ADAPTER_REPO... | publish REPO DIR ADAPTER_DIR OUT_DIR
              | rows REPO DIR
"""
import hashlib
import json
import sys

command, repo, *rest = sys.argv[1:]
prompt_ids = [5, 77, 130, 9, 300, 41]


def upload():
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, exist_ok=True)
    return {"sha": api.upload_folder(repo_id=repo, folder_path=rest[0]).oid}


def snapshot():
    from huggingface_hub import snapshot_download

    return {"folder": snapshot_download(repo)}


def answer(model):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt_ids])).logits[0, -1].tolist()


def load():
    """The base's logits, then those with each adapter, all by name."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(repo, dtype=torch.float32).eval()
    answers = [answer(model)]
    for adapter in rest:
        name, _, revision = adapter.partition("@")
        peft = PeftModel.from_pretrained(model, name, revision=revision or "main")
        answers.append(answer(peft.eval()))
        model = peft.unload()
    return {"logits": answers, "vocabulary": len(AutoTokenizer.from_pretrained(repo))}


def digests(state):
    """sha256 of each tensor's bytes, by name."""
    import torch

    def of(tensor):
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return hashlib.sha256(flat.numpy().tobytes()).hexdigest()

    return {name: of(tensor) for name, tensor in state.items()}


def publish():
    """push_to_hub of transformers, PEFT and bitsandbytes, the same saved to folders, and what they have in memory."""
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    base, adapter, out = rest
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    for one in (model, tokenizer):
        one.push_to_hub(repo)
        one.save_pretrained(f"{out}/model")
    tensors = {"model": digests(model.state_dict())}
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    quantized = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.bfloat16)
    quantized.push_to_hub(f"{repo}-quantized")
    quantized.save_pretrained(f"{out}/quantized")
    tensors["quantized"] = digests(quantized.state_dict())
    peft = PeftModel.from_pretrained(model, adapter)
    peft.push_to_hub(f"{repo}-adapter")
    peft.save_pretrained(f"{out}/adapter")
    tensors["adapter"] = digests(get_peft_model_state_dict(peft))
    return {"tensors": tensors}


def rows():
    """A folder of rows through the datasets library, and rows that it pushes by itself."""
    from datasets import load_dataset
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo, repo_type="dataset")
    api.upload_folder(repo_id=repo, folder_path=rest[0], repo_type="dataset")
    loaded = load_dataset(repo, split="train")
    loaded.push_to_hub(f"{repo}-pushed")
    return {"rows": list(loaded), "pushed": list(load_dataset(f"{repo}-pushed", split="train"))}


print(json.dumps({"rows": rows, "upload": upload, "snapshot": snapshot, "load": load, "publish": publish}[command]()))
