// An answer as one uninterrupted stream of messages, whatever happens to the connection.
import { randomUUID } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  ChatRequestSchema,
  ChatResponse,
  GenerateRequestSchema,
  GenerateResponse,
  ResumeAnswerResponse,
} from "#gen/nibble/inference/v1/generation_pb.ts";
import { NibbleError } from "#packages/errors";
import type { InferenceClient } from "./connect.ts";
import { callOptions, isConnectionLoss, Retries, type RetryOptions } from "./retry.ts";

const cancelMsMax = 5_000;

export type AnswerMessage = GenerateResponse | ChatResponse | ResumeAnswerResponse;

export type AnswerAsk =
  | { generate: MessageInitShape<typeof GenerateRequestSchema> }
  | { chat: MessageInitShape<typeof ChatRequestSchema> };

export interface AnswerOptions extends RetryOptions {
  /** Sent with every call. */
  metadata?: Record<string, string>;
  /** Of `retriesMax`, those before the first message. Default: all of them. */
  beginRetriesMax?: number;
}

/**
 * Yields every message exactly once and in order. The request gets a request_id of its own unless it has one. A
 * connection that breaks is made up for as long as the server keeps the answer. Leaving the loop, or its signal, ends the
 * answer.
 */
export async function* steadyAnswer(
  inference: InferenceClient,
  ask: AnswerAsk,
  { metadata = {}, beginRetriesMax = Number.POSITIVE_INFINITY, ...options }: AnswerOptions = {},
): AsyncGenerator<AnswerMessage, void, undefined> {
  const { signal } = options;
  const call = { deadlineMs: Number.POSITIVE_INFINITY, metadata, ...callOptions(signal) };
  const requestId = ("generate" in ask ? ask.generate : ask.chat).requestId || randomUUID();
  const begin = (): AsyncIterable<AnswerMessage> =>
    "generate" in ask
      ? inference.generate({ ...ask.generate, requestId }, call)
      : inference.chat({ ...ask.chat, requestId }, call);
  const retries = new Retries(options);
  let last = 0n;
  let lossesBefore = 0;
  let loss: unknown;
  let isOver = false;
  let stream = begin();
  try {
    for (;;) {
      try {
        for await (const message of stream) {
          if (message.sequence <= last) continue;
          last = message.sequence;
          retries.progress();
          yield message;
        }
        isOver = true;
        return;
      } catch (thrown) {
        const isUnknown = loss !== undefined && NibbleError.from(thrown).code === "NOT_FOUND";
        isOver = isUnknown || !isConnectionLoss(thrown);
        // The server that had the answer has lost it.
        if (isUnknown && last > 0n) throw loss;
        if (isUnknown) {
          // The call that broke never reached the server.
          loss = undefined;
          stream = begin();
          continue;
        }
        if (last === 0n && ++lossesBefore > beginRetriesMax) throw thrown;
        await retries.again(thrown);
        loss = thrown;
        stream = inference.resumeAnswer({ requestId, afterSequence: last }, call);
      }
    }
  } finally {
    // Not waited for: a server that is gone keeps nobody.
    if (!isOver) inference.cancelAnswer({ requestId }, { deadlineMs: cancelMsMax, metadata }).catch(() => {});
  }
}
