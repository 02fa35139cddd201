// Operations from request to outcome: one runs, some wait, all are recorded. It knows no transport and no engine.
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { create, equals } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Logger } from "pino";
import {
  type QuantizeModelMetadata,
  QuantizeModelMetadataSchema,
  type QuantizeModelRequest,
  QuantizeModelRequestSchema,
} from "#gen/nibble/quantizer/v1/quantizer_pb.ts";
import type { QuantizeProgress } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { Once, type RunQueue } from "#packages/jobs";
import { orAborted, toStatus } from "#packages/rpc";
import type { Progress, Quantize } from "./quantization.ts";
import { newRecord, type OperationRecord, type OperationStore } from "./store.ts";

const op = "quantize_model";

export interface OperationsParts {
  now: () => number;
  logger: Logger;
  store: OperationStore;
  queue: RunQueue;
  quantize: Quantize;
}

/** An operation that is not done: its newest figures are here, not in the store. */
interface Live {
  record: OperationRecord;
  done: Promise<void>;
  finish: () => void;
}

const stopped = (what: string) => new NibbleError(`the operation: ${what}`, { code: "ABORTED", op });
const cancelled = () => new NibbleError("the operation: was cancelled", { code: "CANCELLED", op });

export class Operations {
  readonly #parts: OperationsParts;
  readonly #live = new Map<string, Live>();
  readonly #creating = new Once<OperationRecord>();

  constructor(parts: OperationsParts) {
    this.#parts = parts;
  }

  /** What a stop interrupted ends as ABORTED; what had not begun takes its place in the queue again. */
  async recover(): Promise<void> {
    const { store, queue, logger } = this.#parts;
    for (const record of await store.unfinished()) {
      if (record.state === "queued") {
        this.#start(record, queue.reserve({ beyondLimit: true }));
        continue;
      }
      logger.warn({ operation: record.id }, "an operation was interrupted by the server's end");
      await this.#end(record, stopped("was interrupted when the server stopped; nothing was written, start it again"));
    }
  }

  /** @throws ALREADY_EXISTS for a request id of another request, RESOURCE_EXHAUSTED when the queue is full. */
  async create(request: QuantizeModelRequest): Promise<OperationRecord> {
    const { requestId } = request;
    if (requestId === "") return this.#create(request);
    const record = await this.#creating.run(requestId, () => this.#findOrCreate(request));
    if (equals(QuantizeModelRequestSchema, record.request, request)) return record;
    const message = `request_id: ${requestId} was used for another request`;
    throw new NibbleError(message, { code: "ALREADY_EXISTS", op, details: { field: "request_id" } });
  }

