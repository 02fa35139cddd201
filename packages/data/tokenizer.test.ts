import assert from "node:assert/strict";
import { readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { copyOfGolden, goldenPath } from "../../test/support/folders.ts";
import { StreamDecoder } from "./stream-decoder.ts";
import { loadTokenizer } from "./tokenizer.ts";

const tokenizer = loadTokenizer(goldenPath("llama_tied"), { vocabSize: 512 });
const cases: { text: string; ids: number[]; decoded: string }[] = JSON.parse(
  readFileSync(goldenPath("tokenizer_golden.json"), "utf8"),
);

test("ids and text are those of the Python tokenizer, case by case", () => {
  assert.ok(cases.length >= 8);
  for (const { text, ids, decoded } of cases) {
    assert.deepEqual(tokenizer.encode(text), ids, text);
    assert.deepEqual(tokenizer.encode(text, { addSpecialTokens: false }), ids.slice(1));
    assert.equal(tokenizer.decode(ids), decoded);
  }
  assert.equal(tokenizer.decode([0, 67, 1, 68], { skipSpecial: false }), "<s>a</s>b");
  assert.equal(tokenizer.decode([]), "");
});

test("special ids and the size of the vocabulary", () => {
  assert.deepEqual([tokenizer.bosTokenId, tokenizer.eosTokenId, tokenizer.padTokenId], [0, 1, 2]);
  assert.deepEqual([...tokenizer.specialIds].sort(), [0, 1, 2]);
  assert.deepEqual([tokenizer.vocabSize, tokenizer.tokenOf(1), tokenizer.idOf("<pad>")], [512, "</s>", 2]);
  for (const id of [512, -1, 1.5]) assert.throws(() => tokenizer.decode([id]), /expected one of the vocabulary/);
});

test("any text comes back from its ids", () => {
  const plain = fc.string({ unit: "grapheme" }).filter((text) => !/<s>|<\/s>|<pad>/.test(text));
  fc.assert(
    fc.property(plain, (text) => {
      assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
    }),
    { numRuns: 200 },
  );
});

function stream(ids: number[], skipSpecial = true): string[] {
  const decoder = new StreamDecoder(tokenizer, { skipSpecial });
  return [...ids.map((id) => decoder.push(id)), decoder.finish()];
}

test("a stream gives out no half character and adds up to the whole text", () => {
  const text = `${"你好 🙂 café ".repeat(30)}end`;
  const ids = tokenizer.encode(text);
  const pieces = stream(ids);
  assert.equal(pieces.join(""), text);
  assert.ok(pieces.every((piece) => !piece.includes("\uFFFD")));
  assert.ok(pieces.filter((piece) => piece !== "").length > 60, "pieces come as they are certain");
});

test("whatever the ids, the pieces add up to the decoded whole", () => {
  const ids = fc.array(fc.integer({ min: 0, max: 511 }), { maxLength: 120 });
  fc.assert(
    fc.property(ids, fc.boolean(), (list, skipSpecial) => {
      assert.equal(stream(list, skipSpecial).join(""), tokenizer.decode(list, { skipSpecial }));
    }),
    { numRuns: 150 },
  );
});

test("a decoder that finished starts anew", () => {
  const decoder = new StreamDecoder(tokenizer);
  const id = tokenizer.encode("a", { addSpecialTokens: false })[0]!;
  assert.equal(decoder.push(id) + decoder.finish() + decoder.push(id) + decoder.finish(), "aa");
});

test("a missing, broken or foreign tokenizer is an error", (t) => {
  const folder = copyOfGolden(t, "llama_tied");
  const message = /tokenizer mismatch: expected at most 500 ids .* got 512/;
  assert.throws(() => loadTokenizer(folder, { vocabSize: 500 }), { code: "FAILED_PRECONDITION", message });
  loadTokenizer(folder, { vocabSize: 576 });
  writeFileSync(join(folder, "tokenizer.json"), '{"model": {"type": "What"}}');
  assert.throws(() => loadTokenizer(folder), { code: "INVALID_ARGUMENT", message: /tokenizer\.json: cannot be used/ });
  writeFileSync(join(folder, "tokenizer.json"), "{");
  assert.throws(() => loadTokenizer(folder), { code: "INVALID_ARGUMENT", message: /expected JSON/ });
  rmSync(join(folder, "tokenizer.json"));
  writeFileSync(join(folder, "tokenizer.model"), "");
  assert.throws(() => loadTokenizer(folder), { code: "NOT_FOUND", message: /tokenizer\.model alone/ });
});

test("a tokenizer.json beyond the limit is refused before it is read", (t) => {
  const folder = copyOfGolden(t, "llama_tied");
  truncateSync(join(folder, "tokenizer.json"), 100_000_000); // a hole: zeros that take no space
  assert.throws(() => loadTokenizer(folder), {
    code: "INVALID_ARGUMENT",
    message: /tokenizer\.json: expected at most 67108864 bytes, got 100000000/,
  });
});
