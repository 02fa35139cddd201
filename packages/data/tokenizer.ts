// Text to token ids and back, from a model folder's tokenizer.json. The tokenizing itself is
// @huggingface/tokenizers; this file adds checks, the special ids, and a decoder for streams.
import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { NibbleError } from "#packages/errors";
import { readChatTemplate, readObjectFile } from "#packages/hub";
import { ChatTemplate } from "./chat-template.ts";

const op = "tokenizer";

export interface EncodeOptions {
  /** Whether the tokenizer's own template adds its tokens (a BOS, mostly). Default true. */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave out special tokens such as EOS. Default true. */
  skipSpecial?: boolean;
}

export class TextTokenizer {
  /** One more than the largest id. */
  readonly vocabSize: number;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  readonly padTokenId: number | null;
  readonly specialIds: ReadonlySet<number>;
  /** Null where the folder has none. */
  readonly chatTemplate: ChatTemplate | null;
  /** How the vocabulary spells bytes: as letters of their own (GPT-2), as <0x..> beside text (SentencePiece), or not at all. */
  readonly bytesIn: "byte_level" | "byte_fallback" | "raw";
  private readonly inner: HuggingFaceTokenizer;

  constructor(tokenizerJson: object, config: Record<string, unknown>, template: string | null) {
    this.inner = new HuggingFaceTokenizer(tokenizerJson, config);
    this.bytesIn = bytesIn(tokenizerJson);
    const ids = [...this.inner.get_vocab().values()];
    this.vocabSize = ids.reduce((max, id) => Math.max(max, id), -1) + 1;
    const added = [...this.inner.get_added_tokens_decoder().values()];
    this.specialIds = new Set(added.filter((token) => token.special).map((token) => token.id));
    const token = (key: string) => contentOf(config[key]);
    const id = (key: string) => this.inner.token_to_id(token(key) ?? "") ?? null;
    this.bosTokenId = id("bos_token");
    this.eosTokenId = id("eos_token");
    this.padTokenId = id("pad_token");
    const names = { bos_token: token("bos_token"), eos_token: token("eos_token"), pad_token: token("pad_token") };
    this.chatTemplate = template === null ? null : new ChatTemplate(template, names);
  }

  encode(text: string, { addSpecialTokens = true }: EncodeOptions = {}): number[] {
    return this.inner.encode(text, { add_special_tokens: addSpecialTokens }).ids;
  }

  decode(ids: readonly number[] | Int32Array, { skipSpecial = true }: DecodeOptions = {}): string {
    const list = Array.from(ids);
    for (const id of list) this.checkId(id);
    if (list.length === 0) return "";
    // Cleaning up spaces is a habit of WordPiece days: it would drop spaces that the model did emit.
    return this.inner.decode(list, { skip_special_tokens: skipSpecial, clean_up_tokenization_spaces: false });
  }

  /** The token as the vocabulary spells it. */
  tokenOf(id: number): string {
    this.checkId(id);
    return this.inner.id_to_token(id) ?? "";
  }

  /** As `tokenOf`; "" for an id that the vocabulary leaves out. */
  spellingOf(id: number): string {
    return this.inner.id_to_token(id) ?? "";
  }

  /** The id of a token as the vocabulary spells it, or null. */
  idOf(token: string): number | null {
    return this.inner.token_to_id(token) ?? null;
  }

  private checkId(id: number): void {
    if (this.inner.id_to_token(id) !== undefined) return;
    const message = `token id: expected one of the vocabulary (0..${this.vocabSize - 1}), got ${id}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
  }
}

function bytesIn(tokenizerJson: object): TextTokenizer["bytesIn"] {
  const decoder = JSON.stringify((tokenizerJson as { decoder?: unknown }).decoder ?? null);
  if (decoder.includes('"ByteLevel"')) return "byte_level";
  return decoder.includes('"ByteFallback"') ? "byte_fallback" : "raw";
}

/** tokenizer_config.json spells a token as a string or as an object with its content. */
function contentOf(value: unknown): string | null {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : null;
}

/** The largest of known models has 35 MB; one of 87 MB took 7 s and 1.3 GB (docs/data.md). */
const tokenizerBytesMax = 64 << 20;

/** What a folder has of a tokenizer; null: nothing of that. */
export interface TokenizerFiles {
  /** The path of tokenizer.json, for errors. */
  file: string;
  json: Record<string, unknown> | null;
  config: Record<string, unknown> | null;
  template: string | null;
}

/** @throws INVALID_ARGUMENT for files that are no JSON or too large. */
export function readTokenizerFiles(folder: string): TokenizerFiles {
  const file = join(folder, "tokenizer.json");
  const size = statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  if (size > tokenizerBytesMax) {
    const message = `${file}: expected at most ${tokenizerBytesMax} bytes, got ${size}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { folder } });
  }
  const config = readObjectFile(join(folder, "tokenizer_config.json"), op);
  return { file, json: readObjectFile(file, op), config, template: readChatTemplate(folder, config ?? {}) };
}

/**
 * With the model's `vocabSize` (its number of embedding rows), a tokenizer that has more ids than the model is refused: it
 * is another model's.
 */
export function makeTokenizer(files: TokenizerFiles, model?: { vocabSize: number }): TextTokenizer {
  const { file, json, config, template } = files;
  const details = { folder: dirname(file) };
  let tokenizer: TextTokenizer;
  try {
    tokenizer = new TextTokenizer(json ?? {}, config ?? {}, template);
  } catch (thrown) {
    if (thrown instanceof NibbleError) throw thrown;
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    const message = `${file}: cannot be used: ${reason}`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details, cause: thrown });
  }
  if (model && tokenizer.vocabSize > model.vocabSize) {
    const message = `${file}: tokenizer mismatch: expected at most ${model.vocabSize} ids (the model's vocab_size), got ${tokenizer.vocabSize}`;
    throw new NibbleError(message, { code: "FAILED_PRECONDITION", op, details });
  }
  return tokenizer;
}

/** The tokenizer of a model folder; `model` as of makeTokenizer. */
export function loadTokenizer(folder: string, model?: { vocabSize: number }): TextTokenizer {
  const files = readTokenizerFiles(folder);
  if (files.json === null) {
    const slow = existsSync(join(folder, "tokenizer.model")) ? " (tokenizer.model alone is not read)" : "";
    const message = `${folder}: no tokenizer.json${slow}`;
    throw new NibbleError(message, { code: "NOT_FOUND", op, details: { folder } });
  }
  return makeTokenizer(files, model);
}