  async #findOrCreate(request: QuantizeModelRequest): Promise<OperationRecord> {
    const earlier = await this.#parts.store.findByRequestId(request.requestId);
    return earlier ? this.get(earlier.id) : this.#create(request);
  }

  async #create(request: QuantizeModelRequest): Promise<OperationRecord> {
    const { queue, now, store } = this.#parts;
    const place = queue.reserve();
    try {
      const { modelDir, outDir } = request;
      const createTime = timestampFromMs(now());
      const metadata = create(QuantizeModelMetadataSchema, { createTime, modelDir, outDir });
      const record = newRecord(randomUUID(), request, metadata);
      await store.insert(record);
      this.#start(record, place);
      return record;
    } catch (thrown) {
      place.release();
      throw thrown;
    }
  }

  #start(record: OperationRecord, place: ReturnType<RunQueue["reserve"]>): void {
    const { promise: done, resolve: finish } = Promise.withResolvers<void>();
    this.#live.set(record.id, { record, done, finish });
    place.start(record.id, (signal) => this.#run(record, signal));
  }

  async #run(record: OperationRecord, signal: AbortSignal): Promise<void> {
    const { now, store, quantize } = this.#parts;
    try {
      record.state = "running";
      record.metadata.startTime = timestampFromMs(now());
      await store.update(record);
      signal.throwIfAborted();
      record.response = await quantize(record.request, progressOf(record), signal);
      await this.#end(record, null);
    } catch (thrown) {
      await this.#end(record, NibbleError.from(signal.aborted ? signal.reason : thrown, op));
    }
  }

  /** Records the outcome; a store that fails then must not take the queue down with it. */
  async #end(record: OperationRecord, error: NibbleError | null): Promise<void> {
    const { now, store, logger } = this.#parts;
    record.state = "done";
    record.metadata.endTime = timestampFromMs(now());
    record.error = error && toStatus(error);
    if (error) record.response = null;
    logger.info({ operation: record.id, code: error?.code ?? "OK", error: error?.message }, "operation ended");
    try {
      await store.update(record);
    } catch (thrown) {
      logger.error({ err: thrown, operation: record.id }, "the outcome of an operation could not be recorded");
    }
    this.#live.get(record.id)?.finish();
    this.#live.delete(record.id);
  }

  async get(id: string): Promise<OperationRecord> {
    const found = this.#live.get(id)?.record ?? (await this.#parts.store.find(id));
    if (found) return found;
    throw new NibbleError(`operations/${id}: expected an operation, got none`, { code: "NOT_FOUND", op: "operations" });
  }

  /** Newest first. */
  async list(before: number | undefined, limit: number): Promise<{ position: number; record: OperationRecord }[]> {
    const rows = await this.#parts.store.list(before, limit);
    return rows.map(({ position, record }) => ({ position, record: this.#live.get(record.id)?.record ?? record }));
  }

  /** Changes nothing about an operation that is done. */
  async cancel(id: string): Promise<void> {
    const record = await this.get(id);
    if (this.#parts.queue.cancel(id, cancelled()) === "dropped") await this.#end(record, cancelled());
  }

  /** @throws FAILED_PRECONDITION for one that is not done. */
  async remove(id: string): Promise<void> {
    const { state } = await this.get(id);
    if (state !== "done") {
      const message = `operations/${id}: expected one that is done, got one that is ${state}; cancel it first`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "operations" });
    }
    await this.#parts.store.remove(id);
  }

  /** The operation when it is done, or as it is after `timeoutMs` (undefined: as long as the signals allow). */
  async wait(
    id: string,
    timeoutMs: number | undefined,
    signals: { signal: AbortSignal; drainSignal: AbortSignal },
  ): Promise<OperationRecord> {
    const record = await this.get(id);
    const live = this.#live.get(id);
    if (!live) return record;
    const timer = new AbortController();
    const late = timeoutMs === undefined ? [] : [delay(timeoutMs, undefined, { signal: timer.signal }).catch(() => {})];
    try {
      const either = AbortSignal.any([signals.signal, signals.drainSignal]);
      await orAborted(Promise.race([live.done, ...late]), either);
    } finally {
      timer.abort();
    }
    return this.get(id);
  }

  /** For the server's end: what runs is stopped and recorded as ABORTED, what waits stays recorded as waiting. */
  async stop(): Promise<void> {
    await this.#parts.queue.close(stopped("was interrupted by the server's stop; nothing was written, start it again"));
  }
}

function progressOf({ metadata }: OperationRecord): Progress {
  return {
    pulled: ({ bytesDone, bytesTotal }) => {
      metadata.bytesPulled = BigInt(bytesDone);
      metadata.bytesToPull = BigInt(bytesTotal);
    },
    quantized: (progress) => applyProgress(metadata, progress),
  };
}

function applyProgress(metadata: QuantizeModelMetadata, progress: QuantizeProgress): void {
  metadata.tensorsDone = BigInt(progress.tensorsDone);
  metadata.tensorsTotal = BigInt(progress.tensorsTotal);
  metadata.bytesRead = BigInt(progress.bytesRead);
  metadata.bytesTotal = BigInt(progress.bytesTotal);
  metadata.bytesWritten = BigInt(progress.bytesWritten);
  metadata.currentTensor = progress.tensor;
}
