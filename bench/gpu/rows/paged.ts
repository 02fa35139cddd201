// The paged optimizer (QLoRA §3): under a cap below what an unpaged run takes, a run with one long row among short ones
// ends with the losses of the run without a cap, and the unpaged one is refused.
import { gigabytes, type MeasureRow } from "../row.ts";
import { configOf } from "../shapes.ts";
import { type Trained, type Training, train } from "../training.ts";

/** The error's code; null where it went through. */
async function refusal(training: Training): Promise<string | null> {
  try {
    await train(training);
    return null;
  } catch (thrown) {
    return (thrown as { code?: string }).code ?? String(thrown);
  }
}

const most = (of: readonly number[], other: readonly number[]): number =>
  of.reduce((worst, loss, i) => Math.max(worst, Math.abs(loss - (other[i] ?? Number.NaN))), 0);

export const measurePaged: MeasureRow = async ({ device, shape }) => {
  const full = shape === "full";
  const [short, long] = full ? [128, 2048] : [8, 48];
  const lengths = [[short], [short], [long], [short]];
  const training: Training = {
    ...{ config: configOf("7b", shape), device, rank: 64, gradientCheckpointing: "full" },
    ...{ adapterDtype: "float32", optimizer: "adamw_32bit", steps: lengths, cap: 0 },
  };
  const free: Trained = await train(training);
  const less = full ? 1e9 : Math.round(free.memory.atPeak.optimizer / 2);
  const cap = free.memory.peakTotal - less;
  const paged = await train({ ...training, optimizer: "paged_adamw_32bit", cap });
  const code = await refusal({ ...training, cap });
  const difference = most(paged.losses, free.losses);
  return {
    what: `paged optimizer, 7b: steps of ${lengths.join(", ")} tokens under a cap of ${less / 1e9} GB less than unpaged`,
    figures: {
      "unpaged peak": gigabytes(free.memory.peakTotal),
      cap: gigabytes(cap),
      "paged peak": gigabytes(paged.memory.peakTotal),
      "paged to the host": gigabytes(paged.memory.pagedPeak),
      "most that a loss differs": { value: difference, unit: "" },
      "short step, unpaged": { value: free.seconds[3] ?? Number.NaN, unit: "s" },
      "short step, paged": { value: paged.seconds[3] ?? Number.NaN, unit: "s" },
    },
    goals: [
      { text: "the same losses", value: difference, needed: 0, atMost: true },
      { text: "under the cap", value: paged.memory.peakTotal, needed: cap, atMost: true },
    ],
    notes: [`The unpaged run under the cap: ${code ?? "went through, which it should not"}.`],
  };
};
