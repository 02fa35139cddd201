// The longest row of 8B that a training step takes under a cap of 24 GB: the longest that is quoted to fit; should that not go
// through, the goal's length.
import { gigabytes, type MeasureRow } from "../row.ts";
import { configOf } from "../shapes.ts";
import { quoteOf, type Training, train } from "../training.ts";

/** Rows are tried in steps of this many tokens. */
const granule = 256;

/** The longest row that is quoted within the cap, by halving. */
function longestQuoted(of: (length: number) => Training, cap: number, most: number): number {
  let [fits, tooLong] = [0, Math.floor(most / granule) + 1];
  while (tooLong - fits > 1) {
    const middle = (fits + tooLong) >> 1;
    if (quoteOf(of(middle * granule)).peakTotal <= cap) fits = middle;
    else tooLong = middle;
  }
  return fits * granule;
}

/** The first of these lengths that goes through under the cap. */
async function longestOf(lengths: readonly number[], of: (length: number) => Training) {
  for (const length of lengths) {
    try {
      return { length, trained: await train(of(length)) };
    } catch (thrown) {
      if ((thrown as { code?: string }).code !== "RESOURCE_EXHAUSTED" || length === lengths.at(-1)) throw thrown;
    }
  }
  throw new RangeError("no length");
}

export const measureContext: MeasureRow = async ({ device, shape }) => {
  const full = shape === "full";
  const [cap, most] = full ? [24e9, 1 << 17] : [4e6, 4096];
  const of = (length: number): Training => ({
    ...{ config: configOf("8b", shape), device, rank: full ? 16 : 4, gradientCheckpointing: "offload" },
    ...{ adapterDtype: "bfloat16", optimizer: "paged_adamw_32bit", steps: [[length]], cap },
  });
  const quoted = longestQuoted(of, cap, most);
  if (quoted === 0) throw new Error(`no row of ${granule} tokens is quoted to fit in ${cap} bytes`);
  const goal = full ? Math.ceil(78_000 / granule) * granule : granule;
  const { length, trained } = await longestOf([quoted, Math.min(goal, quoted)], of);
  const { losses, seconds, memory } = trained;
  return {
    what: `8b: the longest row of a training step under a cap of ${cap / 1e9} GB, r ${of(1).rank}, block inputs on the host`,
    figures: {
      "longest row": { value: length, unit: "tokens" },
      "tensors at their peak": gigabytes(memory.peakTotal),
      "quoted before the run": gigabytes(quoteOf(of(length)).peakTotal),
      step: { value: seconds[0] ?? Number.NaN, unit: "s" },
      loss: { value: losses[0] ?? Number.NaN, unit: "" },
    },
    goals: [{ text: "≥ 78,000 tokens", value: length, needed: 78_000, atMost: false }],
    notes: [],
  };
};
