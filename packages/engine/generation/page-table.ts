// Which pages of the cache a sequence holds: shared ones for what is there already, its own for what it adds, a copy of a
// shared one before it writes into it.
import type { Tensor } from "#native";
import { KvCache, pageTokens } from "./kv-cache.ts";
import { PagePool, pageKey } from "./page-pool.ts";
import type { Sequence } from "./sequence.ts";

export class PageTable {
  readonly pool: PagePool;
  private readonly cache: KvCache;

  constructor(cache: KvCache) {
    this.cache = cache;
    this.pool = new PagePool(cache.pageCount);
  }

  /**
   * Gives a sequence pages for all its tokens so far, those that are there already first, and sets `cached`. False, and
   * nothing is held, while that would leave fewer than `reserve` pages.
   */
  open(sequence: Sequence, reserve: number): boolean {
    const shared = this.ofLeader(sequence) ?? this.found(sequence);
    const tokens = shared.length * pageTokens;
    const fresh = KvCache.pagesFor(sequence.ids.length) - shared.length;
    // Pages that nobody else holds come out of the free ones as well, and a shared one that is written into is copied.
    const idle = shared.filter((page) => this.pool.isIdle(page)).length;
    const copies = tokens > sequence.reusable ? 1 : 0;
    if (fresh + idle + copies + reserve > this.pool.free) return false;
    for (const page of shared) this.pool.hold(page);
    sequence.pages = shared;
    sequence.cached = Math.min(tokens, sequence.reusable);
    return this.extend(sequence, sequence.ids.length - sequence.cached);
  }

  /** The pages of the prompt that another one of its group has computed. */
  private ofLeader({ leader, request, newTokens }: Sequence): number[] | null {
    if (!leader || newTokens > 0 || leader.pages.length === 0 || leader.isPrefilling) return null;
    return leader.pages.slice(0, KvCache.pagesFor(request.inputIds.length));
  }

  /** The longest beginning of whole pages that an earlier request left. */
  private found(sequence: Sequence): number[] {
    const pages: number[] = [];
    while ((pages.length + 1) * pageTokens <= sequence.reusable) {
      const key = this.keyOf(sequence, pages.length);
      const page = key === null ? undefined : this.pool.find(key);
      if (page === undefined) break;
      pages.push(page);
    }
    return pages;
  }

  private keyOf({ keys, ids, request }: Sequence, page: number): string | null {
    const { cacheKey = null } = request;
    if (cacheKey === null) return null;
    for (let i = keys.length; i <= page; i++) keys.push(pageKey(keys[i - 1] ?? cacheKey, ids, i));
    return keys[page] ?? null;
  }

  /** Pages of its own for `count` more tokens. False while too few are free; what it has got by then, it keeps. */
  extend(sequence: Sequence, count: number): boolean {
    const { pages, cached } = sequence;
    const first = Math.floor(cached / pageTokens);
    const end = KvCache.pagesFor(cached + count);
    for (let i = first; i < end; i++) {
      const page = pages[i];
      if (page !== undefined && !this.pool.isShared(page)) continue;
      const own = this.pool.take();
      if (own === null) return false;
      if (page !== undefined) {
        this.copy(page, own);
        this.pool.give([page]);
      }
      pages[i] = own;
    }
    return true;
  }

  private copy(from: number, to: number): void {
    for (const t of [...this.cache.keys, ...this.cache.values]) copyPage(t, from, to);
  }

  /** What it has computed can be found by others from now on, page by page. */
  record(sequence: Sequence): void {
    const full = Math.min(Math.floor(sequence.cached / pageTokens), sequence.pages.length);
    for (let page = sequence.recorded; page < full; page++) {
      const key = this.keyOf(sequence, page);
      const at = sequence.pages[page];
      if (key === null || at === undefined) return;
      this.pool.record(at, key);
    }
    sequence.recorded = full;
  }

  close(sequence: Sequence): void {
    this.pool.give(sequence.pages);
    sequence.pages = [];
    sequence.cached = 0;
    sequence.recorded = 0;
  }
}

/** Pages are the tensor's first axis. */
function copyPage(t: Tensor, from: number, to: number): void {
  const bytes = t.byteLength / (t.shape[0] ?? 1);
  t.write(t.read(from * bytes, bytes), to * bytes);
}
