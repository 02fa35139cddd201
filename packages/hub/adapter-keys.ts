// What the keys of a PEFT adapter file mean.
import type { SavedModule } from "./lora-config.ts";

export type LoraMatrix = "lora_A" | "lora_B";

const prefix = "base_model.model.";

/** The key of a matrix in the file: "base_model.model." + module path + ".lora_A.weight". */
export function adapterKey(module: string, matrix: LoraMatrix): string {
  return `${prefix}${module}.${matrix}.weight`;
}

export type KeyMeaning =
  | { kind: "lora"; module: string; matrix: LoraMatrix }
  /** DoRA's magnitudes, one for each output. */
  | { kind: "magnitude"; module: string }
  /** An embedding or a head in place of the base's; the named one counts where PEFT stores it twice. */
  | { kind: "saved"; module: SavedModule; isNamed: boolean }
  /** Rows in place of the embedding's, those of trainable_token_indices. */
  | { kind: "tokens" }
  /** The base's own weights, which PEFT stores beside what was trained when the vocabulary has grown. */
  | { kind: "copy" };

/** Null: no key that an adapter has. */
export function meaningOf(key: string): KeyMeaning | null {
  if (!key.startsWith(prefix)) return null;
  const rest = key.slice(prefix.length);
  const [, module, matrix] = /^(.+)\.(lora_[AB])\.weight$/.exec(rest) ?? [];
  if (module !== undefined) return { kind: "lora", module, matrix: matrix as LoraMatrix };
  const [, scaled] = /^(.+)\.lora_magnitude_vector(?:\.weight)?$/.exec(rest) ?? [];
  if (scaled !== undefined) return { kind: "magnitude", module: scaled };
  if (rest === "model.embed_tokens.token_adapter.trainable_tokens_delta") return { kind: "tokens" };
  const [, saved, part] =
    /^(?:model\.)?(embed_tokens|lm_head)(?:\.(modules_to_save|original_module))?\.weight$/.exec(rest) ?? [];
  if (saved === undefined) return null;
  if (part === "original_module") return { kind: "copy" };
  return { kind: "saved", module: saved as SavedModule, isNamed: part !== undefined };
}
