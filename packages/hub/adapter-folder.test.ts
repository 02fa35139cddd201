import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parse } from "yaml";
import { copyOfGolden, goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { type AdapterToWrite, openAdapterFolder, writeAdapterFolder } from "./adapter-folder.ts";
import { adapterKey, type LoraMatrix } from "./adapter-keys.ts";
import { type LoraConfig, unknownTargets } from "./lora-config.ts";
import { readModelConfig } from "./model-folder.ts";
import { openSafetensors } from "./safetensors.ts";
import type { TensorInfo } from "./safetensors-header.ts";
import { SafetensorsWriter } from "./safetensors-writer.ts";

const golden = goldenPath("train", "qlora_adapter");
const base = readModelConfig(goldenPath("llama_untied_nf4_dq")).config;

function copyOf(path: string, changes: Partial<AdapterToWrite> = {}): AdapterToWrite {
  const source = openAdapterFolder(path, { config: base });
  return {
    config: source.config,
    base,
    baseDigest: "sha256:00",
    dtype: "float32",
    bytesOf: (module, matrix) => source.read(module, matrix),
    card: { title: "An adapter", summary: "Says things.", figures: [["loss | after", 1.25]] },
    ...changes,
  };
}

test("PEFT's adapter opens: modules, scaling, bytes", () => {
  using adapter = openAdapterFolder(golden, { config: base, digest: "sha256:anything" });
  assert.equal(adapter.modules.size, 14);
  assert.deepEqual(adapter.modules.get("model.layers.1.mlp.down_proj"), {
    rank: 8,
    alpha: 16,
    scaling: 2,
    inFeatures: 176,
    outFeatures: 64,
  });
  assert.equal(adapter.baseDigest, null);
  assert.equal(adapter.read("model.layers.0.mlp.up_proj", "lora_B").length, 176 * 8 * 4);
  assert.equal(adapter.dtype("model.layers.0.mlp.up_proj", "lora_A"), "float32");
});

test("a written adapter has PEFT's tensors bit for bit, its keys, a card, and the base's digest", (t) => {
  const path = join(temporaryFolder(t), "adapter");
  writeAdapterFolder(path, copyOf(golden));
  assert.deepEqual(readdirSync(path).sort(), ["README.md", "adapter_config.json", "adapter_model.safetensors"]);
  using written = openSafetensors(join(path, "adapter_model.safetensors"));
  using peft = openSafetensors(join(golden, "adapter_model.safetensors"));
  assert.deepEqual(written.names(), peft.names());
  for (const name of peft.names()) assert.deepEqual(written.read(name), peft.read(name));
  assert.deepEqual({ ...written.metadata }, { format: "pt", "nibble.base_digest": "sha256:00" });
  const config = JSON.parse(readFileSync(join(path, "adapter_config.json"), "utf8"));
  const original = JSON.parse(readFileSync(join(golden, "adapter_config.json"), "utf8"));
  for (const [key, value] of Object.entries(config)) {
    const expected = key === "target_modules" ? original[key].sort() : original[key];
    assert.deepEqual(value, expected, key);
  }
  const card = readFileSync(join(path, "README.md"), "utf8");
  const front = parse(card.split("---")[1] ?? "");
  assert.deepEqual([front.base_model, front.library_name], ["llama_untied_nf4_dq", "peft"]);
  assert.match(card, /\| loss \\\| after \| 1\.25 \|/);
});

test("an adapter of another base is refused by digest and by shape", (t) => {
  const path = join(temporaryFolder(t), "adapter");
  writeAdapterFolder(path, copyOf(golden));
  openAdapterFolder(path, { config: base, digest: "sha256:00" }).close();
  assert.throws(() => openAdapterFolder(path, { config: base, digest: "sha256:11" }), {
    code: "FAILED_PRECONDITION",
    message: /another base: expected sha256:00, got sha256:11/,
  });
  const wider = { ...base, intermediateSize: 192 };
  assert.throws(() => openAdapterFolder(path, { config: wider }), /gate_proj: expected 64 -> 192, got 64 -> 176/);
  const deeper = { ...base, layerCount: 1 };
  assert.throws(() => openAdapterFolder(path, { config: deeper }), /not in the base: model\.layers\.1\./);
});

/** Rewrites the weights of a copied adapter after a change to their list. */
function changed(
  t: Parameters<typeof copyOfGolden>[0],
  change: (tensors: Map<string, TensorInfo & { bytes: Uint8Array }>) => void,
) {
  const folder = copyOfGolden(t, "train/qlora_adapter");
  const path = join(folder, "adapter_model.safetensors");
  using file = openSafetensors(path);
  const tensors = new Map(file.names().map((name) => [name, { ...file.info(name), bytes: file.read(name) }]));
  change(tensors);
  const writer = new SafetensorsWriter(
    path,
    [...tensors].map(([name, info]) => ({ ...info, name })),
  );
  for (const [name, { bytes }] of tensors) writer.write(name, bytes);
  writer.finish();
  return folder;
}

test("weights that are a pickle are not read", (t) => {
  const folder = temporaryFolder(t);
  cpSync(goldenPath("train", "init_adapter", "adapter_config.json"), join(folder, "adapter_config.json"));
  writeFileSync(join(folder, "adapter_model.bin"), "a pickle");
  const message = /no adapter_model\.safetensors \(adapter_model\.bin is not read: it can run code\)/;
  assert.throws(() => openAdapterFolder(folder), { code: "NOT_FOUND", message });
});

test("missing, surplus and wrongly shaped keys are errors that name them", (t) => {
  const a = adapterKey("model.layers.0.self_attn.q_proj", "lora_A");
  const b = adapterKey("model.layers.0.self_attn.q_proj", "lora_B");
  const cases: [Parameters<typeof changed>[1], RegExp][] = [
    [(m) => m.delete(b), /missing base_model\.model\.model\.layers\.0\.self_attn\.q_proj\.lora_B\.weight/],
    [(m) => m.delete(a), /missing .*q_proj\.lora_A\.weight/],
    [(m) => [a, b].map((key) => m.delete(key)), /missing keys of model\.layers\.0\.self_attn\.q_proj/],
    [
      (m) => m.set("base_model.model.lm_head.weight", m.get(a)!),
      /lm_head: expected \[512 or more, 64\], got \[8, 64\]/,
    ],
    [(m) => m.set(a, { ...m.get(a)!, shape: [64, 8] }), /q_proj\.lora_A\.weight: expected \[8,8\], got \[64,8\]/],
    [(m) => m.set(a.replace("q_proj", "x_proj"), m.get(a)!).set(b.replace("q_proj", "x_proj"), m.get(b)!), /x_proj/],
  ];
  for (const [change, message] of cases) {
    assert.throws(() => openAdapterFolder(changed(t, change), { config: base }), { code: "INVALID_ARGUMENT", message });
  }
});

test("settings that the engine does not follow are refused by name", (t) => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{ use_dora: true }, /use_dora: expected magnitudes just with it, got 0/],
    [{ modules_to_save: ["lm_head"] }, /missing the weights of lm_head \(modules_to_save\)/],
    [{ modules_to_save: ["norm"] }, /modules_to_save: expected embed_tokens or lm_head, got \["norm"\]/],
    [{ trainable_token_indices: [1, 2] }, /trainable_token_indices: expected 2 rows, got 0/],
    [{ trainable_token_indices: { wte: [1] } }, /trainable_token_indices: expected ids of embed_tokens/],
    [{ peft_type: "IA3" }, /peft_type: expected LORA, got IA3/],
    [{ bias: "all" }, /bias: expected none/],
    [{ target_modules: ".*_proj" }, /target_modules: expected a list or all-linear/],
    [{ init_lora_weights: "pissa_niter_4" }, /changes the base weights/],
    [{ peft_type: undefined }, /peft_type: expected a string, got nothing/],
    [{ r: 4 }, /lora_A\.weight: expected \[4,176\], got \[8,176\]/],
    [{ lora_alpha: undefined }, /lora_alpha: expected a number > 0, got nothing/],
    [{ target_modules: ["q_proj"] }, /not adapted or not in the base: model\.layers\.0\.mlp\.down_proj/],
  ];
  for (const [change, message] of cases) {
    const folder = copyOfGolden(t, "train/qlora_adapter");
    const path = join(folder, "adapter_config.json");
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...change }));
    assert.throws(() => openAdapterFolder(folder, { config: base }), message);
  }
  assert.throws(() => openAdapterFolder("/no/such/adapter"), { code: "NOT_FOUND" });
});

