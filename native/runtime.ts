// The process's native side: memory report and limit, threads, instruction set.
import { addon } from "./addon.ts";
import type { MemoryKind } from "./tensor.ts";

const isas = ["portable", "avx2", "avx512", "avx512_bf16"] as const;
export type Isa = (typeof isas)[number];

export interface MemoryReport {
  /** Bytes in use, by kind. */
  current: Record<MemoryKind, number>;
  /** Most bytes of each kind since the last resetPeak. */
  peak: Record<MemoryKind, number>;
  /** Most bytes of all kinds together since the last resetPeak. */
  peakTotal: number;
  /** Bytes freed by their owner and kept for the next allocation. */
  cached: number;
}

export const memory = {
  report: (): MemoryReport => addon.memoryReport(),
  resetPeak: (): void => addon.memoryResetPeak(),
  /** Bytes; 0 = no limit. Allocations beyond it fail with RESOURCE_EXHAUSTED. */
  setLimit: (bytes: number): void => addon.memorySetLimit(bytes),
  /** Gives cached blocks back to the system; bytes given back. */
  trim: (): number => addon.memoryTrim(),
};

/** Threads that ops use, the calling one included. */
export function threadCount(): number {
  return addon.threads(0);
}

export function setThreadCount(threads: number): void {
  addon.threads(threads);
}

/** The CPU backend's instruction set. */
export function isa(): Isa {
  return addon.isa(-1);
}

export function chooseIsa(name: Isa): void {
  addon.isa(isas.indexOf(name));
}

export function supportedIsas(): Isa[] {
  return isas.filter((_, i) => addon.isaSupported(i));
}
