// Text of a token stream, piece by piece. One token may be a part of a character, so a piece is held
// back while its end may still change; what is given out, put together, is the text of the whole.
import type { DecodeOptions, TextTokenizer } from "./tokenizer.ts";

/** Decoding starts again from the last few tokens once the window is this long, so a step costs the same at any length. */
const windowTokensMax = 24;
const contextTokens = 6;

/** What decoders write for bytes that are no character yet (or never). */
const replacement = "\uFFFD";

export class StreamDecoder {
  private readonly tokenizer: TextTokenizer;
  private readonly options: DecodeOptions;
  private window: number[] = [];
  /** How much of the window's text is given out. */
  private given = 0;
  private text = "";

  constructor(tokenizer: TextTokenizer, options: DecodeOptions = {}) {
    this.tokenizer = tokenizer;
    this.options = options;
  }

  /** The text that is certain after one more token; often "". Never half a character. */
  push(id: number): string {
    this.window.push(id);
    this.text = this.tokenizer.decode(this.window, this.options);
    const certain = lengthBeforeReplacements(this.text);
    if (certain <= this.given) return "";
    const piece = this.text.slice(this.given, certain);
    this.given = certain;
    if (certain === this.text.length && this.window.length >= windowTokensMax) this.shorten();
    return piece;
  }

  /** What was held back: bytes that never became a character. */
  finish(): string {
    const rest = this.text.slice(this.given);
    this.window = [];
    this.text = "";
    this.given = 0;
    return rest;
  }

  /** Keeps the last tokens as context, unless the cut would go through a character. */
  private shorten(): void {
    const kept = this.window.slice(-contextTokens);
    const text = this.tokenizer.decode(kept, this.options);
    if (text.length === 0 || text.includes(replacement) || !this.text.endsWith(text)) return;
    this.window = kept;
    this.text = text;
    this.given = text.length;
  }
}

function lengthBeforeReplacements(text: string): number {
  let end = text.length;
  while (end > 0 && text[end - 1] === replacement) end--;
  return end;
}
