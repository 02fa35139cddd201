// GGUF files: blocks are gguf-py's byte for byte, a file is what its own header says, tokenizers that llama.cpp has no
// name for are refused.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../../test/support/folders.ts";
import { encodeQ40, encodeQ80 } from "./blocks.ts";
import { GgufWriter } from "./container.ts";
import { ggufName, interleaveHeads } from "./llama.ts";
import { preTokenizerName, tokenizerMetadata } from "./tokenizer.ts";

const golden = JSON.parse(readFileSync("test/golden/gguf_blocks.json", "utf8")) as Record<string, string>;
const bytesOf = (key: string) => new Uint8Array(Buffer.from(golden[key] ?? "", "base64"));

test("blocks are those of gguf-py", () => {
  const values = new Float32Array(bytesOf("values").buffer);
  assert.ok(values.length > 200);
  assert.deepEqual(encodeQ80(values), bytesOf("q8_0"));
  assert.deepEqual(encodeQ40(values), bytesOf("q4_0"));
  assert.throws(() => encodeQ80(new Float32Array(33)), /multiple of 32 numbers, got 33/);
});

test("a file says where its tensors are", (t) => {
  const file = join(temporaryFolder(t), "m.gguf");
  const keys = new Map([
    ["general.architecture", { type: "string", value: "llama" }],
    ["a.list", { type: "list", of: "string", value: ["x", "ÿ"] }],
    ["a.flag", { type: "bool", value: true }],
  ] as const);
  const tensors = [
    { name: "one", type: "f32", shape: [3] },
    { name: "two", type: "q8_0", shape: [2, 32] },
  ] as const;
  const writer = new GgufWriter(file, keys, tensors);
  writer.write("one", new Uint8Array(12).fill(1));
  writer.write("two", new Uint8Array(68).fill(2));
  assert.equal(existsSync(file), false, "not before it is whole");
  const bytes = writer.finish();
  const content = readFileSync(file);
  assert.equal(content.length, bytes);
  assert.equal(content.subarray(0, 4).toString(), "GGUF");
  assert.deepEqual([content.readUInt32LE(4), content.readUInt32LE(8), content.readUInt32LE(16)], [3, 2, 3]);
  const at = content.indexOf("two");
  // Behind the name: rank, columns, rows, type, offset.
  assert.deepEqual([content.readUInt32LE(at + 3), content.readUInt32LE(at + 7)], [2, 32]);
  assert.deepEqual([content.readUInt32LE(at + 23), content.readUInt32LE(at + 27)], [8, 32]);
  const data = Math.ceil((at + 35) / 32) * 32;
  assert.deepEqual([...content.subarray(data, data + 12)], new Array(12).fill(1));
  assert.deepEqual([...content.subarray(data + 32, data + 100)], new Array(68).fill(2));
  assert.equal(content.length, data + 32 + 96);
});

test("what is missing or wrong leaves no file", (t) => {
  const folder = temporaryFolder(t);
  const tensors = [{ name: "one", type: "f32", shape: [3] }] as const;
  const short = new GgufWriter(join(folder, "a.gguf"), new Map(), tensors);
  assert.throws(() => short.finish(), /one was not written/);
  const wrong = new GgufWriter(join(folder, "b.gguf"), new Map(), tensors);
  assert.throws(() => wrong.write("one", new Uint8Array(11)), /expected one of 12 bytes, got one of 11/);
  assert.equal(existsSync(join(folder, "a.gguf")) || existsSync(join(folder, "b.gguf")), false);
});

test("names, and rows of heads in pairs", () => {
  assert.equal(ggufName("model.layers.11.mlp.down_proj.weight"), "blk.11.ffn_down.weight");
  assert.equal(ggufName("model.layers.0.self_attn.q_proj.bias"), "blk.0.attn_q.bias");
  assert.throws(() => ggufName("model.layers.0.self_attn.rotary_emb.inv_freq"), /GGUF has no name/);
  const rows = Float32Array.from([0, 1, 2, 3, 10, 11, 12, 13]);
  assert.deepEqual([...interleaveHeads(rows, 2, 8)], [0, 2, 1, 3, 10, 12, 11, 13]);
});

const split = (regex: string) => ({
  type: "Sequence",
  pretokenizers: [
    { type: "Split", pattern: { Regex: regex } },
    { type: "ByteLevel", use_regex: false },
  ],
});

test("ways of cutting text have llama.cpp's names, or are refused", () => {
  const digits = {
    type: "Sequence",
    pretokenizers: [{ type: "Digits", individual_digits: true }, { type: "ByteLevel" }],
  };
  assert.equal(preTokenizerName(digits), "smollm");
  assert.equal(preTokenizerName({ type: "ByteLevel", use_regex: true }), "gpt-2");
  assert.equal(preTokenizerName(split("(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+")), "llama-bpe");
  assert.equal(preTokenizerName(split("(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?\\s+")), "qwen2");
  assert.throws(() => preTokenizerName(split("\\w+")), /expected one that llama\.cpp has a name for .*got Split \\w\+/);
  assert.throws(() => preTokenizerName({ type: "Whitespace" }), /expected ByteLevel, got Whitespace/);
});

test("a tokenizer with more tokens than the model has rows is refused; one of SentencePiece keeps its bytes", (t) => {
  const folder = temporaryFolder(t);
  const vocab = { "<unk>": 0, "<0x0A>": 1, "▁a": 2, b: 3 };
  const model = { type: "BPE", byte_fallback: true, unk_token: "<unk>", vocab, merges: [["▁", "a"]] };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify({ model, added_tokens: [] }));
  const config = { vocabSize: 6, bosTokenId: null, eosTokenIds: [3], padTokenId: null } as never;
  const keys = tokenizerMetadata(folder, config);
  assert.deepEqual(keys.get("tokenizer.ggml.model"), { type: "string", value: "llama" });
  assert.deepEqual(keys.get("tokenizer.ggml.token_type"), { type: "list", of: "int32", value: [2, 6, 1, 1, 5, 5] });
  assert.deepEqual(keys.get("tokenizer.ggml.eos_token_id"), { type: "uint32", value: 3 });
  const small = { vocabSize: 3, bosTokenId: null, eosTokenIds: [], padTokenId: null } as never;
  assert.throws(() => tokenizerMetadata(folder, small), /token "b": expected an id below vocab_size 3, got 3/);
});
