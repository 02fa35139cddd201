// What a device can do at most, measured beside the rows: bytes of a copy, and the operations of a large bfloat16 product
// by PyTorch, where it is installed.
import { convert, cuda, type Device, Tensor } from "#native";
import { runJson } from "../harness/child.ts";
import { Peers } from "../harness/peers.ts";
import { finish } from "./random-model.ts";
import type { Setting } from "./row.ts";

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

export interface Rates {
  /** Bytes a second of a copy on the device. */
  copy: number;
  /** Operations a second of a bfloat16 product; NaN where PyTorch is not there to measure it. */
  product: number;
  notes: string[];
}

export async function measureRates({ device, shape, peersPython }: Setting): Promise<Rates> {
  const own = ownCopy(device, shape === "full" ? 2 ** 30 : 2 ** 22);
  const size = shape === "full" ? 8192 : 128;
  const args = ["--device", device, "--size", String(size)];
  const peer = new Peers(peersPython, null).pythonScript("PyTorch", ["torch"], "gpu_peaks.py", args);
  if ("note" in peer) return { copy: own, product: Number.NaN, notes: [peer.note] };
  const printed = await runJson(peer.command);
  const theirs = Number(printed["copy_bytes_per_s"]);
  const notes = [`Copies: ${(own / 1e9).toFixed(0)} GB/s by Nibble, ${(theirs / 1e9).toFixed(0)} by PyTorch.`];
  const told = cuda.device()?.bytesPerSecond ?? 0;
  if (told > 0) notes.push(`The driver's account of the memory: ${(told / 1e9).toFixed(0)} GB/s.`);
  return { copy: Math.max(own, theirs), product: Number(printed["flops"]), notes };
}
