// What a device can do at most, measured beside the rows: bytes of a copy, and the operations of a large bfloat16 product
// by PyTorch, where it is installed.
import { convert, cuda, type Device, Tensor } from "#native";
import { Peers } from "../harness/peers.ts";
import { lastLine } from "./last-line.ts";
import { finish } from "./random-model.ts";
import type { Peaks, Setting } from "./row.ts";
import type { ShapeName } from "./shapes.ts";

/** Bytes a second, reads and writes counted; the best of several. */
function ownCopy(device: Device, bytes: number): number {
  const at = { device, kind: "workspace" } as const;
  const [x, y] = [0, 1].map(() => Tensor.empty("float32", [bytes / 4], at).zero()) as [Tensor, Tensor];
  const seconds = Array.from({ length: 5 }, () => {
    finish(device);
    const started = performance.now();
    convert(x, y);
    finish(device);
    return (performance.now() - started) / 1000;
  });
  for (const t of [x, y]) t.free();
  return (2 * bytes) / Math.min(...seconds);
}

const peakSeconds = 60; // a first import of PyTorch from a cold disk is among them

export function measurePeaks(device: Device, shape: ShapeName, python: string): Peaks {
  const size = shape === "full" ? 8192 : 128;
  const args = ["--device", device, "--size", String(size)];
  const peer = new Peers(python, null).pythonScript("PyTorch", ["torch"], "gpu_peaks.py", args);
  if ("note" in peer) return { product: null, copy: null, note: peer.note };
  const printed = lastLine<{ flops: number; copy_bytes_per_s: number; torch: string }>(peer.command, peakSeconds);
  if (typeof printed === "string") return { product: null, copy: null, note: `PyTorch's peaks: ${printed}` };
  const note = `A copy by PyTorch ${printed.torch}: ${(printed.copy_bytes_per_s / 1e9).toFixed(0)} GB/s.`;
  return { product: printed.flops, copy: printed.copy_bytes_per_s, note };
}

export interface Rates {
  /** Bytes a second of a copy on the device: by Nibble now, or by PyTorch, if that was faster. */
  copy: number;
  /** Operations a second of a bfloat16 product; null where PyTorch was not there to measure it. */
  product: number | null;
  notes: string[];
}

export function measureRates({ device, shape, peaks }: Setting): Rates {
  const own = ownCopy(device, shape === "full" ? 2 ** 30 : 2 ** 22);
  const notes = [`A copy by Nibble: ${(own / 1e9).toFixed(0)} GB/s.`, peaks.note];
  const told = cuda.device()?.bytesPerSecond ?? 0;
  if (told > 0) notes.push(`The driver's account of the memory: ${(told / 1e9).toFixed(0)} GB/s.`);
  return { copy: Math.max(own, peaks.copy ?? 0), product: peaks.product, notes };
}
