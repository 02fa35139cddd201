// The largest logits of a head, exactly, without reading all of it; see ops/screened_head.h.
import { addon } from "./addon.ts";
import { packWeight, type Weight } from "./linear.ts";
import { type Device, type MemoryKind, Tensor } from "./tensor.ts";

/** Columns that a head may have at most. */
export const screenColumnsMax = 1 << 16;

/** A head's rows in 8 bits, and what they lost. */
export class HeadScreen {
  readonly codes: Tensor;
  readonly scale: Tensor;
  readonly error: Tensor;
  readonly norm: Tensor;

  /** Of a dense head. The tensors are its own. */
  constructor(w: Weight, place: { device: Device; kind: MemoryKind }) {
    // Rows by 16, columns by 4 of at least 64: kScreenRows, kScreenQuad and kScreenPad.
    this.codes = Tensor.empty("uint8", [Math.ceil(w.out / 16), Math.ceil(w.in / 64) * 16, 16, 4], place);
    this.scale = Tensor.empty("float32", [w.out], place);
    this.error = Tensor.empty("float32", [w.out], place);
    this.norm = Tensor.empty("float32", [w.out], place);
    addon.screenHead(packWeight(w), ...this.handles);
  }

  get handles(): number[] {
    return [this.codes, this.scale, this.error, this.norm].map((t) => t.handle);
  }

  free(): void {
    for (const t of [this.codes, this.scale, this.error, this.norm]) t.free();
  }
}

/** y float32 [N, V]: the `keep` largest of each row of x wᵀ, and all that may be among them, exactly; less elsewhere. */
export function screenedHead(args: { x: Tensor; w: Weight; screen: HeadScreen; keep: number; y: Tensor }): void {
  const { x, w, screen, keep, y } = args;
  addon.screenedHead(packWeight(w), ...screen.handles, x.handle, keep, y.handle);
}
