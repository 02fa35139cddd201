import assert from "node:assert/strict";
import { cpSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { goldenPath } from "../../test/support/folders.ts";
import { adapterWithTokens } from "../../test/support/models.ts";
import { loadAdapterTokenizer, tokenizerOver } from "./adapter-tokenizer.ts";
import { loadTokenizer } from "./tokenizer.ts";

const base = goldenPath("llama_untied");
const without = { addSpecialTokens: false };

test("an adapter that added tokens brings their texts; one without embeddings of its own, none", (t) => {
  const folder = adapterWithTokens(t);
  const tokenizer = loadAdapterTokenizer(folder, base);
  assert.ok(tokenizer);
  assert.deepEqual([tokenizer.idOf("<three>"), tokenizer.decode([513], { skipSpecial: false })], [514, "<two>"]);
  assert.deepEqual(tokenizer.encode("<three>", without), [514]);
  rmSync(join(folder, "tokenizer.json"));
  assert.equal(loadAdapterTokenizer(folder, base), null);
  assert.equal(tokenizerOver(base, folder, { vocabSize: 512 }).vocabSize, 512);
  assert.equal(loadAdapterTokenizer(goldenPath("train", "qlora_adapter"), base), null);
});

test("what is missing beside its tokenizer.json is the base's", (t) => {
  const folder = adapterWithTokens(t);
  rmSync(join(folder, "tokenizer_config.json"));
  const [tokenizer, of] = [loadAdapterTokenizer(folder, base), loadTokenizer(base)];
  assert.deepEqual([tokenizer?.bosTokenId, tokenizer?.eosTokenId], [of.bosTokenId, of.eosTokenId]);
  assert.ok(tokenizer?.chatTemplate);
  assert.equal(tokenizer.chatTemplate.source, of.chatTemplate?.source);
  writeFileSync(join(folder, "chat_template.jinja"), "mine");
  assert.equal(loadAdapterTokenizer(folder, base)?.chatTemplate?.source, "mine");
});

test("added_tokens.json alone adds to the base's tokenizer", (t) => {
  const folder = adapterWithTokens(t);
  const whole = loadAdapterTokenizer(folder, base);
  rmSync(join(folder, "tokenizer.json"));
  rmSync(join(folder, "tokenizer_config.json"));
  const write = (value: object, name = "added_tokens.json") => writeFileSync(join(folder, name), JSON.stringify(value));
  write({ "<two>": 513, "<one>": 512, "<three>": 514, "<s>": 0 });
  const tokenizer = loadAdapterTokenizer(folder, base);
  for (const text of ["a<one>b <three>", "<two><two>", "<s>plain"]) {
    assert.deepEqual(tokenizer?.encode(text), whole?.encode(text));
  }
  assert.equal(tokenizer?.decode([513]), "<two>");
  write({ added_tokens_decoder: { 513: { content: "<two>", special: true } } }, "tokenizer_config.json");
  assert.equal(loadAdapterTokenizer(folder, base)?.decode([512, 513]), "<one>");

  const refused = (value: object, message: RegExp) => {
    write(value);
    assert.throws(() => loadAdapterTokenizer(folder, base), { message });
  };
  refused({ "<one>": 5 }, /added_tokens\.json: <one> is 5 here, and the base's tokenizer has .* as 5/);
  refused({ "<s>": 512 }, /added_tokens\.json: <s> is 512 here, and the base's tokenizer has <s> as 0/);
  refused({ "<one>": "512" }, /added_tokens\.json: "<one>": expected an id, got "512"/);
  refused({ "<far>": 600 }, /added_tokens\.json: tokenizer mismatch: expected at most 515 ids .*got 601/);
});

test("an adapter of trained rows of the embedding has the base's vocabulary", (t) => {
  const folder = adapterWithTokens(t);
  cpSync(goldenPath("peft", "tokens_tied"), folder, { recursive: true });
  assert.ok(loadAdapterTokenizer(folder, base));
});
