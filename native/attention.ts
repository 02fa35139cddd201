// Attention over packed documents and over a paged key/value cache; see ops/attention.h.
import { addon } from "./addon.ts";
import type { Tensor } from "./tensor.ts";

export interface AttentionShape {
  heads: number;
  kvHeads: number;
  scale: number;
  /** Rows that a query sees, itself included; 0 = all before it. */
  window: number;
}

export const shapeArguments = (s: AttentionShape) => [s.heads, s.kvHeads, s.scale, s.window];

export function attentionForward(
  shape: AttentionShape,
  args: { q: Tensor; k: Tensor; v: Tensor; starts: Tensor; o: Tensor; lse: Tensor },
): void {
  const { q, k, v, starts, o, lse } = args;
  addon.attentionForward(...shapeArguments(shape), q.handle, k.handle, v.handle, starts.handle, o.handle, lse.handle);
}

export function attentionBackward(
  shape: AttentionShape,
  args: {
    dO: Tensor;
    q: Tensor;
    k: Tensor;
    v: Tensor;
    o: Tensor;
    lse: Tensor;
    starts: Tensor;
    dQ: Tensor;
    dK: Tensor;
    dV: Tensor;
  },
): void {
  const { dO, q, k, v, o, lse, starts, dQ, dK, dV } = args;
  const inputs = [dO, q, k, v, o, lse, starts, dQ, dK, dV].map((t) => t.handle);
  addon.attentionBackward(...shapeArguments(shape), ...inputs);
}

export interface PagedAttention {
  q: Tensor;
  kCache: Tensor;
  vCache: Tensor;
  blockTable: Tensor;
  sequence: Tensor;
  position: Tensor;
  o: Tensor;
}

export function pagedAttention(shape: AttentionShape, args: PagedAttention): void {
  const { q, kCache, vCache, blockTable, sequence, position, o } = args;
  const tensors = [q, kCache, vCache, blockTable, sequence, position, o].map((t) => t.handle);
  addon.pagedAttention(...shapeArguments(shape), ...tensors);
}

/** Row n of k and v goes, head by head, to row slot[n] % page of page slot[n] / page of the caches [pages, K, page, D]. */
export function kvWrite(k: Tensor, v: Tensor, slot: Tensor, kCache: Tensor, vCache: Tensor): void {
  addon.kvWrite(k.handle, v.handle, slot.handle, kCache.handle, vCache.handle);
}
