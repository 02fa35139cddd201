// The instruction set: held-out questions share no subject with training ones, use no unknown word, and fit the model's context.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { loadTokenizer } from "#packages/data";
import { documents } from "../../scripts/quickstart/corpus.ts";
import { makeQuestions, type Row } from "../../scripts/quickstart/instructions.ts";
import { contextTokens, heldOutRows, modelFolder, seeds, trainRows } from "../../scripts/quickstart/recipe.ts";

const train = makeQuestions(seeds.train, "train", trainRows);
const heldOut = makeQuestions(seeds.heldOut, "heldout", heldOutRows);
const wordsOf = (text: string) => text.match(/\p{L}+/gu) ?? [];

test("no held-out question or subject is in the training set", () => {
  const questions = new Set(train.map((q) => q.question));
  const subjects = new Set(train.map((q) => `${q.task} ${q.subject}`));
  for (const { task, question, subject } of heldOut) {
    assert.ok(!questions.has(question), question);
    assert.ok(!subjects.has(`${task} ${subject}`), `${task} ${subject}`);
  }
});

test("held-out rows use only words that the corpus or the training rows have", () => {
  const known = new Set<string>();
  for (const text of documents(seeds.corpus).take(5000)) for (const word of wordsOf(text)) known.add(word);
  for (const { question, answer } of train) for (const word of wordsOf(`${question} ${answer}`)) known.add(word);
  const unknown = heldOut
    .flatMap(({ question, answer }) => wordsOf(`${question} ${answer}`))
    .filter((w) => !known.has(w));
  assert.deepEqual([...new Set(unknown)], []);
});

test("each task of the held-out set is in the training set", () => {
  const trained = new Set(train.map((q) => q.task));
  for (const { task } of heldOut) assert.ok(trained.has(task), task);
});

test("every shipped row fits the context, and its prompt is a prefix of its tokens", () => {
  const tokenizer = loadTokenizer(modelFolder);
  const template = tokenizer.chatTemplate!;
  for (const file of ["train.jsonl", "heldout.jsonl"]) {
    const lines = readFileSync(join(modelFolder, "data", file), "utf8")
      .trimEnd()
      .split("\n");
    assert.equal(lines.length, file === "train.jsonl" ? trainRows : heldOutRows);
    for (const line of lines) {
      const { messages } = JSON.parse(line) as Row;
      const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
      const all = encode(template.render(messages));
      const prompt = encode(template.render(messages.slice(0, 1), { addGenerationPrompt: true }));
      assert.ok(all.length <= contextTokens / 2, `${all.length} tokens: ${line}`);
      assert.deepEqual(all.slice(0, prompt.length), prompt);
      assert.equal(all.at(-1), tokenizer.eosTokenId);
    }
  }
});