test("targets that no layer has are found", () => {
  assert.deepEqual(unknownTargets({ targetModules: ["q_proj", "mlp.up_proj", "proj", "lm_head"] }, base), [
    "proj",
    "lm_head",
  ]);
  assert.deepEqual(unknownTargets({ targetModules: "all-linear" }, base), []);
});

test("rank and alpha patterns and rsLoRA round through a folder", (t) => {
  const path = join(temporaryFolder(t), "adapter");
  const config: LoraConfig = {
    rank: 4,
    alpha: 8,
    dropout: 0.05,
    useRslora: true,
    targetModules: ["q_proj", "down_proj"],
    rankPattern: { down_proj: 9 },
    alphaPattern: { "model.layers.1.mlp.down_proj": 6 },
    baseModelNameOrPath: "",
  };
  const size = { q_proj: { lora_A: 4 * 64, lora_B: 64 * 4 }, down_proj: { lora_A: 9 * 176, lora_B: 64 * 9 } };
  const bytesOf = (module: string, matrix: LoraMatrix) =>
    new Uint8Array(size[module.endsWith("q_proj") ? "q_proj" : "down_proj"][matrix] * 2);
  writeAdapterFolder(path, copyOf(golden, { config, dtype: "bfloat16", bytesOf }));
  using read = openAdapterFolder(path, { config: base });
  assert.deepEqual(read.config, { ...config, targetModules: ["down_proj", "q_proj"] });
  const scaling = (module: string) => read.modules.get(module)?.scaling;
  assert.equal(scaling("model.layers.0.self_attn.q_proj"), 8 / 2);
  assert.equal(scaling("model.layers.0.mlp.down_proj"), 8 / 3);
  assert.equal(scaling("model.layers.1.mlp.down_proj"), 6 / 3);
});

test("a full disk leaves the old adapter and the files beside it", (t) => {
  const path = join(temporaryFolder(t), "out");
  mkdirSync(path);
  writeFileSync(join(path, "metrics.jsonl"), "{}\n");
  writeAdapterFolder(path, copyOf(golden));
  const before = readFileSync(join(path, "adapter_model.safetensors"));
  const write = () => {
    throw Object.assign(new Error("ENOSPC: no space left on device, write"), { code: "ENOSPC" });
  };
  const other = copyOf(goldenPath("train", "init_adapter"), { write });
  assert.throws(() => writeAdapterFolder(path, other), { code: "RESOURCE_EXHAUSTED" });
  assert.ok(before.equals(readFileSync(join(path, "adapter_model.safetensors"))));
  assert.deepEqual(readdirSync(path).sort(), [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "metrics.jsonl",
  ]);
  openAdapterFolder(path, { config: base }).close();
  assert.throws(() => writeAdapterFolder(join(path, "new"), other), { code: "RESOURCE_EXHAUSTED" });
  assert.equal(readdirSync(path).length, 4);
});
