// The text of an answer as its tokens come: only what is certain, never a part of a stop text.
import { StopMatcher } from "./stop-matcher.ts";
import { StreamDecoder } from "./stream-decoder.ts";
import type { TextTokenizer } from "./tokenizer.ts";

export class AnswerText {
  private readonly tokenizer: TextTokenizer | null;
  private readonly decoder: StreamDecoder | null;
  private readonly stops: StopMatcher;

  /** @param tokenizer null: tokens have no text. */
  constructor(tokenizer: TextTokenizer | null, stops: readonly string[]) {
    this.tokenizer = tokenizer;
    this.decoder = tokenizer && new StreamDecoder(tokenizer);
    this.stops = new StopMatcher(stops);
  }

  /** Whether a stop text is complete: no more text comes. */
  get isStopped(): boolean {
    return this.stops.isStopped;
  }

  /** The text that is certain after one more token; often "". */
  push(id: number): string {
    // A model may have more ids than its tokenizer: padding of the embedding. They have no text.
    const hasText = this.tokenizer !== null && id < this.tokenizer.vocabSize;
    return this.stops.push(hasText ? (this.decoder?.push(id) ?? "") : "");
  }

  /** What was held back, at the end. */
  finish(): string {
    return this.isStopped ? "" : this.stops.push(this.decoder?.finish() ?? "") + this.stops.finish();
  }
}

/** A token alone as text; "" for one that has none. */
export function textOfToken(tokenizer: TextTokenizer | null, id: number): string {
  return tokenizer !== null && id < tokenizer.vocabSize ? tokenizer.decode([id], { skipSpecial: false }) : "";
}
