// `node scripts/run.mjs quickstart/prepare`: writes what the quickstart ships besides weights: the tokenizer's files, config.json,
// and the instruction set. It takes seconds and always writes the same bytes.
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { asRow, makeQuestions } from "./instructions.ts";
import { heldOutRows, modelConfig, modelFolder, seeds, tokenizerDocuments, trainRows } from "./recipe.ts";
import { chatTemplate, tokenizerConfig, tokenizerJson, trainTokenizer } from "./tokenizer.ts";

/** Every file by its path in the model folder. */
export function preparedFiles(): Map<string, string> {
  const json = (value: object) => `${JSON.stringify(value, null, 2)}\n`;
  const rows = (seed: number, split: "train" | "heldout", count: number) =>
    makeQuestions(seed, split, count)
      .map((question) => `${JSON.stringify(asRow(question))}\n`)
      .join("");
  return new Map([
    ["config.json", json(modelConfig)],
    ["tokenizer.json", json(tokenizerJson(trainTokenizer(seeds.tokenizer, tokenizerDocuments)))],
    ["tokenizer_config.json", json(tokenizerConfig)],
    ["chat_template.jinja", chatTemplate],
    ["data/train.jsonl", rows(seeds.train, "train", trainRows)],
    ["data/heldout.jsonl", rows(seeds.heldOut, "heldout", heldOutRows)],
  ]);
}

if (import.meta.main) {
  for (const [name, content] of preparedFiles()) {
    const path = join(modelFolder, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
    process.stdout.write(`${name}: ${Buffer.byteLength(content)} bytes\n`);
  }
}
