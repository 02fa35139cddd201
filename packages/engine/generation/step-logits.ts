// The end of a step: logits after the last token of each share. Shares of adapters with an embedding or a head of their
// own are runs apart; their vocabularies may differ in size.
import { convert, embeddingForward, type HeadScreen, type Tensor } from "#native";
import { int32Tensor } from "../batch.ts";
import type { Adapter } from "../lora.ts";
import { finalNorm, type LlamaModel } from "../models/llama.ts";
import type { Tape } from "../tape.ts";
import { headLogits } from "./head.ts";

/** Shares [begin, end) that have one embedding and one head; tokens [firstRow, endRow). */
export interface TableRun {
  embed: Tensor;
  head: Tensor;
  begin: number;
  end: number;
  firstRow: number;
  endRow: number;
}

/** @param shares in the order of the step: those of one adapter side by side. */
export function tableRuns(
  model: LlamaModel,
  shares: readonly { adapter: Adapter | null; count: number }[],
): TableRun[] {
  const runs: TableRun[] = [];
  let row = 0;
  for (const [i, { adapter, count }] of shares.entries()) {
    const embed = adapter?.embed ?? model.embed;
    const head = adapter?.head ?? model.head.weight.data;
    const open = runs.at(-1);
    if (open?.embed === embed && open.head === head) {
      open.end = i + 1;
      open.endRow = row + count;
    } else runs.push({ embed, head, begin: i, end: i + 1, firstRow: row, endRow: row + count });
    row += count;
  }
  return runs;
}

/** How the base's head is read; see headLogits. */
export interface HeadUse {
  screen: HeadScreen | null;
  keep: number;
}

export class StepLogits {
  private readonly parts: { run: TableRun; logits: Tensor }[] = [];

  add(run: TableRun, logits: Tensor): void {
    this.parts.push({ run, logits });
  }

  /** Of a share: float32 [shares of its run, V], and the row that is its own. */
  of(share: number): { logits: Tensor; row: number } {
    const part = this.parts.find(({ run }) => share < run.end);
    if (!part) throw new RangeError(`[generate] share ${share} has no logits`);
    return { logits: part.logits, row: share - part.run.begin };
  }

  free(): void {
    for (const { logits } of this.parts) logits.free();
  }
}

/** @param last row of the last token of each share. The caller frees the logits. */
export function lastLogits(
  tape: Tape,
  model: LlamaModel,
  hidden: Tensor,
  last: Int32Array,
  runs: readonly TableRun[],
  { screen, keep }: HeadUse,
): StepLogits {
  const all = new StepLogits();
  for (const run of runs) {
    const rows = int32Tensor(last.subarray(run.begin, run.end), hidden.device);
    const gathered = tape.empty([rows.count, hidden.shape[1] ?? 0]);
    embeddingForward(hidden, rows, gathered);
    rows.free();
    const y = finalNorm(tape, model, tape.variable(gathered, false)).value;
    // The head computes in float32 whatever the activations are: sampling compares close logits.
    const wide = tape.empty(y.shape, "float32");
    convert(y, wide);
    const isOwn = run.head !== model.head.weight.data;
    all.add(run, headLogits(run.head, wide, isOwn ? null : screen, keep));
  }
  return all;
}
