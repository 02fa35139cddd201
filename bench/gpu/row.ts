// What a row of `npm run bench:gpu` is given and gives.
import type { Device } from "#native";
import type { ShapeName } from "./shapes.ts";

export interface Setting {
  device: Device;
  shape: ShapeName;
  /** For the whole row, the making of its model included; beyond them it is killed. */
  seconds: number;
  /** Python with torch, transformers and PEFT, if it has them. */
  peersPython: string;
  /** Measured once, before the rows. */
  peaks: Peaks;
}

/** What PyTorch gets out of the device; null, with the reason, where it is not there to measure it. */
export interface Peaks {
  /** Operations a second of a bfloat16 product. */
  product: number | null;
  /** Bytes a second of a copy, reads and writes counted. */
  copy: number | null;
  note: string;
}

export interface Goal {
  /** As the issue states it. */
  text: string;
  value: number;
  needed: number;
  /** Whether less is better. */
  atMost: boolean;
}

export interface Figure {
  value: number;
  unit: string;
}

export interface Result {
  what: string;
  figures: Record<string, Figure>;
  goals: Goal[];
  /** What the reader must know: a peer that is not installed, a bound that is the driver's word. */
  notes: string[];
}

export type MeasureRow = (setting: Setting) => Promise<Result>;

export const isMet = ({ value, needed, atMost }: Goal): boolean => (atMost ? value <= needed : value >= needed);

export const gigabytes = (bytes: number): Figure => ({ value: bytes / 1e9, unit: "GB" });
