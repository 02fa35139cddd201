// What a row of the table is made of, and whether its goals are met.
import { alternate, type Series, type Subject } from "./compare.ts";
import type { Setting } from "./setting.ts";

export interface Goal {
  /** As the table prints it, e.g. "≥ 2.2 × PEFT + bitsandbytes". */
  text: string;
  /** Ours over the other's, or the other's over ours where less is better: more is better always. */
  ratio: number;
  needed: number;
  met: boolean;
}

export interface Result {
  what: string;
  unit: string;
  series: Series[];
  goals: Goal[];
  /** What the reader must know: a peer that is not installed, a choice that was made. */
  notes: string[];
}

export interface Row {
  name: string;
  measure(setting: Setting): Promise<Result[]>;
}

export interface GoalSpec {
  text: string;
  /** The series that ours is compared with, by name. */
  beside: string;
  needed: number;
}

export interface Comparison {
  what: string;
  unit: string;
  lessIsBetter?: boolean;
  /** Ours first. */
  subjects: readonly Subject[];
  goals: readonly GoalSpec[];
  notes?: readonly string[];
}

/** Measures in turn, and holds the medians against the goals. A goal whose peer is missing is left out. */
export async function compare(comparison: Comparison, runs: number): Promise<Result> {
  return judge(comparison, await alternate(comparison.subjects, runs));
}

/** The same for series that were measured together with others. */
export function judge(comparison: Omit<Comparison, "subjects">, series: Series[]): Result {
  const { what, unit, lessIsBetter = false, notes = [] } = comparison;
  const ours = series[0]?.median ?? Number.NaN;
  const goals = comparison.goals.flatMap(({ text, beside, needed }) => {
    const other = series.find(({ name }) => name === beside)?.median;
    if (other === undefined) return [];
    const ratio = lessIsBetter ? other / ours : ours / other;
    return [{ text, ratio, needed, met: ratio >= needed }];
  });
  return { what, unit, series, goals, notes: [...notes] };
}
