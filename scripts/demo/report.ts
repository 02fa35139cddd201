// The demo's closing table. Every figure in it was measured in this run.
import type { MemoryUsage } from "#gen/nibble/common/v1/common_pb.ts";
import type { QuantizeModelResponse } from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import type { Finished } from "#gen/nibble/trainer/v1/events_pb.ts";
import { bytes, count, duration, percent, table } from "../../packages/cli/format.ts";
import { type Exam, inFlight } from "./questions.ts";

export interface Figures {
  quantized: QuantizeModelResponse;
  trained: Finished;
  trainTokensPerSecond: number;
  lossBefore: number;
  lossAfter: number;
  before: Exam;
  after: Exam;
  prefillTokensPerSecond: number;
  decodeTokensPerSecond: number;
  trainingMemory: MemoryUsage | undefined;
  servingMemory: MemoryUsage | undefined;
  seconds: number;
}

const examOf = ({ right, questions }: Exam) => `${right} of ${questions} (${percent(right / questions)})`;

function kindsOf(...usages: (MemoryUsage | undefined)[]): string[][] {
  const kinds = new Set(usages.flatMap((usage) => Object.keys(usage?.bytesPeakByKind ?? {})));
  const cell = (value: bigint | undefined) => (value ? bytes(Number(value)) : "-");
  return [...kinds]
    .filter((kind) => usages.some((usage) => usage?.bytesPeakByKind[kind]))
    .map((kind) => [`  ${kind}`, ...usages.map((usage) => cell(usage?.bytesPeakByKind[kind]))]);
}

export function reportOf(f: Figures): string {
  const { quantized, trained } = f;
  const peak = (usage: MemoryUsage | undefined) => bytes(Number(usage?.bytesPeak ?? 0));
  const blocks = [
    [
      ["base model", "16 bits", "4 bits"],
      ["  weights on disk", bytes(Number(quantized.bytesRead)), bytes(Number(quantized.bytesWritten))],
      ["  bits per quantized parameter", "16", quantized.bitsPerParameter.toFixed(3)],
    ],
    [
      ["held-out questions", "without adapter", "with adapter"],
      ["  loss", f.lossBefore.toFixed(4), f.lossAfter.toFixed(4)],
      ["  exact match", examOf(f.before), examOf(f.after)],
    ],
    [
      ["most memory, by kind", "training", "serving"],
      ...kindsOf(f.trainingMemory, f.servingMemory),
      ["  all at a time", peak(f.trainingMemory), peak(f.servingMemory)],
    ],
    [
      ["speed", "tokens/s"],
      ["  training", count(f.trainTokensPerSecond)],
      ["  prefill, one request", count(f.prefillTokensPerSecond)],
      ["  decode, one request", count(f.decodeTokensPerSecond)],
      [`  prompts and answers, ${inFlight} requests at a time`, count(f.after.tokensPerSecond)],
    ],
  ];
  const parameters = `${count(Number(quantized.parameters))} parameters, ${count(Number(quantized.parametersQuantized))} of them in 4 bits; ${count(Number(trained.parametersTrained))} trained in ${trained.steps} steps`;
  return `${blocks.map((rows) => table(rows)).join("\n\n")}\n\n${parameters}; ${duration(f.seconds)} in all`;
}
