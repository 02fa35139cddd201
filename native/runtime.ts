// The process's native side: memory report and limit, threads, instruction set.
import { addon } from "./addon.ts";
import { type Device, devices, type MemoryKind } from "./tensor.ts";

const isas = ["portable", "avx2", "avx512", "avx512_bf16"] as const;
export type Isa = (typeof isas)[number];

export interface MemoryReport {
  /** Bytes in use, by kind; paged ones are counted apart. */
  current: Record<MemoryKind, number>;
  /** Most bytes of each kind since the last resetPeak. */
  peak: Record<MemoryKind, number>;
  /** Bytes of each kind when all kinds together were most. */
  atPeak: Record<MemoryKind, number>;
  /** Most bytes of all kinds together since the last resetPeak. */
  peakTotal: number;
  /** Bytes freed by their owner and kept for the next allocation; with those in use never more than the most in use. */
  cached: number;
  /** Bytes in spill files, whether the system keeps them in memory or not. */
  paged: number;
  /** Most of them since the last resetPeak. */
  pagedPeak: number;
  /** Of the weights in `current`: bytes that are a mapped file's own pages, which processes share. */
  mapped: number;
}

const indexOf = (device: Device): number => devices.indexOf(device);

/** Of the host, of tensors on the meta device, or of the CUDA device. */
export const memory = {
  report: (device: Device = "cpu"): MemoryReport => addon.memoryReport(indexOf(device)),
  resetPeak: (device: Device = "cpu"): void => addon.memoryResetPeak(indexOf(device)),
  /** Bytes; 0 = no limit. Allocations beyond it fail with RESOURCE_EXHAUSTED. */
  setLimit: (bytes: number, device: Device = "cpu"): void => addon.memorySetLimit(bytes, indexOf(device)),
  /** Bytes that an allocation of so many takes. */
  sizeOf: (bytes: number): number => addon.memorySize(bytes),
  /** Gives cached blocks back to the system; bytes given back. */
  trim: (device: Device = "cpu"): number => addon.memoryTrim(indexOf(device)),
};

/**
 * Runs `work`, which is synchronous; ops on the meta device take the workspace of `device`'s meanwhile. A card's is known on
 * machines without one.
 */
export function countedAs<T>(device: "cpu" | "cuda", work: () => T): T {
  addon.metaCounts(indexOf(device));
  try {
    return work();
  } finally {
    addon.metaCounts(indexOf("cpu"));
  }
}

export interface CudaDevice {
  name: string;
  /** As compilers name it: "sm_90". */
  architecture: string;
  totalBytes: number;
  freeBytes: number;
  /** Of its memory, by the driver's account. */
  bytesPerSecond: number;
  processors: number;
}

const cudaProducts = ["own", "cublaslt"] as const;
export type CudaProducts = (typeof cudaProducts)[number];

export const cuda = {
  /** Null where there is no device to use: unavailable() says why. */
  device: (): CudaDevice | null => addon.cudaDevice(),
  /** Why there is no device to use; empty where there is one. */
  unavailable: (): string => addon.cudaUnavailable(),
  /** Waits for all work on the device. @throws FAILED_PRECONDITION where there is none. */
  synchronize: (): void => addon.cudaSynchronize(),
  /** Who multiplies many rows by 4-bit weights; see core/device_products.h. */
  products: (): CudaProducts => cudaProducts[addon.cudaProducts(-1)] ?? "own",
  /** @throws FAILED_PRECONDITION where the library is not there, with what was looked for. */
  chooseProducts: (products: CudaProducts): void => void addon.cudaProducts(cudaProducts.indexOf(products)),
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
