// What a model folder's tokenizer files say beside the tokenizer itself. It tokenizes nothing.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { JsonObject } from "./json.ts";

/** All of a tokenizer's files, in either of its forms. */
export const tokenizerFiles = [
  "tokenizer.json",
  "tokenizer_config.json",
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
];

/** A model's chat template: chat_template.jinja, or in the older place, a key of tokenizer_config.json. */
export function readChatTemplate(folder: string, tokenizerConfig: JsonObject): string | null {
  const file = join(folder, "chat_template.jinja");
  if (existsSync(file)) return readFileSync(file, "utf8");
  const value = tokenizerConfig["chat_template"];
  if (typeof value === "string") return value;
  // Some folders have several, by name.
  const named: unknown = Array.isArray(value) ? value.find((entry) => entry?.name === "default")?.template : null;
  return typeof named === "string" ? named : null;
}
