// The paged key/value cache (Kwon et al., arXiv:2309.06180): pages of a fixed number of tokens, one pool
// for all sequences, a table of pages for each. Who holds which page is page-table.ts's business.
import { type Device, type DType, Tensor } from "#native";
import type { LlamaConfig } from "#packages/hub";

/** Tokens of a page. */
export const pageTokens = 16;

export interface KvCacheOptions {
  device: Device;
  dtype: DType;
  /** Tokens that all sequences together may hold. */
  tokensMax: number;
}

export class KvCache {
  /** [pages, K, page, D] for each layer: a page is whole, a head's rows lie next to each other in it, in the backend's order. */
  readonly keys: Tensor[] = [];
  readonly values: Tensor[] = [];
  readonly pageCount: number;

  constructor(config: LlamaConfig, { device, dtype, tokensMax }: KvCacheOptions) {
    this.pageCount = Math.ceil(tokensMax / pageTokens);
    const shape = [this.pageCount, config.kvHeadCount, pageTokens, config.headDim];
    for (let layer = 0; layer < config.layerCount; layer++) {
      this.keys.push(Tensor.empty(dtype, shape, { device, kind: "activations" }));
      this.values.push(Tensor.empty(dtype, shape, { device, kind: "activations" }));
    }
  }

  get tokensMax(): number {
    return this.pageCount * pageTokens;
  }

  static pagesFor(tokens: number): number {
    return Math.ceil(tokens / pageTokens);
  }

  free(): void {
    for (const t of [...this.keys, ...this.values]) t.free();
  }
}
