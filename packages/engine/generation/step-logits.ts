// The end of a step: logits of the tokens of which they are wanted. Shares of adapters with an embedding or a head of their
// own are runs apart; their vocabularies may differ in size.
import { convert, embeddingForward, type HeadScreen, type Tensor } from "#native";
import { int32Tensor } from "../batch.ts";
import { finalNorm, type LlamaModel } from "../models/llama.ts";
import type { Tape } from "../tape.ts";
import { headLogits } from "./head.ts";
import type { ServedAdapter } from "./served-adapter.ts";

/** Tokens [firstRow, endRow) that have one embedding and one head; [begin, end) of the outputs are theirs. */
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
  shares: readonly { adapter: ServedAdapter | null; count: number; outputs: number }[],
): TableRun[] {
  const runs: TableRun[] = [];
  let row = 0;
  let output = 0;
  for (const { adapter, count, outputs } of shares) {
    const embed = adapter?.embed ?? model.embed;
    const head = adapter?.head ?? model.head.weight.data;
    const open = runs.at(-1);
    if (open?.embed === embed && open.head === head) {
      open.end += outputs;
      open.endRow += count;
    } else runs.push({ embed, head, begin: output, end: output + outputs, firstRow: row, endRow: row + count });
    row += count;
    output += outputs;
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
  private readonly isOwner: boolean;

  /** @param isOwner whether free() frees them: false for tensors that stay. */
  constructor(isOwner = true) {
    this.isOwner = isOwner;
  }

  add(run: TableRun, logits: Tensor): void {
    this.parts.push({ run, logits });
  }

  /** Of an output: float32 [outputs of its run, V], and the row that is its own. */
  of(output: number): { logits: Tensor; row: number } {
    const part = this.parts.find(({ run }) => output < run.end);
    if (!part) throw new RangeError(`[generate] output ${output} has no logits`);
    return { logits: part.logits, row: output - part.run.begin };
  }

  free(): void {
    if (this.isOwner) for (const { logits } of this.parts) logits.free();
  }
}

/** What the head reads of hidden states: it computes in float32 whatever they are, as sampling compares close logits. */
export function headInput(tape: Tape, model: LlamaModel, hidden: Tensor): Tensor {
  const y = finalNorm(tape, model, tape.variable(hidden, false)).value;
  const wide = tape.empty(y.shape, "float32");
  convert(y, wide);
  return wide;
}

/** @param outputs rows of `hidden` of which logits are wanted. The caller frees them. */
export function lastLogits(
  tape: Tape,
  model: LlamaModel,
  hidden: Tensor,
  outputs: Int32Array,
  runs: readonly TableRun[],
  { screen, keep }: HeadUse,
): StepLogits {
  const all = new StepLogits();
  for (const run of runs) {
    if (run.begin === run.end) continue;
    const rows = int32Tensor(outputs.subarray(run.begin, run.end), hidden.device);
    const gathered = tape.empty([rows.count, hidden.shape[1] ?? 0]);
    embeddingForward(hidden, rows, gathered);
    rows.free();
    const wide = headInput(tape, model, gathered);
    const isOwn = run.head !== model.head.weight.data;
    all.add(run, headLogits(run.head, wide, isOwn ? null : screen, keep));
  }
  return all;
}
