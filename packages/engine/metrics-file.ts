// metrics.jsonl of a run's output folder: a row a step. A run before it is kept under another name.
import { appendFileSync, existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { StepResult } from "./trainer.ts";

const [current, previous] = ["metrics.jsonl", "metrics.previous.jsonl"];
export const metricsFiles: readonly string[] = [current, previous];

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
