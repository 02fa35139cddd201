// What gradient checkpointing keeps of a block: its input, on the device, or as a copy on the host that comes back when the
// block runs again. 78,000 tokens of an 8B model are 0.6 GB a block.
import { type Device, type DType, type MemoryKind, Tensor } from "#native";

interface Away {
  dtype: DType;
  shape: readonly number[];
  at: { device: Device; kind: MemoryKind };
  /** Null on the meta device, whose tensors have none. */
  bytes: Uint8Array | null;
}

export class BlockInput {
  private here: Tensor | null;
  private away: Away | null = null;

  constructor(value: Tensor) {
    this.here = value;
  }

  /** Copies it to the host and frees it. Waits for the device. */
  sendAway(): void {
    const t = this.here;
    if (t === null) return;
    const { dtype, shape, device } = t;
    const bytes = device === "meta" ? null : t.read();
    this.away = { dtype, shape, at: { device, kind: "activations" }, bytes };
    t.free();
    this.here = null;
  }

  /** On the device, brought back if need be. */
  get value(): Tensor {
    if (this.here === null && this.away) {
      const { dtype, shape, at, bytes } = this.away;
      this.here = bytes ? Tensor.fromBytes(bytes, dtype, shape, at) : Tensor.empty(dtype, shape, at);
      this.away = null;
    }
    if (this.here === null) throw new RangeError("[train] a block's input was freed");
    return this.here;
  }

  free(): void {
    this.here?.free();
    this.here = null;
    this.away = null;
  }
}
