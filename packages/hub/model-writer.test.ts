import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { copyOfGolden, goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { digestOfModel, ModelHasher } from "./digest.ts";
import { writeCall } from "./files.ts";
import { pythonFloatText } from "./json.ts";
import { openModelFolder } from "./model-folder.ts";
import { ModelWriter, type ModelWriterOptions, quantizationConfig, writeModelFolder } from "./model-writer.ts";
import { quantStateJson, quantStateSpecs } from "./quant-state.ts";
import type { TensorSpec } from "./safetensors-header.ts";

const card = { title: "A model", summary: "For tests.", baseModel: "", tags: ["nibble"], figures: [] };

/** All tensors of a golden folder, a quantized weight and its quant state in one group. */
function groupsOf(name: string) {
  using folder = openModelFolder(goldenPath(name));
  const tensor = (n: string) => ({ name: n, ...folder.info(n), bytes: folder.read(n) });
  const grouped = new Set([...folder.quantStates.values()].flatMap((s) => Object.values(s.tensors)));
  const plain = [...folder.tensors.keys()].filter((n) => !grouped.has(n)).map((n) => [tensor(n)]);
  const quantized = [...folder.quantStates.values()].map((s) =>
    Object.values(s.tensors).flatMap((n) => (n ? [tensor(n)] : [])),
  );
  return [...quantized, ...plain];
}

const optionsFor = (name: string, more: Partial<ModelWriterOptions> = {}): ModelWriterOptions => ({
  configText: readFileSync(goldenPath(name, "config.json"), "utf8"),
  sourceFolder: goldenPath(name),
  card,
  ...more,
});

test("a folder written from the 16-bit config and the 4-bit tensors is bitsandbytes' folder byte for byte", async (t) => {
  const out = join(temporaryFolder(t), "deep", "out");
  for (const [quantType, doubleQuant, name] of [
    ["nf4", true, "llama_untied_nf4_dq"],
    ["nf4", false, "llama_untied_nf4"],
    ["fp4", true, "llama_untied_fp4_dq"],
  ] as const) {
    const quantization_config = quantizationConfig({ quantType, doubleQuant, computeDType: "float32" });
    const options = optionsFor("llama_untied", { configChanges: { quantization_config } });
    const written = await writeModelFolder(out, options, groupsOf(name));
    for (const file of readdirSync(goldenPath(name))) {
      assert.ok(readFileSync(join(out, file)).equals(readFileSync(goldenPath(name, file))), `${name}/${file}`);
    }
    assert.deepEqual(written.files, [...readdirSync(goldenPath(name)), "README.md"].sort());
  }
  assert.deepEqual(readdirSync(join(out, "..")), ["out"]);
});

test("the JSON of every golden quant state is made again byte for byte", () => {
  for (const name of ["llama_untied_nf4_dq", "llama_untied_nf4", "llama_untied_fp4_dq", "llama_tied_nf4_dq"]) {
    using folder = openModelFolder(goldenPath(name));
    for (const [module, state] of folder.quantStates) {
      const made = quantStateJson(module, state);
      assert.equal(made.name, state.tensors.state);
      assert.equal(Buffer.from(made.bytes).toString(), Buffer.from(folder.read(made.name)).toString());
      for (const spec of quantStateSpecs(module, state)) assert.deepEqual(folder.info(spec.name).shape, spec.shape);
    }
  }
});

test("Python's spelling of floats", () => {
  const cases: [number, string][] = [
    [6, "6.0"],
    [0.5288688540458679, "0.5288688540458679"],
    [0.0001, "0.0001"],
    [0.00012345, "0.00012345"],
    [0.00001, "1e-05"],
    [1.5e-7, "1.5e-07"],
    [1e16, "1e+16"],
    [123456789012345680, "1.2345678901234568e+17"],
    [1e15, "1000000000000000.0"],
    [-0.25, "-0.25"],
    [0, "0.0"],
    [-0, "-0.0"],
  ];
  for (const [value, text] of cases) assert.equal(pythonFloatText(value), text);
});

test("shards with an index, groups whole, and the same digest however it is cut", async (t) => {
  const parent = temporaryFolder(t);
  const digests = [];
  for (const [name, shardBytesMax] of [
    ["llama_untied_nf4_dq", 40_000],
    ["llama_untied_nf4_dq", 150_000],
    ["llama_untied_nf4_dq", 10_000_000],
  ] as const) {
    const out = join(parent, String(shardBytesMax));
    await writeModelFolder(out, optionsFor(name, { shardBytesMax }), groupsOf(name));
    using folder = openModelFolder(out);
    for (const state of folder.quantStates.values()) {
      const shards = Object.values(state.tensors).map((n) => folder.tensors.get(n ?? state.tensors.weight)?.file.path);
      assert.equal(new Set(shards).size, 1);
    }
    digests.push(digestOfModel(folder), digestOfModel(openModelFolder(goldenPath(name))));
  }
  assert.equal(new Set(digests).size, 1);
  assert.match(digests[0] ?? "", /^sha256:[0-9a-f]{64}$/);
  const index = JSON.parse(readFileSync(join(parent, "150000", "model.safetensors.index.json"), "utf8"));
  assert.ok(new Set(Object.values(index.weight_map)).size > 1);
  const golden = JSON.parse(
    readFileSync(goldenPath("llama_untied_bf16_sharded", "model.safetensors.index.json"), "utf8"),
  );
  const plain = join(parent, "plain");
  const options = optionsFor("llama_untied_bf16_sharded", { shardBytesMax: 150_000 });
  await writeModelFolder(plain, options, groupsOf("llama_untied_bf16_sharded"));
  const made = JSON.parse(readFileSync(join(plain, "model.safetensors.index.json"), "utf8"));
  assert.deepEqual(made.metadata, golden.metadata);
});

test("a digest tells weights, shapes, names and settings apart, and not the order", () => {
  const { config } = openModelFolder(goldenPath("llama_tied"));
  const a: TensorSpec = { name: "model.norm.weight", dtype: "float32", shape: [2] };
  const b: TensorSpec = { ...a, name: "b" };
  const zeros = new Uint8Array(8);
  const of = (tensors: [TensorSpec, Uint8Array][], settings = config) => {
    const hasher = new ModelHasher();
    for (const [spec, bytes] of tensors) hasher.add(spec, bytes);
    return hasher.digest(settings);
  };
  const both: [TensorSpec, Uint8Array][] = [
    [a, zeros],
    [b, zeros],
  ];
  const base = of(both);
  assert.equal(of(both.toReversed()), base);
  const pieces = new ModelHasher();
  pieces.add(b, zeros);
  pieces.begin(a);
  pieces.update(zeros.subarray(3));
  pieces.update(zeros.subarray(5));
  assert.equal(pieces.digest(config), base);
  const changed = [
    of([both[1]!, [a, new Uint8Array(8).fill(1)]]),
    of([both[1]!, [{ ...a, shape: [1, 2] }, zeros]]),
    of([both[1]!, [{ ...a, dtype: "int32" }, zeros]]),
    of([both[1]!]),
    of(both, { ...config, rmsNormEps: 1e-5 }),
    of(both, { ...config, rope: { ...config.rope, theta: 1 } }),
  ];
  assert.equal(new Set([base, ...changed]).size, changed.length + 1);
  assert.throws(() => of([[a, zeros.subarray(1)]]), /expected 8 bytes, got 7/);
  assert.throws(() => of([both[0]!, both[0]!]), /came twice/);
});

test("what fails leaves the old folder and no litter: a full disk, a lost tensor, a stream that ends badly", async (t) => {
  const parent = temporaryFolder(t);
  const out = join(parent, "out");
  await writeModelFolder(out, optionsFor("llama_tied"), groupsOf("llama_tied"));
  const before = readFileSync(join(out, "model.safetensors"));
  let room = 300_000;
  const write: typeof writeCall = (fd, bytes, offset, length, position) => {
    room -= length;
    if (room < 0) throw Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
    return writeCall(fd, bytes, offset, length, position);
  };
  const full = writeModelFolder(out, optionsFor("llama_tied", { write }), groupsOf("llama_tied"));
  await assert.rejects(full, { code: "RESOURCE_EXHAUSTED" });
  const lost = writeModelFolder(out, optionsFor("llama_tied"), groupsOf("llama_tied").slice(1));
  await assert.rejects(lost, /missing weights: /);
  async function* broken() {
    yield groupsOf("llama_tied")[0]!;
    throw new Error("NaN in layer 3");
  }
  await assert.rejects(writeModelFolder(out, optionsFor("llama_tied"), broken()), /NaN in layer 3/);
  assert.ok(before.equals(readFileSync(join(out, "model.safetensors"))));
  assert.deepEqual(readdirSync(parent), ["out"]);
});

test("an output folder with other people's files, or the source itself, is refused before any work", (t) => {
  const parent = temporaryFolder(t);
  const out = join(parent, "out");
  mkdirSync(out);
  writeFileSync(join(out, "thesis.tex"), "");
  assert.throws(() => new ModelWriter(out, optionsFor("llama_tied")), {
    code: "FAILED_PRECONDITION",
    message: /it also holds thesis\.tex/,
  });
  const source = copyOfGolden(t, "llama_tied");
  const options = optionsFor("llama_tied", { sourceFolder: source });
  assert.throws(() => new ModelWriter(source, options), /other than the source model/);
  writeFileSync(join(parent, "file"), "");
  assert.throws(() => new ModelWriter(join(parent, "file"), options), /expected a folder, got a file/);
});
