// Rows that teach what nobody wants, counted while a data set is read: cut ones, ones that never train the end of a
// sequence, ones of which nothing is trained, ones that were there before.
import type { Example } from "./examples.ts";
import type { Place } from "./place.ts";

export const problems = ["bad", "untrained", "cut", "endless", "duplicate"] as const;
export type Problem = (typeof problems)[number];

export interface Finding {
  problem: Problem;
  count: number;
  /** The first of them, with what more there is to say about each. */
  first: (Place & { text: string })[];
}

/** What happens to such rows, and what to do about it. */
const advice: Record<Problem, string> = {
  bad: "cannot be read",
  untrained: "train nothing and are left out",
  cut: "are longer than max_length and were cut",
  endless: "train no end of sequence: the model may not stop",
  duplicate: "repeat an earlier row, token for token",
};

export function findingText({ problem, count, first }: Finding): string {
  const place = first[0];
  const rows = count === 1 ? "1 row" : `${count} rows`;
  const where = place ? `, the first at ${place.file}:${place.line}${place.text === "" ? "" : ` (${place.text})`}` : "";
  const text = count === 1 ? singular(advice[problem]) : advice[problem];
  return `${rows} ${text}${where}`;
}

function singular(text: string): string {
  return text
    .replace(/^train /, "trains ")
    .replace("trains nothing and are", "trains nothing and is")
    .replace(/^are /, "is ")
    .replace(" were cut", " was cut")
    .replace(/^repeat /, "repeats ");
}

/** Places that are kept of each problem. */
const placesMax = 20;

export class Lint {
  private readonly findings = new Map<Problem, Finding>();
  private readonly seen = new HashSet();

  add(problem: Problem, { file, line }: Place, text = ""): void {
    const finding = this.findings.get(problem) ?? { problem, count: 0, first: [] };
    this.findings.set(problem, finding);
    finding.count++;
    if (finding.first.length < placesMax) finding.first.push({ file, line, text });
  }

  /** True where the example is to be trained on. */
  see(example: Example): boolean {
    const { untrained, cutCount, trainsEos, inputIds } = example;
    if (cutCount > 0) this.add("cut", example, `${cutCount} of ${inputIds.length + cutCount} tokens`);
    if (untrained !== null) {
      this.add("untrained", example, untrained);
      return false;
    }
    if (!trainsEos) this.add("endless", example);
    if (!this.seen.add(hashOf(example))) this.add("duplicate", example);
    return true;
  }

  /** In the order of `problems`. */
  report(): Finding[] {
    return problems.flatMap((problem) => this.findings.get(problem) ?? []);
  }
}

/** 52 bits of ids and labels (two 32-bit multiplicative hashes): two rows of ten million meet with a chance of 1 %. */
function hashOf({ inputIds, labels }: Example): number {
  let [a, b] = [0x811c9dc5, 0x9e3779b9];
  for (const list of [inputIds, labels]) {
    for (const id of list) {
      a = Math.imul(a ^ id, 0x01000193);
      b = Math.imul(b ^ (id + (b >>> 15)), 0x85ebca6b);
    }
  }
  return 1 + (a >>> 0) * 2 ** 20 + ((b >>> 8) & 0xfffff);
}

/** Numbers other than 0, eight bytes each and as many free: a Set of V8 takes four times as much. */
class HashSet {
  private slots = new Float64Array(1 << 12);
  private count = 0;

  /** False where it was there. */
  add(value: number): boolean {
    if (2 * this.count >= this.slots.length) this.grow();
    const at = this.find(value);
    if (this.slots[at] === value) return false;
    this.slots[at] = value;
    this.count++;
    return true;
  }

  private find(value: number): number {
    const mask = this.slots.length - 1;
    let at = (value ^ (value / 2 ** 20)) & mask;
    while (this.slots[at] !== 0 && this.slots[at] !== value) at = (at + 1) & mask;
    return at;
  }

  private grow(): void {
    const old = this.slots;
    this.slots = new Float64Array(2 * old.length);
    for (const value of old) if (value !== 0) this.slots[this.find(value)] = value;
  }
}
