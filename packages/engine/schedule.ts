// Learning rate by step: warm-up from 0, then constant, linear to 0 or cosine to 0. Step k (from 0) uses
// the value that transformers' schedulers give at step k.
export const schedules = ["constant", "linear", "cosine"] as const;
export type Schedule = (typeof schedules)[number];

export interface ScheduleOptions {
  kind: Schedule;
  lr: number;
  warmupSteps: number;
  steps: number;
}

export function learningRate(step: number, { kind, lr, warmupSteps, steps }: ScheduleOptions): number {
  if (step < warmupSteps) return (lr * step) / Math.max(1, warmupSteps);
  if (kind === "constant") return lr;
  const progress = (step - warmupSteps) / Math.max(1, steps - warmupSteps);
  if (kind === "linear") return lr * Math.max(0, 1 - progress);
  return lr * Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
}
