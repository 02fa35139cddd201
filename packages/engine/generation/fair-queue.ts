// Requests that wait, fair between callers: next is the first of the caller that has been served least, in weighted tokens
// (virtual token counters: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, Algorithm 2). Who comes back
// after a pause has saved nothing up. It knows no engine.

/** What a token costs, of the prompt and of the answer; the paper's weights. */
export const tokenCosts = { prompt: 1, answer: 2 } as const;
/** Callers without requests that are remembered; beyond, their debts are forgiven. */
const idleCallersMax = 4096;

export class FairQueue<T extends { readonly caller: string }> {
  private readonly lines = new Map<string, T[]>();
  private readonly served = new Map<string, number>();
  /** What the caller that left the queue last had been served. */
  private lastLeft = 0;

  get size(): number {
    let size = 0;
    for (const line of this.lines.values()) size += line.length;
    return size;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (const line of this.lines.values()) yield* line;
  }

  push(item: T): void {
    this.lineOf(item.caller).push(item);
  }

  /** Before its caller's others. */
  pushFront(item: T): void {
    this.lineOf(item.caller).unshift(item);
  }

  private lineOf(caller: string): T[] {
    const known = this.lines.get(caller);
    if (known) return known;
    const waiting = [...this.lines.keys()].map((other) => this.served.get(other) ?? 0);
    const least = waiting.length > 0 ? Math.min(...waiting) : this.lastLeft;
    this.served.set(caller, Math.max(this.served.get(caller) ?? 0, least));
    const line: T[] = [];
    this.lines.set(caller, line);
    return line;
  }

  /** The next one; it stays in the queue. Among callers served alike, the one that waits longest. */
  peek(): T | undefined {
    let best: { line: T[]; served: number } | undefined;
    for (const [caller, line] of this.lines) {
      const served = this.served.get(caller) ?? 0;
      if (best === undefined || served < best.served) best = { line, served };
    }
    return best?.line[0];
  }

  /** Whether it was there. */
  remove(item: T): boolean {
    const line = this.lines.get(item.caller);
    const at = line?.indexOf(item) ?? -1;
    if (!line || at < 0) return false;
    line.splice(at, 1);
    if (line.length > 0) return true;
    this.lines.delete(item.caller);
    this.lastLeft = this.served.get(item.caller) ?? 0;
    this.forget();
    return true;
  }

  /** Adds to what a caller has been served. */
  charge(caller: string, cost: number): void {
    this.served.set(caller, (this.served.get(caller) ?? 0) + cost);
  }

  private forget(): void {
    if (this.served.size - this.lines.size <= idleCallersMax) return;
    for (const caller of this.served.keys()) if (!this.lines.has(caller)) this.served.delete(caller);
  }
}
