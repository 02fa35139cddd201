// "65B on a 48 GB card": the most memory of a training step (arXiv:2305.14314, Figure 6: batch 1, 512 tokens, r 64 on all
// linear layers, checkpointing), under an allocation cap of the goal's bytes.
import { cuda } from "#native";
import { gigabytes, type MeasureRow, type Result } from "../row.ts";
import { configOf, type ModelName } from "../shapes.ts";
import { quoteOf, type Training, train } from "../training.ts";

interface StepGoal {
  name: Exclude<ModelName, "8b">;
  bytes: number;
  optimizer: "paged_adamw_32bit" | "paged_adamw_8bit";
}

/** Bytes that a device has in use, by whomever, the driver's own included. */
function inUse(): number {
  const facts = cuda.device();
  return facts === null ? Number.NaN : facts.totalBytes - facts.freeBytes;
}

const measureStep =
  ({ name, bytes, optimizer }: StepGoal): MeasureRow =>
  async ({ device, shape }) => {
    const full = shape === "full";
    const length = full ? 512 : 16;
    const training: Training = {
      ...{ config: configOf(name, shape), device, rank: full ? 64 : 4, gradientCheckpointing: "full" },
      ...{ adapterDtype: "bfloat16", optimizer, steps: [[length], [length]], cap: full ? bytes : 0 },
    };
    const quote = quoteOf(training);
    const before = inUse();
    const { losses, seconds, memory } = await train(training);
    const kinds = Object.entries(memory.atPeak).map(([kind, of]) => [`${kind} at the peak`, gigabytes(of)]);
    const result: Result = {
      what: `${name}: a training step of ${length} tokens, r ${training.rank} on all linear layers in bfloat16, full checkpointing, ${optimizer}`,
      figures: {
        "tensors at their peak": gigabytes(memory.peakTotal),
        "quoted before the run": gigabytes(quote.peakTotal),
        ...Object.fromEntries(kinds),
        "paged to the host": gigabytes(memory.pagedPeak),
        "second step": { value: seconds[1] ?? Number.NaN, unit: "s" },
        loss: { value: losses[1] ?? Number.NaN, unit: "" },
      },
      goals: [{ text: `tensors ≤ ${bytes / 1e9} GB`, value: memory.peakTotal, needed: bytes, atMost: true }],
      notes: [],
    };
    if (!Number.isNaN(before)) result.figures["device in use before, by all"] = gigabytes(before);
    if (training.cap > 0) result.notes.push(`The allocation cap was ${bytes / 1e9} GB.`);
    return result;
  };

// What is paged is never more than a card has free: beside 65B a card of 48 GB has not enough for state in 32 bits, nor has
// one of 24 GB beside 33B.
export const measure65b = measureStep({ name: "65b", bytes: 40e9, optimizer: "paged_adamw_8bit" });
export const measure33b = measureStep({ name: "33b", bytes: 22e9, optimizer: "paged_adamw_8bit" });
export const measure13b = measureStep({ name: "13b", bytes: 10e9, optimizer: "paged_adamw_32bit" });
export const measure7b = measureStep({ name: "7b", bytes: 6e9, optimizer: "paged_adamw_32bit" });
