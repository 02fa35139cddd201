// Finds stop texts in text that comes in pieces. What may be the beginning of a stop text is held back until it is
// certain, so that no part of one is ever given out. It knows no tokens.

export class StopMatcher {
  readonly #stops: readonly string[];
  #held = "";
  #isStopped = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  get isStopped(): boolean {
    return this.#isStopped;
  }

  /** The text that is certain now. After a stop text there is no more. */
  push(piece: string): string {
    if (this.#isStopped) return "";
    const text = this.#held + piece;
    const at = this.#firstStop(text);
    this.#isStopped = at !== undefined;
    const end = at ?? text.length - this.#openEnd(text);
    this.#held = at === undefined ? text.slice(end) : "";
    return text.slice(0, end);
  }

  /** What was held back and is no stop text after all. */
  finish(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  #firstStop(text: string): number | undefined {
    const places = this.#stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    return places.length > 0 ? Math.min(...places) : undefined;
  }

  /** Length of the longest end of the text with which a stop text begins. */
  #openEnd(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let n = Math.min(stop.length - 1, text.length); n > longest; n--) {
        if (text.endsWith(stop.slice(0, n))) longest = n;
      }
    }
    return longest;
  }
}
