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
import { Retries, type RetryOptions } from "./retry.ts";

export type AnswerMessage = GenerateResponse | ChatResponse | ResumeAnswerResponse;

export type AnswerAsk =
  | { generate: MessageInitShape<typeof GenerateRequestSchema> }
  | { chat: MessageInitShape<typeof ChatRequestSchema> };

/**
 * Yields every message exactly once and in order. The request gets a request_id of its own unless it has one. A
 * connection that breaks is made up for as long as the server keeps the answer. Leaving the loop leaves the answer to the
 * server, which ends it when nobody comes back.
 */
export async function* steadyAnswer(
  inference: InferenceClient,
  ask: AnswerAsk,
  options: RetryOptions = {},
): AsyncGenerator<AnswerMessage, void, undefined> {
  const { signal } = options;
  const call = { deadlineMs: Number.POSITIVE_INFINITY, ...(signal ? { signal } : {}) };
  const requestId = ("generate" in ask ? ask.generate : ask.chat).requestId || randomUUID();
  const begin = (): AsyncIterable<AnswerMessage> =>
    "generate" in ask
      ? inference.generate({ ...ask.generate, requestId }, call)
      : inference.chat({ ...ask.chat, requestId }, call);
  const retries = new Retries(options);
  let last = 0n;
  let isResumed = false;
  let stream = begin();
  for (;;) {
    try {
      for await (const message of stream) {
        if (message.sequence <= last) continue;
        last = message.sequence;
        retries.progress();
        yield message;
      }
      return;
    } catch (thrown) {
      // The call that broke may never have reached the server.
      isResumed = !(isResumed && last === 0n && NibbleError.from(thrown).code === "NOT_FOUND");
      if (isResumed) await retries.again(thrown);
      stream = isResumed ? inference.resumeAnswer({ requestId, afterSequence: last }, call) : begin();
    }
  }
}
