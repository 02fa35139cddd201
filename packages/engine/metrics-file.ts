// What a run's output folder keeps of the run: metrics.jsonl, a row a step (a run before it is kept under another name),
// and data.json, what it was trained on and in which packing.
import { appendFileSync, existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { replaceFile } from "#packages/hub";
import type { JobRows } from "./job-rows.ts";
import type { StepResult } from "./trainer.ts";

const [current, previous] = ["metrics.jsonl", "metrics.previous.jsonl"];
const dataFacts = "data.json";
export const metricsFiles: readonly string[] = [current, previous, dataFacts];

/** The packing's digest is that of the plan: a run that goes on from here has to have the same. */
export function writeDataFacts(folder: string, data: string, { train, evaluation, report }: JobRows): void {
  const { store, plan } = train;
  const facts = {
    data,
    ...report,
    findings: report.findings.map(({ problem, count }) => ({ problem, count })),
    rows: store.count,
    tokens: store.tokens,
    trainedTokens: store.trainedTokens,
    rowsTrained: train.rowCount,
    rowsEvaluated: evaluation.rowCount,
    packing: plan && { capacity: plan.capacity, sequences: train.count, digest: plan.digest },
  };
  mkdirSync(folder, { recursive: true });
  replaceFile(join(folder, dataFacts), `${JSON.stringify(facts, null, 2)}\n`);
}

export class MetricsFile {
  private readonly path: string;

  /** Starts an empty file in `folder`, which is made if need be. */
  constructor(folder: string) {
    this.path = join(folder, current);
    mkdirSync(folder, { recursive: true });
    if (existsSync(this.path)) renameSync(this.path, join(folder, previous));
    writeFileSync(this.path, "");
  }

  add({ step, loss, gradNorm, lr, tokens }: StepResult, seconds: number): void {
    appendFileSync(this.path, `${JSON.stringify({ step, loss, grad_norm: gradNorm, lr, tokens, seconds })}\n`);
  }
}
