// The engine: models in native memory, trained and served. It knows no gRPC and no registry.

export type { MemoryReport, QuantType, SamplingOptions } from "#native";
export { type DeviceChoice, deviceChoices } from "./device.ts";
export type { ExportGgufOptions, ExportGgufReport } from "./export-gguf.ts";
export type { ConstraintForm } from "./generation/constraint.ts";
export { pageTokens } from "./generation/kv-cache.ts";
export type { SchedulerStats } from "./generation/scheduler.ts";
export type { FinishReason, GeneratedToken, SequenceTiming, TokenScore } from "./generation/sequence.ts";
export { servedAdapterBytes } from "./generation/served-adapter.ts";
export type { StepRecord } from "./generation/step-trace.ts";
export { type CallOptions, Engine, EngineModel } from "./host/engine.ts";
export type { LogitDrift } from "./logit-drift.ts";
export type { MergeOptions, MergeReport, TensorProgress } from "./merge.ts";
export { estimateOfPaper, type PaperRow, paperRows } from "./paper.ts";
export type { DataPreview, PreviewJob } from "./preview.ts";
export type { QuantizeModelOptions, QuantizeProgress, QuantizeReport } from "./quantize-model.ts";
export { defaultQuant, type QuantOptions } from "./quantize-tensor.ts";
export type { Quote, QuoteJob } from "./quote.ts";
export { type Schedule, schedules } from "./schedule.ts";
export type {
  AdapterInfo,
  GenerateInput,
  GenerateResult,
  ModelInfo,
  ScoreInput,
  ServeOptions,
} from "./served-model.ts";
export type { TrainJob, TrainReport } from "./train-job.ts";
export type { TrainEvent } from "./train-run.ts";
