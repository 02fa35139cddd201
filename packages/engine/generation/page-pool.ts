// The pages of the key/value cache: who holds them, and what earlier requests left in them. A full page can be found by
// the hash of all tokens up to its end and of the adapter, so that a request with the same beginning shares it (vLLM's
// prefix cache); pages that nobody holds stay findable until they are needed, those left longest ago first.
// It knows no tensors: a page is a number.
import { createHash } from "node:crypto";
import { pageTokens } from "./kv-cache.ts";

/** Of a full page: `parent` is the key of the page before, or what tells adapters apart. */
export function pageKey(parent: string, ids: readonly number[], page: number): string {
  const tokens = Int32Array.from(ids.slice(page * pageTokens, (page + 1) * pageTokens));
  return createHash("sha256").update(parent).update("\0").update(tokens).digest("base64");
}

export class PagePool {
  readonly count: number;
  private readonly holders: Uint32Array;
  private readonly keys: (string | undefined)[];
  private readonly byKey = new Map<string, number>();
  /** Nobody holds them, and nothing can be found in them. */
  private readonly blank: number[];
  /** Nobody holds them, left longest ago first. */
  private readonly idle = new Set<number>();

  constructor(count: number) {
    this.count = count;
    this.holders = new Uint32Array(count);
    this.keys = new Array(count).fill(undefined);
    this.blank = Array.from({ length: count }, (_, i) => count - 1 - i);
  }

  /** Pages that can be taken. */
  get free(): number {
    return this.blank.length + this.idle.size;
  }

  /** Those of them in which something can be found. */
  get cached(): number {
    return this.idle.size;
  }

  /** A page of one's own; null while none is free. */
  take(): number | null {
    const page = this.blank.pop() ?? this.evict();
    if (page === undefined) return null;
    this.holders[page] = 1;
    return page;
  }

  private evict(): number | undefined {
    const [page] = this.idle;
    if (page === undefined) return undefined;
    this.idle.delete(page);
    const key = this.keys[page];
    if (key !== undefined) this.byKey.delete(key);
    this.keys[page] = undefined;
    return page;
  }

  /** One more holder of a page that is held or was found. */
  hold(page: number): void {
    this.holders[page]!++;
    this.idle.delete(page);
  }

  isShared(page: number): boolean {
    return (this.holders[page] ?? 0) > 1;
  }

  isIdle(page: number): boolean {
    return this.idle.has(page);
  }

  /** The last pages go first when room is needed: without its beginning, the end of a text cannot be found. */
  give(pages: readonly number[]): void {
    for (const page of pages.toReversed()) {
      const holders = this.holders[page] ?? 0;
      if (holders === 0) throw new RangeError(`[generate] page ${page}: expected a holder, got none`);
      this.holders[page] = holders - 1;
      if (holders > 1) continue;
      if (this.keys[page] === undefined) this.blank.push(page);
      else this.idle.add(page);
    }
  }

  find(key: string): number | undefined {
    return this.byKey.get(key);
  }

  /** A full page can be found from now on. Of two with the same content, the first one is. */
  record(page: number, key: string): void {
    if (this.byKey.has(key) || this.keys[page] !== undefined) return;
    this.keys[page] = key;
    this.byKey.set(key, page);
  }
}
