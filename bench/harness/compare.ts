// Ours and the peers in turn (A B A B …), so that a machine that drifts drifts for all of them; medians.

/** One thing that is measured, and how often a second call would give the same. */
export interface Subject {
  name: string;
  measure(): Promise<number>;
}

export interface Series {
  name: string;
  median: number;
  values: number[];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low = Number.NaN, high = Number.NaN] = [sorted[(sorted.length - 1) >> 1], sorted[middle]];
  return (low + high) / 2;
}

export function seriesOf(name: string, values: number[]): Series {
  return { name, values, median: median(values) };
}

/** `runs` rounds of one measurement of each subject, in their order. */
export async function alternate(subjects: readonly Subject[], runs: number): Promise<Series[]> {
  const values = subjects.map((): number[] => []);
  for (let run = 0; run < runs; run++) {
    for (const [i, subject] of subjects.entries()) values[i]?.push(await subject.measure());
  }
  return subjects.map(({ name }, i) => seriesOf(name, values[i] ?? []));
}
