// The backend behind --endpoint: everything happens in a running stack; paths are made absolute and are the server's.
import { resolve } from "node:path";
import {
  type QuantizeModelMetadata,
  QuantizeModelMetadataSchema,
  type QuantizeModelResponse,
  QuantizeModelResponseSchema,
} from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import { type Finished, State } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainingQuote } from "#gen/nibble/trainer/v1/quote_pb.ts";
import type { TrainingJob as JobMessage } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { type Connection, connect, waitForOperation, watchJob } from "#packages/client";
import { NibbleError } from "#packages/errors";
import { fromStatus } from "#packages/rpc";
import type {
  Answerer,
  Backend,
  OpenOptions,
  PreviewJob,
  PreviewSummary,
  QuantizeJob,
  QuantizeProgress,
  QuantizeSummary,
  QuoteJob,
  QuoteSummary,
  TrainingJob,
  TrainProgress,
  TrainSummary,
} from "../backend.ts";
import { RemoteModel } from "./model.ts";
import { enumName, folderOf, previewSummary, progressOf, quantTypeOf, trainingSpec } from "./wire.ts";

export class RemoteBackend implements Backend {
  private readonly connection: Connection;

  constructor(endpoint: string) {
    this.connection = connect({ endpoint });
  }

  async quantize(
    job: QuantizeJob,
    { signal, onProgress }: { signal: AbortSignal; onProgress: (p: QuantizeProgress) => void },
  ): Promise<QuantizeSummary> {
    const { quantizer, operations } = this.connection;
    const { type, blockSize, doubleQuant } = job.quant;
    const operation = await quantizer.quantizeModel(
      {
        modelDir: folderOf(job.modelDir),
        outDir: resolve(job.outDir),
        quantType: quantTypeOf(type),
        blockSize,
        doubleQuant,
        ...(job.threads === null ? {} : { threads: job.threads }),
      },
      { signal },
    );
    try {
      const response = await waitForOperation(operations, operation, QuantizeModelResponseSchema, {
        metadata: QuantizeModelMetadataSchema,
        onMetadata: (m) => onProgress(quantizeProgress(m)),
        signal,
      });
      return quantizeSummary(response);
    } catch (thrown) {
      if (signal.aborted) await operations.cancelOperation({ name: operation.name });
      throw signal.aborted ? signal.reason : thrown;
    }
  }

  async train(
    job: TrainingJob,
    { signal, onEvent }: { signal: AbortSignal; onEvent: (event: TrainProgress) => void },
  ): Promise<TrainSummary> {
    refuseDevice(job.device, "train", "NIBBLE_TRAINER_DEVICE");
    const { trainer } = this.connection;
    const created = await trainer.createTrainingJob({ trainingJob: { spec: trainingSpec(job) } }, { signal });
    const name = created.trainingJob?.name ?? "";
    onEvent({ kind: "log", severity: "info", text: name });
    try {
      for await (const event of watchJob(trainer, name, { signal })) {
        const progress = progressOf(event);
        if (progress) onEvent(progress);
      }
    } catch (thrown) {
      if (signal.aborted) await trainer.cancelTrainingJob({ name });
      throw signal.aborted ? signal.reason : thrown;
    }
    const { trainingJob } = await trainer.getTrainingJob({ name }, { signal });
    return trainSummary(name, trainingJob);
  }

  async quote(job: QuoteJob, signal: AbortSignal): Promise<QuoteSummary> {
    if (!job.hasRows || job.device !== "cpu") {
      const message = "estimate: a stack quotes for rows on its own machine; expected --data, and --device cpu";
      throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "estimate" });
    }
    const spec = trainingSpec({ ...job, evalSteps: 0 });
    const { quote } = await this.connection.trainer.quoteTrainingJob({ spec }, { signal });
    if (quote) return quoteSummary(quote);
    throw new NibbleError("the stack: expected a quote, got none", { code: "INTERNAL", op: "estimate" });
  }

  async preview({ recipe, rows }: PreviewJob, signal: AbortSignal): Promise<PreviewSummary> {
    const spec = trainingSpec({ recipe, evalFile: null, evalSteps: 0 });
    return previewSummary(await this.connection.trainer.previewData({ spec, rows }, { signal }));
  }

  async open(options: OpenOptions, signal: AbortSignal): Promise<Answerer> {
    refuseDevice(options.device, "generate", "NIBBLE_INFERENCE_DEVICE");
    return RemoteModel.open(this.connection, options, signal);
  }

  async close(): Promise<void> {
    this.connection.close();
  }
}

function quantizeProgress(m: QuantizeModelMetadata): QuantizeProgress {
  const pulled = { bytesPulled: Number(m.bytesPulled), bytesToPull: Number(m.bytesToPull) };
  return { tensorsDone: Number(m.tensorsDone), tensorsTotal: Number(m.tensorsTotal), ...pulled };
}

/** A stack's services choose theirs at their start. */
function refuseDevice(device: OpenOptions["device"], op: string, setting: string): void {
  if (device === "cpu") return;
  const message = `device: expected none with a stack, whose service takes ${setting} at its start, got ${device}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { field: "device" } });
}

function quoteSummary(quote: TrainingQuote): QuoteSummary {
  const { memory, time } = quote;
  return {
    rows: Number(quote.rows),
    steps: Number(quote.steps),
    tokens: Number(quote.tokensProcessed),
    trainedTokens: Number(quote.tokensTrained),
    trainedParameters: Number(quote.parametersTrained),
    memoryBytes: Object.fromEntries(Object.entries(memory?.bytesByKind ?? {}).map(([kind, n]) => [kind, Number(n)])),
    memoryPeakBytes: Number(memory?.bytesPeak ?? 0),
    pagedBytes: Number(memory?.bytesPaged ?? 0),
    processBytes: Number(quote.bytesProcess),
    availableBytes: Number(quote.bytesAvailable),
    limitedBy: quote.limitedBy,
    fits: quote.fits,
    flops: quote.flops,
    seconds: time === undefined ? null : Number(time.seconds) + time.nanos / 1e9,
  };
}

function quantizeSummary(response: QuantizeModelResponse): QuantizeSummary {
  return {
    outDir: response.outDir,
    digest: response.digest,
    parameters: Number(response.parameters),
    quantizedParameters: Number(response.parametersQuantized),
    bitsPerParameter: response.bitsPerParameter,
    bytesRead: Number(response.bytesRead),
    bytesWritten: Number(response.bytesWritten),
    bytesPeak: Number(response.bytesPeak),
    seconds: response.seconds,
  };
}

/** Throws what ended a job that did not succeed. */
function trainSummary(name: string, job: JobMessage | undefined): TrainSummary {
  if (job?.error) throw fromStatus(job.error, "train");
  if (job?.state !== State.SUCCEEDED || !job.result) {
    throw new NibbleError(`${name}: expected a result, got state ${enumName(State, job?.state ?? 0)}`, {
      code: "INTERNAL",
      op: "train",
    });
  }
  return summaryOf(job.result);
}

function summaryOf(result: Finished): TrainSummary {
  return {
    outDir: result.artifactDir,
    steps: Number(result.steps),
    firstLoss: result.firstLoss,
    lastLoss: result.lastLoss,
    evalLoss: result.evalLoss ?? null,
    seconds: result.seconds,
    tokens: Number(result.tokens),
    baseDigest: result.baseDigest,
    trainedParameters: Number(result.parametersTrained),
    memoryPeakBytes: Number(result.memory?.bytesPeak ?? 0),
  };
}
