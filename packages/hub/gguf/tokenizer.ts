// A tokenizer.json as GGUF's keys. llama.cpp tokenizes by itself, so it must know how text is cut before the merges: by
// a name for each way of cutting (its LLAMA_VOCAB_PRE_TYPE). A way that has none here is refused, not guessed.
import { join } from "node:path";
import { NibbleError } from "#packages/errors";
import { isObject, type JsonObject, readObjectFile } from "../json.ts";
import type { LlamaConfig } from "../llama-config.ts";
import { readChatTemplate } from "../tokenizer-files.ts";
import type { GgufValue } from "./container.ts";

const op = "gguf_export";

/** llama_token_type. */
const kinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
}

function fail(message: string): never {
  throw new NibbleError(`tokenizer.json: ${message}`, { code: "FAILED_PRECONDITION", op });
}

const objects = (value: unknown): JsonObject[] => (Array.isArray(value) ? value.filter(isObject) : []);

/** The steps of a pre-tokenizer, a sequence taken apart. */
function steps(value: unknown): JsonObject[] {
  if (!isObject(value)) return [];
  return value["type"] === "Sequence" ? objects(value["pretokenizers"]).flatMap(steps) : [value];
}

function patternOf(step: JsonObject): string {
  const pattern = step["pattern"];
  return isObject(pattern) && typeof pattern["Regex"] === "string" ? pattern["Regex"] : "";
}

/** llama.cpp's name of the way in which byte-level BPE cuts text. */
export function preTokenizerName(preTokenizer: unknown): string {
  const all = steps(preTokenizer);
  const bytes = all.find((step) => step["type"] === "ByteLevel");
  const others = all.filter((step) => step !== bytes);
  if (bytes === undefined) fail(`pre_tokenizer: expected ByteLevel, got ${all.map((s) => s["type"]).join(", ")}`);
  if (others.length === 0 && bytes["use_regex"] !== false) return "gpt-2";
  const [first] = others;
  if (others.length === 1 && first?.["type"] === "Digits" && first["individual_digits"] === true) return "smollm";
  const pattern = first?.["type"] === "Split" && others.length === 1 ? patternOf(first) : "";
  if (pattern.includes("'(?i:") || !pattern.includes("\\p{L}")) return fail(unknown(all));
  if (pattern.includes("\\p{N}{1,3}")) return "llama-bpe";
  if (pattern.includes("|\\p{N}|")) return "qwen2";
  return fail(unknown(all));
}

function unknown(all: readonly JsonObject[]): string {
  return `pre_tokenizer: expected one that llama.cpp has a name for (GPT-2, SmolLM, Llama 3, Qwen 2), got ${all
    .map((step) => `${step["type"]} ${patternOf(step)}`.trim())
    .join(", ")}`;
}

interface Vocabulary {
  tokens: string[];
  types: number[];
}

function vocabularyOf(model: JsonObject, added: readonly AddedToken[], size: number): Vocabulary {
  const tokens = Array.from({ length: size }, (_, id) => `[PAD${id}]`);
  const types = new Array<number>(size).fill(kinds.unused);
  const put = (id: number, token: string, kind: number) => {
    if (!(id < size)) fail(`token ${JSON.stringify(token)}: expected an id below vocab_size ${size}, got ${id}`);
    tokens[id] = token;
    types[id] = kind;
  };
  const isByte = (token: string) => model["byte_fallback"] === true && /^<0x[0-9A-F]{2}>$/.test(token);
  for (const [token, id] of Object.entries(model["vocab"] as Record<string, number>)) {
    put(id, token, isByte(token) ? kinds.byte : kinds.normal);
  }
  for (const { id, content, special } of added) put(id, content, special ? kinds.control : kinds.userDefined);
  const unk = typeof model["unk_token"] === "string" ? tokens.indexOf(model["unk_token"]) : -1;
  if (unk >= 0) types[unk] = kinds.unknown;
  return { tokens, types };
}

/** tokenizer.json lists merges as pairs or, in older files, as texts. */
function mergesOf(model: JsonObject): string[] {
  const merges = Array.isArray(model["merges"]) ? model["merges"] : [];
  return merges.map((merge) => (Array.isArray(merge) ? merge.join(" ") : String(merge)));
}

function bpeKeys(tokenizer: JsonObject, model: JsonObject, { tokens }: Vocabulary): [string, GgufValue][] {
  if (model["byte_fallback"] === true) {
    // SentencePiece's own: a piece made earlier has the higher score.
    const scores = tokens.map((_, id) => -id);
    return [
      ["tokenizer.ggml.model", { type: "string", value: "llama" }],
      ["tokenizer.ggml.pre", { type: "string", value: "default" }],
      ["tokenizer.ggml.scores", { type: "list", of: "float32", value: scores }],
    ];
  }
  return [
    ["tokenizer.ggml.model", { type: "string", value: "gpt2" }],
    ["tokenizer.ggml.pre", { type: "string", value: preTokenizerName(tokenizer["pre_tokenizer"]) }],
    ["tokenizer.ggml.merges", { type: "list", of: "string", value: mergesOf(model) }],
  ];
}

/** Whether encoding puts BOS in front: the template of the post-processor begins with a special token. */
function addsBos(tokenizer: JsonObject): boolean {
  const post = tokenizer["post_processor"];
  const all =
    isObject(post) && post["type"] === "Sequence" ? objects(post["processors"]) : isObject(post) ? [post] : [];
  const template = all.find((step) => step["type"] === "TemplateProcessing");
  return isObject(objects(template?.["single"])[0]?.["SpecialToken"]);
}

/** @throws FAILED_PRECONDITION for a folder without tokenizer.json, or one whose way of cutting llama.cpp does not know. */
export function tokenizerMetadata(folder: string, config: LlamaConfig): Map<string, GgufValue> {
  const tokenizer = readObjectFile(join(folder, "tokenizer.json"), op);
  if (tokenizer === null) fail(`expected one in ${folder}, got none`);
  const model = isObject(tokenizer["model"]) ? tokenizer["model"] : {};
  if (model["type"] !== "BPE") fail(`model: expected BPE, got ${String(model["type"])}`);
  const added = objects(tokenizer["added_tokens"]) as unknown as AddedToken[];
  const vocabulary = vocabularyOf(model, added, config.vocabSize);
  const keys = new Map<string, GgufValue>([
    ...bpeKeys(tokenizer, model, vocabulary),
    ["tokenizer.ggml.tokens", { type: "list", of: "string", value: vocabulary.tokens }],
    ["tokenizer.ggml.token_type", { type: "list", of: "int32", value: vocabulary.types }],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: addsBos(tokenizer) }],
  ]);
  const ids = { bos: config.bosTokenId, eos: config.eosTokenIds[0], padding: config.padTokenId };
  for (const [name, id] of Object.entries(ids)) {
    if (id !== null && id !== undefined) keys.set(`tokenizer.ggml.${name}_token_id`, { type: "uint32", value: id });
  }
  const template = readChatTemplate(folder, readObjectFile(join(folder, "tokenizer_config.json"), op) ?? {});
  if (template !== null) keys.set("tokenizer.chat_template", { type: "string", value: template });
  return keys;
}
