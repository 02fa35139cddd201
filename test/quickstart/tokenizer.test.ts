// The quickstart's tokenizer: what is shipped is what its trainer makes, and no text is lost in it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { loadTokenizer } from "#packages/data";
import { byteCharacters, trainBpe } from "../../scripts/quickstart/bpe.ts";
import { documents } from "../../scripts/quickstart/corpus.ts";
import { preparedFiles } from "../../scripts/quickstart/prepare.ts";
import { modelFolder, vocabSize } from "../../scripts/quickstart/recipe.ts";

const tokenizer = loadTokenizer(modelFolder, { vocabSize });

test("the shipped files are what prepare.ts makes", () => {
  for (const [name, content] of preparedFiles()) {
    assert.ok(readFileSync(join(modelFolder, name), "utf8") === content, `${name} differs: run quickstart/prepare`);
  }
});

test("any text comes back as it was", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme" }), (text) => {
      fc.pre(!text.includes("\0"));
      assert.equal(tokenizer.decode(tokenizer.encode(text, { addSpecialTokens: false })), text);
    }),
    { seed: 1, numRuns: 500 },
  );
});

test("documents come back as they were, at more than three characters a token", () => {
  let characters = 0;
  let tokens = 0;
  for (const text of documents(99).take(300)) {
    const ids = tokenizer.encode(text);
    assert.equal(tokenizer.decode(ids, { skipSpecial: false }), `<s>${text}`);
    characters += text.length;
    tokens += ids.length;
  }
  assert.ok(characters / tokens > 3, `${characters / tokens} characters a token`);
});

test("training joins the most frequent pair first, the smaller ids where two are equal", () => {
  const { tokens, merges } = trainBpe(["ab ab abc", "cd cd"], ["<s>"], 1 + 256 + 3);
  assert.deepEqual(merges, [
    ["a", "b"],
    ["c", "d"],
    ["Ġ", "ab"],
  ]);
  assert.deepEqual(tokens.slice(257), ["ab", "cd", "Ġab"]);
});

test("training stops where no pair occurs twice, and special tokens are no text", () => {
  assert.deepEqual(trainBpe(["<s>ab<s>"], ["<s>"], 1000).merges, []);
  assert.equal(new Set(byteCharacters).size, 256);
});
