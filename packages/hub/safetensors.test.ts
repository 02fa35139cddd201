import assert from "node:assert/strict";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { NibbleError } from "#packages/errors";
import { goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { readGolden } from "../../test/support/safetensors-golden.ts";
import { openSafetensors } from "./safetensors.ts";
import { duplicateKey, parseHeader } from "./safetensors-header.ts";

const file = goldenPath("llama_tied_nf4_dq", "model.safetensors");

test("names, shapes, dtypes and bytes are those of the golden file", () => {
  using opened = openSafetensors(file);
  const golden = readGolden(file);
  assert.deepEqual(opened.names().sort(), [...golden.keys()].sort());
  assert.equal(opened.metadata["format"], "pt");
  for (const [name, tensor] of golden) {
    assert.deepEqual(opened.info(name).shape, tensor.shape);
    assert.deepEqual(Buffer.from(opened.read(name)), Buffer.from(tensor.bytes), name);
  }
  assert.equal(opened.info("model.norm.weight").dtype, "float32");
});

test("ranges of a tensor, and no byte beyond it", () => {
  using opened = openSafetensors(file);
  const whole = opened.read("model.norm.weight");
  const part = new Uint8Array(10);
  opened.readInto("model.norm.weight", part, 246);
  assert.deepEqual(part, whole.subarray(246));
  assert.throws(() => opened.readInto("model.norm.weight", part, 247), /expected a range inside 0..256, got 247..257/);
  assert.throws(() => opened.read("nothing"), { code: "NOT_FOUND" });
});

test("a closed file and a file that shrinks while open are errors", (t) => {
  const path = join(temporaryFolder(t), "a.safetensors");
  writeFileSync(path, readFileSync(file));
  const opened = openSafetensors(path);
  truncateSync(path, 20_000);
  assert.throws(() => opened.read("model.embed_tokens.weight"), { code: "DATA_LOSS", message: /truncated/ });
  opened.close();
  opened.close();
  assert.throws(() => opened.read("model.norm.weight"), { code: "FAILED_PRECONDITION" });
});

/** Parses a header over `dataBytes` bytes of data. */
function parse(header: unknown, dataBytes = 8) {
  const bytes = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  return parseHeader(bytes, 8 + bytes.length + dataBytes, "f");
}
const f32 = (begin: number, end: number, shape = [(end - begin) / 4]) => ({
  dtype: "F32",
  shape,
  data_offsets: [begin, end],
});

test("every lie of a header is an error that says which", () => {
  assert.equal(parse({ a: f32(0, 4), b: f32(4, 8) }).tensors.size, 2);
  assert.equal(parse({ a: f32(0, 0), b: f32(0, 8), c: f32(8, 8, [3, 0]) }).tensors.size, 3);
  const cases: [unknown, RegExp][] = [
    [{ a: f32(0, 8), b: f32(4, 8) }, /tensor [ab]: overlaps/],
    [{ a: f32(0, 4) }, /bytes follow the last tensor/],
    [{ a: f32(4, 8) }, /leaves a gap/],
    [{ a: f32(0, 16) }, /truncated: expected \d+ bytes/],
    [{ a: f32(0, 8, [3]) }, /tensor a: expected 12 bytes for F32 \[3\], got data_offsets of 8 bytes/],
    [{ a: f32(8, 0, [2]) }, /data_offsets: expected \[begin, end\]/],
    [{ a: { ...f32(0, 8), dtype: "F31" } }, /unknown dtype "F31"/],
    [{ a: { ...f32(0, 8), shape: [-2] } }, /shape: expected whole numbers/],
    [{ a: { ...f32(0, 8), shape: [2 ** 40, 2 ** 40] } }, /tensor a: expected/],
    [{ a: { ...f32(0, 8), data_offsets: [0, 8, 9] } }, /data_offsets/],
    [{ a: { ...f32(0, 8), extra: 1 } }, /unknown key extra/],
    [{ a: 3 }, /expected an object/],
    [{ __metadata__: { a: 1 }, a: f32(0, 8) }, /__metadata__: expected an object of strings/],
    [`{"a":${JSON.stringify(f32(0, 8))},"a":${JSON.stringify(f32(0, 8))}}`, /tensor a is listed twice/],
    ["[]", /expected a JSON object/],
    ['{"a":', /expected JSON/],
  ];
  for (const [header, message] of cases) assert.throws(() => parse(header), { name: "NibbleError", message });
  assert.throws(() => parseHeader(Buffer.from([0x7b, 0xff]), 10, "f"), /UTF-8/);
});

test("duplicate keys are found whatever the strings around them hold", () => {
  assert.equal(duplicateKey('{"a\\"{":{"a":1,"b":2},"b":{"x":"}"},"c":{}}'), undefined);
  assert.equal(duplicateKey('{"a":{"b":{}},"b":{},"\\u0061":{}}'), "a");
});

test("a cut or changed file opens with the same tensors or throws a NibbleError, never anything else", (t) => {
  const path = join(temporaryFolder(t), "fuzz.safetensors");
  const good = readFileSync(goldenPath("train", "init_adapter", "adapter_model.safetensors"));
  const headerEnd = 8 + Number(good.readBigUInt64LE(0));
  const change = fc.record({
    cut: fc.option(fc.integer({ min: 0, max: good.length - 1 }), { nil: undefined }),
    edits: fc.array(fc.tuple(fc.integer({ min: 0, max: headerEnd - 1 }), fc.integer({ min: 0, max: 255 })), {
      maxLength: 4,
    }),
  });
  const check = fc.property(change, ({ cut, edits }) => {
    const bytes = Buffer.from(good.subarray(0, cut));
    for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
    writeFileSync(path, bytes);
    try {
      using opened = openSafetensors(path);
      const end = Math.max(...[...opened.tensors.values()].map((i) => i.byteOffset + i.byteLength));
      assert.equal(end, bytes.length);
      for (const name of opened.names()) opened.read(name);
    } catch (thrown) {
      assert.ok(thrown instanceof NibbleError, String(thrown));
    }
    if (cut !== undefined) assert.throws(() => openSafetensors(path), NibbleError);
  });
  fc.assert(check, { numRuns: 200 });
});

test("no such file, and a folder in its place", (t) => {
  assert.throws(() => openSafetensors("/no/such.safetensors"), { code: "NOT_FOUND" });
  assert.throws(() => openSafetensors(temporaryFolder(t)), { name: "NibbleError" });
});
