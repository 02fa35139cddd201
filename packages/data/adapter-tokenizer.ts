// The tokenizer of an adapter that adds tokens: its own tokenizer.json, or the base's with the tokens that the adapter's
// folder lists. What the folder does not have (settings, chat template) is the base's.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { NibbleError } from "#packages/errors";
import { type AdapterFolder, openAdapterFolder, readObjectFile } from "#packages/hub";
import {
  loadTokenizer,
  makeTokenizer,
  readTokenizerFiles,
  type TextTokenizer,
  type TokenizerFiles,
} from "./tokenizer.ts";

const op = "tokenizer";

/** Of tokenizer.json. */
interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  normalized: boolean;
}

/** Whether tokens may have been added with an adapter, and its folder says their texts. */
export function hasOwnTokenizer({ path, hasTokens }: Pick<AdapterFolder, "path" | "hasTokens">): boolean {
  return hasTokens && ["tokenizer.json", "added_tokens.json"].some((name) => existsSync(join(path, name)));
}

/**
 * Of an adapter that has embeddings of its own: tokens may have been added with it, and its folder says their texts, in
 * tokenizer.json or in added_tokens.json. Null for one without (the base's texts are its own), or with neither file.
 * @param base the folder of the base model.
 */
export function loadAdapterTokenizer(folder: string, base: string): TextTokenizer | null {
  using adapter = openAdapterFolder(folder);
  if (!hasOwnTokenizer(adapter)) return null;
  const own = readTokenizerFiles(folder);
  const added = own.json === null ? addedTokens(folder) : [];
  if (own.json === null && added.length === 0) return null;
  const of = readTokenizerFiles(base);
  const json = own.json ?? withTokens(of, added, folder);
  // An adapter of trained rows of the embedding has the base's vocabulary, which it does not know.
  const rows = adapter.vocabSizeOver(0);
  const files: TokenizerFiles = {
    file: own.json === null ? join(folder, "added_tokens.json") : own.file,
    json,
    config: own.config ?? of.config,
    template: own.template ?? of.template,
  };
  return makeTokenizer(files, rows > 0 ? { vocabSize: rows } : undefined);
}

/** The tokenizer that rows for an adapter are read with: its own, where it has one, or the base's. */
export function tokenizerOver(base: string, adapter: string | null, model: { vocabSize: number }): TextTokenizer {
  return (adapter === null ? null : loadAdapterTokenizer(adapter, base)) ?? loadTokenizer(base, model);
}

/** added_tokens.json: ids by text. tokenizer_config.json may say more of them. */
function addedTokens(folder: string): AddedToken[] {
  const file = join(folder, "added_tokens.json");
  if (!existsSync(file)) return [];
  const config = readObjectFile(join(folder, "tokenizer_config.json"), op);
  const about = (config?.["added_tokens_decoder"] ?? {}) as Record<string, Partial<AddedToken> | undefined>;
  return Object.entries(readObjectFile(file, op) ?? {}).map(([content, id]) => {
    if (typeof id === "number" && Number.isSafeInteger(id) && id >= 0) {
      const { special = false, normalized = !special, ...rest } = about[id] ?? {};
      return { single_word: false, lstrip: false, rstrip: false, ...rest, id, content, special, normalized };
    }
    throw refused(file, `${JSON.stringify(content)}: expected an id, got ${JSON.stringify(id)}`);
  });
}

/** The base's tokenizer.json with those of them that it does not have. */
function withTokens(base: TokenizerFiles, added: readonly AddedToken[], folder: string): TokenizerFiles["json"] {
  if (base.json === null) return null;
  const known = makeTokenizer(base);
  const fresh = added.filter(({ id, content }) => {
    const [idThere, there] = [known.idOf(content), known.spellingOf(id)];
    if (idThere === id) return false;
    if (idThere === null && there === "") return true;
    const message = `${content} is ${id} here, and the base's tokenizer has ${there === "" ? content : there} as ${idThere ?? id}`;
    throw refused(join(folder, "added_tokens.json"), message);
  });
  return { ...base.json, added_tokens: [...((base.json["added_tokens"] ?? []) as AddedToken[]), ...fresh] };
}

function refused(file: string, message: string): NibbleError {
  return new NibbleError(`${file}: ${message}`, { code: "INVALID_ARGUMENT", op, details: { file } });
}
