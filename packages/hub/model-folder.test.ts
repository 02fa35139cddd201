import assert from "node:assert/strict";
import { readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { copyOfGolden, goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { openModelFolder } from "./model-folder.ts";
import { openSafetensors } from "./safetensors.ts";
import { SafetensorsWriter } from "./safetensors-writer.ts";

const folders = ["llama_tied", "llama_tied_nf4_dq", "llama_untied", "llama_untied_bf16_sharded"];
const quantized = ["llama_untied_nf4", "llama_untied_nf4_dq", "llama_untied_fp4_dq"];

test("every golden folder opens and its tensors are found, whatever the shard", () => {
  for (const name of [...folders, ...quantized]) {
    using folder = openModelFolder(goldenPath(name));
    const { config } = folder;
    assert.deepEqual(
      [config.hiddenSize, config.intermediateSize, config.layerCount, config.headCount, config.kvHeadCount],
      [64, 176, 2, 4, 2],
    );
    assert.deepEqual([config.bosTokenId, config.eosTokenIds, config.padTokenId], [0, [1], 2]);
    assert.equal(config.tieWordEmbeddings, name.startsWith("llama_tied"));
    assert.equal(folder.read("model.layers.1.input_layernorm.weight").length, name.includes("bf16") ? 128 : 256);
    assert.equal(folder.tensors.has("lm_head.weight"), !config.tieWordEmbeddings);
    assert.equal(folder.quantStates.size, quantized.includes(name) || name.endsWith("_nf4_dq") ? 14 : 0);
  }
});

test("quant states say what bitsandbytes wrote", () => {
  using double = openModelFolder(goldenPath("llama_untied_fp4_dq"));
  const state = double.quantState("model.layers.0.self_attn.k_proj");
  assert.deepEqual([state?.quantType, state?.blockSize, state?.dtype, state?.shape], ["fp4", 64, "float32", [32, 64]]);
  assert.equal(state?.nested?.blockSize, 256);
  assert.equal(double.info(state?.tensors.absmax ?? "").dtype, "uint8");
  using single = openModelFolder(goldenPath("llama_untied_nf4"));
  const plain = single.quantState("model.layers.1.mlp.down_proj");
  assert.deepEqual([plain?.nested, plain?.tensors.nestedAbsmax], [null, null]);
  assert.equal(single.info(plain?.tensors.absmax ?? "").dtype, "float32");
  assert.equal(single.quantState("lm_head"), undefined);
});

/** Rewrites model.safetensors of a copied folder after a change to its list of tensors. */
function rewrite(
  folder: string,
  change: (specs: Map<string, { dtype: "float32" | "uint8"; shape: number[]; bytes: Uint8Array }>) => void,
) {
  const path = join(folder, "model.safetensors");
  const specs = new Map();
  using file = openSafetensors(path);
  for (const name of file.names()) specs.set(name, { ...file.info(name), bytes: file.read(name) });
  change(specs);
  const writer = new SafetensorsWriter(
    path,
    [...specs].map(([name, spec]) => ({ ...spec, name })),
  );
  for (const [name, { bytes }] of specs) writer.write(name, bytes);
  writer.finish();
}

test("missing, surplus and wrongly shaped weights are named", (t) => {
  const folder = copyOfGolden(t, "llama_tied");
  rewrite(folder, (specs) => {
    specs.delete("model.norm.weight");
    specs.set("model.layers.7.extra.weight", { dtype: "float32", shape: [1], bytes: new Uint8Array(4) });
    const q = specs.get("model.layers.0.self_attn.q_proj.weight")!;
    specs.set("model.layers.0.self_attn.q_proj.weight", { ...q, shape: [32, 128] });
  });
  assert.throws(() => openModelFolder(folder), {
    code: "INVALID_ARGUMENT",
    message:
      /missing weights: model\.norm\.weight; .*does not have: model\.layers\.7\.extra\.weight; .*q_proj\.weight: expected \[64,64\], got \[32,128\]/,
  });
});

test("a tied model may carry its head, an old one its inverse frequencies", (t) => {
  const folder = copyOfGolden(t, "llama_tied");
  rewrite(folder, (specs) => {
    specs.set("lm_head.weight", specs.get("model.embed_tokens.weight")!);
    specs.set("model.layers.0.self_attn.rotary_emb.inv_freq", {
      dtype: "float32",
      shape: [8],
      bytes: new Uint8Array(32),
    });
  });
  openModelFolder(folder).close();
});

test("a quant state that lies is an error that names the tensor", (t) => {
  const prefix = "model.layers.0.mlp.up_proj.weight";
  const cases: [string, RegExp][] = [
    [`${prefix}.absmax`, /up_proj\.weight\.absmax: expected uint8 \[176\], got nothing/],
    [`${prefix}.nested_quant_map`, /nested_quant_map: expected float32 \[256\], got nothing/],
    [`${prefix}.quant_state.bitsandbytes__nf4`, /does not have|expected float32, bfloat16/],
  ];
  for (const [name, message] of cases) {
    const folder = copyOfGolden(t, "llama_tied_nf4_dq");
    rewrite(folder, (specs) => specs.delete(name));
    assert.throws(() => openModelFolder(folder), message);
  }
  const texts: [(json: string) => string, RegExp][] = [
    [(s) => s.replace('"blocksize": 64', '"blocksize": 60'), /blocksize: expected one of 32, 64.*, got 60/],
    [(s) => s.replace('"blocksize": 64', '"blocksize": 128'), /absmax: expected uint8 \[88\], got uint8 \[176\]/],
    [(s) => s.replace("[176, 64]", "[64, 176]"), /up_proj\.weight: expected \[176,64\], got \[64,176\]/],
    [(s) => s.replace('"nf4"', '"fp4"'), /quant_type: expected the one in the tensor's name/],
    [(s) => s.slice(1), /expected JSON/],
  ];
  for (const [change, message] of texts) {
    const folder = copyOfGolden(t, "llama_tied_nf4_dq");
    rewrite(folder, (specs) => {
      const name = `${prefix}.quant_state.bitsandbytes__nf4`;
      const bytes = Buffer.from(change(Buffer.from(specs.get(name)!.bytes).toString()));
      specs.set(name, { dtype: "uint8", shape: [bytes.length], bytes });
    });
    assert.throws(() => openModelFolder(folder), message);
  }
});

test("a missing or cut shard and an index that lies", (t) => {
  const shard = "model-00002-of-00003.safetensors";
  const missing = copyOfGolden(t, "llama_untied_bf16_sharded");
  rmSync(join(missing, shard));
  assert.throws(() => openModelFolder(missing), { code: "NOT_FOUND", message: new RegExp(`missing shard ${shard}`) });
  const cut = copyOfGolden(t, "llama_untied_bf16_sharded");
  truncateSync(join(cut, shard), 100_000);
  assert.throws(() => openModelFolder(cut), { code: "DATA_LOSS", message: /truncated/ });
  const lies: [RegExp, string, RegExp][] = [
    [/("model.norm.weight": )"model-00003/, '$1"model-00001', /model\.norm\.weight is in model-00001.*, but it is not/],
    [/,\s*"model.norm.weight": "[^"]*"/, "", /does not list model\.norm\.weight/],
    [/("model.norm.weight": )"model-00003/, '$1"../model-00003', /expected a file name/],
  ];
  for (const [from, to, message] of lies) {
    const folder = copyOfGolden(t, "llama_untied_bf16_sharded");
    const index = join(folder, "model.safetensors.index.json");
    writeFileSync(index, readFileSync(index, "utf8").replace(from, to));
    assert.throws(() => openModelFolder(folder), { code: "DATA_LOSS", message });
  }
});

test("no folder, no config, no weights", (t) => {
  assert.throws(() => openModelFolder("/no/such/model"), { code: "NOT_FOUND", message: /no config\.json/ });
  const folder = copyOfGolden(t, "llama_tied");
  rmSync(join(folder, "model.safetensors"));
  assert.throws(() => openModelFolder(folder), { code: "NOT_FOUND", message: /no model\.safetensors/ });
  writeFileSync(join(folder, "pytorch_model.bin"), "a pickle");
  const message = /no model\.safetensors .*\(pytorch_model\.bin is not read: it can run code\)/;
  assert.throws(() => openModelFolder(folder), { code: "NOT_FOUND", message });
  assert.throws(() => openModelFolder(temporaryFolder(t)), { code: "NOT_FOUND" });
});
