// A model out of mapped files is the model that copying gives, and what cannot be mapped is copied.
import assert from "node:assert/strict";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { memory } from "#native";
import { digestOfModel, type ModelFolder, openModelFolder } from "#packages/hub";
import { copyOfGolden, goldenPath } from "../../test/support/folders.ts";
import { freeModel, loadModel } from "./model-load.ts";
import { defaultQuant } from "./quantize-tensor.ts";
import { ServedModel } from "./served-model.ts";
import { WeightReader } from "./weight-reader.ts";

const sampling = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
const limits = { sequencesMax: 1, stepTokensMax: 32, cacheTokensMax: 64, waitingMax: 1 };

/** What the model says after three tokens, with the logits of the last. */
async function answer(modelDir: string): Promise<{ ids: number[]; logits: Float32Array | null; mapped: number }> {
  const before = memory.report().mapped;
  const model = ServedModel.open({ modelDir, device: "cpu", dtype: "float32", quant: null, ...limits });
  const mapped = memory.report().mapped - before;
  const ids: number[] = [];
  let logits: Float32Array | null = null;
  const input = { inputIds: [3, 4, 5], maxNewTokens: 4, sampling, adapterId: null, ignoreEos: true, wantLogits: true };
  await model.generate(
    input,
    (token) => {
      ids.push(token.id);
      logits = token.logits;
    },
    new AbortController().signal,
  );
  model.free();
  assert.equal(memory.report().mapped, before, "nothing stays mapped");
  return { ids, logits, mapped };
}

/** One more blank in the header: every tensor begins at an odd place. */
function shiftByOne(folder: string): void {
  const file = join(folder, "model.safetensors");
  const bytes = readFileSync(file);
  const header = Number(bytes.readBigUInt64LE(0));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header + 1));
  writeFileSync(
    file,
    Buffer.concat([length, bytes.subarray(8, 8 + header), Buffer.from(" "), bytes.subarray(8 + header)]),
  );
}

describe("a file whose tensors are not aligned", () => {
  for (const golden of ["llama_tied_nf4_dq", "llama_untied"]) {
    test(`${golden}: what has more than a byte an element is copied, and says the same`, async (t) => {
      const shifted = copyOfGolden(t, golden);
      shiftByOne(shifted);
      const [want, got] = [await answer(goldenPath(golden)), await answer(shifted)];
      assert.ok(want.mapped > 0 && got.mapped < want.mapped, `${want.mapped}, ${got.mapped} bytes mapped`);
      if (golden === "llama_untied") assert.equal(got.mapped, 0);
      assert.deepEqual([got.ids, got.logits], [want.ids, want.logits]);
    });
  }
});

const bytesOf = (folder: ModelFolder, name: string) => folder.info(name).byteLength;

test("weights that are used as they are stored are mapped, codes of an earlier quantization too", () => {
  using folder = openModelFolder(goldenPath("llama_tied_nf4_dq"));
  const before = memory.report().mapped;
  const model = loadModel(folder, { device: "cpu", quant: null });
  const mapped = memory.report().mapped - before;
  const codes = [...folder.quantStates.values()].reduce((sum, { tensors }) => sum + bytesOf(folder, tensors.weight), 0);
  assert.ok(mapped > codes, `${mapped} bytes are mapped, ${codes} of codes`);
  freeModel(model);
  assert.equal(memory.report().mapped, before);
});

test("what is trained is a copy, and what is quantized on loading lets its source go", () => {
  using folder = openModelFolder(goldenPath("llama_untied"));
  const before = memory.report().mapped;
  const trained = loadModel(folder, { device: "cpu", quant: null, float32: true });
  assert.equal(memory.report().mapped, before);
  freeModel(trained);
  const quantized = loadModel(folder, { device: "cpu", quant: defaultQuant });
  const plain = ["model.embed_tokens.weight", "lm_head.weight"];
  const norms = [...folder.tensors.keys()].filter((name) => name.includes("norm"));
  const kept = [...plain, ...norms].reduce((sum, name) => sum + bytesOf(folder, name), 0);
  assert.equal(memory.report().mapped - before, kept);
  freeModel(quantized);
});

test("a file that was cut after its header was read is refused, and nothing stays behind", (t) => {
  const copy = copyOfGolden(t, "llama_untied");
  using folder = openModelFolder(copy);
  truncateSync(join(copy, "model.safetensors"), 20_000);
  const before = memory.report().current.weights;
  assert.throws(() => loadModel(folder, { device: "cpu", quant: null }), { code: "DATA_LOSS" });
  assert.equal(memory.report().current.weights, before);
});

test("a reader that maps nothing copies", () => {
  using folder = openModelFolder(goldenPath("llama_untied"));
  const before = memory.report().mapped;
  for (const [device, mapped] of [
    ["cpu", false],
    ["meta", true],
  ] as const) {
    using reader = new WeightReader(folder, device, { mapped });
    reader.tensor("model.norm.weight").free();
    assert.equal(memory.report().mapped, before);
  }
});

test("the digest is that of the folder, whenever it is asked for", () => {
  const modelDir = goldenPath("llama_untied_nf4_dq");
  using folder = openModelFolder(modelDir);
  const model = ServedModel.open({ modelDir, device: "cpu", dtype: "float32", quant: null, ...limits });
  assert.equal(model.digest(), digestOfModel(folder));
  assert.equal(model.digest(), digestOfModel(folder));
  model.free();
  const source = goldenPath("llama_untied");
  const quantized = ServedModel.open({
    modelDir: source,
    device: "cpu",
    dtype: "float32",
    quant: defaultQuant,
    ...limits,
  });
  assert.equal(quantized.digest(), digestOfModel(folder), "quantized on loading");
  quantized.free();
});
