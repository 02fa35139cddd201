// Whole folders against those that transformers and bitsandbytes wrote: every tensor byte for byte.
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { digestOfModel, ModelHasher, openModelFolder } from "#packages/hub";
import { goldenPath } from "../../test/support/golden-model.ts";
import { readGolden } from "../../test/support/safetensors-golden.ts";
import { freeModel, loadModel } from "./model-load.ts";
import { quantizeModel } from "./quantize-model.ts";
import { defaultQuant, type QuantOptions } from "./quantize-tensor.ts";

const folder = mkdtempSync(join(tmpdir(), "nibble-quantize-"));
after(() => rmSync(folder, { recursive: true }));

const fp4: QuantOptions = { ...defaultQuant, type: "fp4" };
const plainNf4: QuantOptions = { ...defaultQuant, doubleQuant: false };

describe("folders equal to bitsandbytes'", () => {
  for (const [source, golden, quant] of [
    ["llama_untied", "llama_untied_nf4_dq", defaultQuant],
    ["llama_untied", "llama_untied_fp4_dq", fp4],
    ["llama_untied", "llama_untied_nf4", plainNf4],
    ["llama_tied", "llama_tied_nf4_dq", defaultQuant],
    ["llama_untied_i192", "llama_untied_i192_nf4_dq", defaultQuant],
  ] as const) {
    test(golden, async () => {
      const outDir = join(folder, golden);
      await quantizeModel({ modelDir: goldenPath(source), outDir, quant });
      const ours = readGolden(join(outDir, "model.safetensors"));
      const theirs = readGolden(join(goldenPath(golden), "model.safetensors"));
      assert.deepEqual([...ours.keys()], [...theirs.keys()]);
      for (const [name, want] of theirs) assert.deepEqual(ours.get(name), want, name);
      const config = (dir: string) => JSON.parse(readFileSync(join(dir, "config.json"), "utf8")).quantization_config;
      const { bnb_4bit_compute_dtype: _, ...rest } = config(outDir);
      const { bnb_4bit_compute_dtype: __, ...want } = config(goldenPath(golden));
      assert.deepEqual(rest, want);
    });
  }
});

test("shards in, shards out, one digest; quantizing on load gives the same one", async () => {
  const modelDir = goldenPath("llama_untied_bf16_sharded");
  const one = await quantizeModel({ modelDir, outDir: join(folder, "one"), quant: defaultQuant });
  const many = await quantizeModel({
    modelDir,
    outDir: join(folder, "many"),
    quant: defaultQuant,
    shardBytesMax: 60_000,
  });
  assert.ok(readdirSync(join(folder, "many")).filter((f) => f.endsWith(".safetensors")).length > 1);
  assert.equal(many.digest, one.digest);
  using written = openModelFolder(join(folder, "many"));
  assert.equal(digestOfModel(written), one.digest);
  using source = openModelFolder(modelDir);
  const hasher = new ModelHasher();
  freeModel(loadModel(source, { device: "cpu", quant: defaultQuant, hasher }));
  assert.equal(hasher.digest(source.config), one.digest);
});

test("native memory stays below 1.5 times the largest tensor; bits per parameter are counted with all constants", async () => {
  const report = await quantizeModel({
    modelDir: goldenPath("llama_untied"),
    outDir: join(folder, "memory"),
    quant: defaultQuant,
  });
  const largest = 512 * 64 * 4;
  // Constants of tiny matrices weigh more than 4.127: the map of 256 floats is shared by few weights.
  assert.ok(report.peakBytes < 1.5 * largest, `${report.peakBytes} bytes at most, largest tensor ${largest}`);
  assert.ok(report.bitsPerParameter > 4.12 && report.bitsPerParameter < 6, `${report.bitsPerParameter} bits`);
});

test("NaN weights are refused by name and the old folder stays", async () => {
  const broken = join(folder, "nan");
  cpSync(goldenPath("llama_untied"), broken, { recursive: true });
  const file = join(broken, "model.safetensors");
  const bytes = readFileSync(file);
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + Number(bytes.readBigUInt64LE(0))));
  const name = "model.layers.1.mlp.up_proj.weight";
  bytes.writeFloatLE(Number.NaN, 8 + Number(bytes.readBigUInt64LE(0)) + header[name].data_offsets[0] + 40);
  writeFileSync(file, bytes);
  const outDir = join(folder, "kept");
  await quantizeModel({ modelDir: goldenPath("llama_untied"), outDir, quant: defaultQuant });
  const before = readFileSync(join(outDir, "model.safetensors"));
  await assert.rejects(
    quantizeModel({ modelDir: broken, outDir, quant: defaultQuant }),
    (error: Error) => error.message.includes(name) && error.message.includes("NaN"),
  );
  assert.deepEqual(readFileSync(join(outDir, "model.safetensors")), before);
  assert.deepEqual(
    readdirSync(folder).filter((f) => f.includes("partial")),
    [],
  );
});

test("a cancellation leaves no folder", async () => {
  const outDir = join(folder, "cancelled");
  const controller = new AbortController();
  const options = { modelDir: goldenPath("llama_untied"), outDir, quant: defaultQuant, signal: controller.signal };
  await assert.rejects(quantizeModel({ ...options, onProgress: () => controller.abort() }), { code: "CANCELLED" });
  assert.ok(!existsSync(outDir));
});

test("a folder that is quantized already is refused", async () => {
  const options = { modelDir: goldenPath("llama_untied_nf4"), outDir: join(folder, "twice"), quant: defaultQuant };
  await assert.rejects(quantizeModel(options), /quantized already/);
});
