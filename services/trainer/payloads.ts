// The engine's events as the contract's. It knows no jobs and no engine at work.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import type { MemoryUsageSchema } from "#gen/nibble/common/v1/common_pb.ts";
import {
  CheckpointSchema,
  EvalResultSchema,
  type Event,
  FinishedSchema,
  LogLineSchema,
  Severity,
  StepProgressSchema,
} from "#gen/nibble/trainer/v1/events_pb.ts";
import { DataProblem, type PreviewDataResponseSchema } from "#gen/nibble/trainer/v1/preview_pb.ts";
import type { TrainingQuoteSchema } from "#gen/nibble/trainer/v1/quote_pb.ts";
import { findingText, type Problem } from "#packages/data";
import type { DataPreview, MemoryReport, Quote, TrainEvent, TrainReport } from "#packages/engine";

export type Payload = Event["event"];

/** Steps whose mean time the estimate of the rest stands on. */
const etaStepsMax = 20;

export function memoryOf(report: MemoryReport): MessageInitShape<typeof MemoryUsageSchema> {
  return {
    bytesByKind: exact(report.current),
    bytesTotal: BigInt(Object.values(report.current).reduce((sum, bytes) => sum + bytes, 0)),
    bytesPeak: BigInt(report.peakTotal),
    bytesPeakByKind: exact(report.peak),
    bytesPaged: BigInt(report.paged),
  };
}

function exact(byKind: Record<string, number>): Record<string, bigint> {
  return Object.fromEntries(Object.entries(byKind).map(([kind, bytes]) => [kind, BigInt(bytes)]));
}

export function quoteOf(quote: Quote): MessageInitShape<typeof TrainingQuoteSchema> {
  const { rows, steps, tokens, trainedTokens, memory, available, seconds } = quote;
  const peak = BigInt(memory.peakTotal);
  return {
    rows: BigInt(rows),
    steps: BigInt(steps),
    tokensProcessed: BigInt(Math.round(tokens)),
    tokensTrained: BigInt(Math.round(trainedTokens)),
    parametersTrained: BigInt(memory.trainedParameters),
    memory: { bytesByKind: exact(memory.atPeak), bytesTotal: peak, bytesPeak: peak, bytesPaged: BigInt(memory.paged) },
    bytesProcess: BigInt(quote.processBytes),
    bytesAvailable: BigInt(Number.isFinite(available?.bytes) ? (available?.bytes ?? 0) : 0),
    limitedBy: available?.by ?? "",
    fits: quote.fits ?? false,
    flops: quote.flops,
    ...(seconds === null ? {} : { time: durationFromMs(Math.round(seconds * 1000)) }),
  };
}

const problems: Record<Problem, DataProblem> = {
  bad: DataProblem.BAD,
  untrained: DataProblem.UNTRAINED,
  cut: DataProblem.CUT,
  endless: DataProblem.ENDLESS,
  duplicate: DataProblem.DUPLICATE,
};

export function previewOf(data: DataPreview): MessageInitShape<typeof PreviewDataResponseSchema> {
  const { files, format, unusedColumns, rows, tokens, trainedTokens, longest, findings, preview } = data;
  return {
    files,
    format,
    unusedColumns,
    rows: BigInt(rows),
    tokens: BigInt(tokens),
    tokensTrained: BigInt(trainedTokens),
    tokensLongest: BigInt(longest),
    findings: findings.map((finding) => ({
      problem: problems[finding.problem],
      count: BigInt(finding.count),
      text: findingText(finding),
      places: finding.first.map((place) => ({ ...place, line: BigInt(place.line) })),
    })),
    preview: preview.map((row) => ({ ...row, line: BigInt(row.line) })),
  };
}

export function logLine(severity: Severity, text: string): Payload {
  return { case: "log", value: create(LogLineSchema, { severity, text }) };
}

/** The engine's events, one by one, as payloads; it remembers what estimates and totals need. */
export class Translator {
  readonly #recent: number[] = [];
  tokensTrained = 0;

  translate(event: Exclude<TrainEvent, CheckpointEvent>): Payload {
    if (event.kind === "step") return { case: "step", value: this.#step(event) };
    if (event.kind === "log") {
      return logLine(event.severity === "warning" ? Severity.WARNING : Severity.INFO, event.text);
    }
    const { step, loss, tokens, seconds } = event;
    const value = create(EvalResultSchema, { step: BigInt(step), loss, tokens: BigInt(tokens), seconds });
    return { case: "eval", value };
  }

  #step(event: TrainEvent & { kind: "step" }) {
    this.tokensTrained += event.trainedTokens;
    this.#recent.push(event.seconds);
    if (this.#recent.length > etaStepsMax) this.#recent.shift();
    const mean = this.#recent.reduce((sum, seconds) => sum + seconds, 0) / this.#recent.length;
    return create(StepProgressSchema, {
      step: BigInt(event.step),
      stepsTotal: BigInt(event.steps),
      loss: event.loss,
      gradNorm: event.gradNorm,
      learningRate: event.lr,
      tokens: BigInt(event.trainedTokens),
      tokensProcessed: BigInt(event.tokens),
      tokensPerSecond: event.tokensPerSecond,
      seconds: event.seconds,
      memory: memoryOf(event.memory),
      eta: durationFromMs(Math.round(mean * (event.steps - event.step) * 1000)),
      epoch: event.epoch,
    });
  }
}

export type CheckpointEvent = TrainEvent & { kind: "checkpoint" };

export function checkpoint({ step, dir, loss, evalLoss }: CheckpointEvent, adapterVersion: string): Payload {
  const figures = { loss, ...(evalLoss === null ? {} : { evalLoss }) };
  const value = create(CheckpointSchema, { step: BigInt(step), artifactDir: dir, ...figures, adapterVersion });
  return { case: "checkpoint", value };
}

export function finished(report: TrainReport, tokensTrained: number, adapterVersion: string): Payload {
  const value = create(FinishedSchema, {
    artifactDir: report.outDir,
    steps: BigInt(report.steps),
    firstLoss: report.firstLoss,
    lastLoss: report.lastLoss,
    ...(report.evalLoss === null ? {} : { evalLoss: report.evalLoss }),
    seconds: report.seconds,
    tokens: BigInt(tokensTrained),
    baseDigest: report.baseDigest,
    parametersTrained: BigInt(report.trainedParameters),
    adapterVersion,
    memory: memoryOf(report.memory),
  });
  return { case: "finished", value };
}
