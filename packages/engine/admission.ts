// Whether a run fits into memory, decided before its first step: what it needs, what there is, and what would help.
import { cuda, type Device, type MemoryKind, memory } from "#native";
import type { TrainRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import { type Available, availableMemory } from "./available-memory.ts";
import { estimateMemory, type MemoryEstimate, type RunShape } from "./estimate.ts";

/** Of JavaScript's heap, the stacks of threads and pieces of files, beside the tensors. */
const processReserve = 48 * 2 ** 20;

/** What JavaScript's heap grows by while a run is under way: batches, results, code that is compiled. */
const heapGrowth = 16 * 2 ** 20;

/** Bytes for people, in powers of 1000. */
export function sizeText(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(bytes < 1e11 ? 2 : 0)} GB`;
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e3).toFixed(1)} KB`;
}

export function kindsText(byKind: Record<MemoryKind, number>): string {
  const parts = Object.entries(byKind).filter(([, bytes]) => bytes > 0);
  return parts.map(([kind, bytes]) => `${kind} ${sizeText(bytes)}`).join(", ");
}

/** Changes of a recipe that take less memory, the cheapest first. */
function cheaper(run: RunShape): { text: string; changed: RunShape }[] {
  const { recipe } = run;
  const change = (text: string, fields: Partial<RunShape["recipe"]>) => ({
    text,
    changed: { ...run, recipe: { ...recipe, ...fields } },
  });
  const paged = `paged_${recipe.optimizer.replace("paged_", "")}` as TrainRecipe["optimizer"];
  const isBatch = run.trained.some((batch) => batch.length > 1);
  const single = (batches: RunShape["trained"]) =>
    batches.map((batch) => batch.reduce((a, b) => (b.inputIds.length > a.inputIds.length ? b : a))).map((row) => [row]);
  return [
    ...(recipe.optimizer === paged ? [] : [change(`optimizer ${paged}`, { optimizer: paged })]),
    ...(recipe.gradientCheckpointing === "full" || recipe.gradientCheckpointing === "offload"
      ? []
      : [change("gradient_checkpointing full", { gradientCheckpointing: "full" })]),
    ...(isBatch
      ? [{ text: "batch_size 1", changed: { ...run, trained: single(run.trained), evaluated: single(run.evaluated) } }]
      : []),
    ...(run.adapterDtype === "float32" && run.lora !== null
      ? [{ text: "adapter_dtype bfloat16", changed: { ...run, adapterDtype: "bfloat16" as const } }]
      : []),
    ...(recipe.dtype === "float32" && run.lora !== null ? [change("dtype bfloat16", { dtype: "bfloat16" })] : []),
  ];
}

/** "optimizer paged_adamw_32bit (then 1.20 GB)", for those changes that make a difference. */
function help(run: RunShape, peak: number): string {
  const options = cheaper(run).map(({ text, changed }) => ({ text, left: estimateMemory(changed).peakTotal }));
  const useful = options.filter(({ left }) => left < 0.99 * peak);
  if (useful.length === 0) return "a smaller model or shorter rows would help";
  return `what would help: ${useful.map(({ text, left }) => `${text} (then ${sizeText(left)})`).join(", ")}`;
}

/** What the process will take that no tensor is counted for. */
export function processBytes(): number {
  const { current, cached } = memory.report();
  const tensors = Object.values(current).reduce((sum, bytes) => sum + bytes, cached);
  return Math.max(0, process.memoryUsage.rss() - tensors) + heapGrowth;
}

/** Why something is not let in: the message and the same numbers as texts. */
export interface Refusal {
  message: string;
  details: Record<string, string>;
}

export type Need = Pick<MemoryEstimate, "atPeak" | "peakTotal" | "paged">;

/** Null where it fits. `what` as in "the run"; `help` is what its owner could change. */
export function refusalOf(what: string, need: Need, available: Available, help: () => string): Refusal | null {
  const { atPeak, peakTotal, paged } = need;
  const needed = peakTotal + processReserve;
  if (needed <= available.bytes) return null;
  const pagedText = paged > 0 ? `, and ${sizeText(paged)} in a spill file` : "";
  const message =
    `memory: ${what} needs ${sizeText(peakTotal)} (${kindsText(atPeak)})${pagedText} and ${sizeText(processReserve)} ` +
    `for the process, ${available.by} leaves ${sizeText(available.bytes)}; ${help()}`;
  const byKind = Object.entries(atPeak).map(([kind, bytes]) => [`bytes_${kind}`, String(bytes)]);
  const numbers = { bytes_needed: String(needed), bytes_available: String(available.bytes), limited_by: available.by };
  return { message, details: { ...Object.fromEntries(byKind), ...numbers } };
}

/** What earlier work left in the cache is used before the system is asked for more. */
export function availableNow(memoryLimit: number | null, device: Device): Available {
  if (device === "cuda") return availableOnCard(memoryLimit);
  return availableMemory(memoryLimit, process.memoryUsage.rss() - memory.report().cached);
}

function availableOnCard(memoryLimit: number | null): Available {
  const free = (cuda.device()?.freeBytes ?? 0) + memory.report("cuda").cached;
  if (memoryLimit !== null && memoryLimit < free) return { bytes: memoryLimit, by: "memory_limit" };
  return { bytes: free, by: "the device" };
}

export function refusalOfRun(run: RunShape, estimate: MemoryEstimate, available: Available): Refusal | null {
  return refusalOf("the run", estimate, available, () => help(run, estimate.peakTotal));
}

export interface Admission {
  estimate: MemoryEstimate;
  available: Available;
}

/** @throws RESOURCE_EXHAUSTED with the numbers when the run cannot fit. */
export function admit(run: RunShape, memoryLimit: number | null, device: Device): Admission {
  const estimate = estimateMemory(run);
  const available = availableNow(memoryLimit, device);
  const refusal = refusalOfRun(run, estimate, available);
  if (refusal === null) return { estimate, available };
  throw new NibbleError(refusal.message, { code: "RESOURCE_EXHAUSTED", op: "train", details: refusal.details });
}
