// Shows what of an example is trained, token by token.
import { type Example, notTrained } from "./examples.ts";
import type { TextTokenizer } from "./tokenizer.ts";

export interface MaskedToken {
  id: number;
  /** Its text; the vocabulary's spelling where it is special or only a part of a character. */
  text: string;
  trained: boolean;
}

export function previewMask(example: Pick<Example, "inputIds" | "labels">, tokenizer: TextTokenizer): MaskedToken[] {
  return Array.from(example.inputIds, (id, i) => {
    const text = tokenizer.decode([id], { skipSpecial: false });
    return {
      id,
      text: text === "" || text.includes("\uFFFD") ? tokenizer.tokenOf(id) : text,
      trained: example.labels[i] !== notTrained,
    };
  });
}

/** One string with the trained parts between marks, for a terminal or a log. */
export function printMask(tokens: readonly MaskedToken[], marks: readonly [string, string] = ["⟦", "⟧"]): string {
  let text = "";
  for (const [i, token] of tokens.entries()) {
    const before = tokens[i - 1]?.trained ?? false;
    if (token.trained && !before) text += marks[0];
    if (!token.trained && before) text += marks[1];
    text += token.text;
  }
  return tokens.at(-1)?.trained ? text + marks[1] : text;
}
