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
    return this.pushWithRest(piece).text;
  }

  /** As `push`, with what came after the stop text. */
  pushWithRest(piece: string): { text: string; rest: string } {
    if (this.#isStopped) return { text: "", rest: "" };
    const text = this.#held + piece;
    const found = this.#firstStop(text);
    this.#isStopped = found !== undefined;
    const end = found?.at ?? text.length - this.#openEnd(text);
    this.#held = found ? "" : text.slice(end);
    return { text: text.slice(0, end), rest: found ? text.slice(found.at + found.length) : "" };
  }

  /** What was held back and is no stop text after all. */
  finish(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  #firstStop(text: string): { at: number; length: number } | undefined {
    const places = this.#stops.map((stop) => ({ at: text.indexOf(stop), length: stop.length }));
    return places.filter(({ at }) => at >= 0).sort((a, b) => a.at - b.at)[0];
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
