// What a request must be before it may wait: ids and lengths that the model and its cache can take.
import { NibbleError } from "#packages/errors";
import type { LlamaModel } from "../models/llama.ts";
import { KvCache } from "./kv-cache.ts";
import type { GenerationRequest } from "./sequence.ts";

export interface Place {
  model: LlamaModel;
  cache: KvCache;
  /** Requests that wait now. */
  waiting: number;
  waitingMax: number;
}

type Code = "INVALID_ARGUMENT" | "RESOURCE_EXHAUSTED";

function fail(message: string, code: Code = "INVALID_ARGUMENT", details: Record<string, string> = {}): never {
  throw new NibbleError(message, { code, op: "generate", details });
}

/** @throws INVALID_ARGUMENT, or RESOURCE_EXHAUSTED for what the cache or the queue does not hold. */
export function checkRequest(request: GenerationRequest, { model, cache, waiting, waitingMax }: Place): void {
  const { inputIds, maxNewTokens, adapter, score } = request;
  const vocabSize = adapter?.embed?.shape[0] ?? model.config.vocabSize;
  const positions = model.tables.cos.shape[0] ?? 0;
  const total = inputIds.length + maxNewTokens;
  if (inputIds.length === 0) fail("input_ids: expected at least one token, got none");
  if (score && !(score.from >= 1 && score.from < inputIds.length)) {
    fail(`score: expected a first token in 1..${inputIds.length - 1}, got ${score.from}`);
  }
  if (!score && !(maxNewTokens >= 1)) fail(`max_new_tokens: expected at least 1, got ${maxNewTokens}`);
  const bad = inputIds.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad !== undefined) fail(`input_ids: expected ids in 0..${vocabSize - 1}, got ${bad}`);
  if (total > positions) {
    fail(`length: expected at most ${positions} tokens (prompt and answer), got ${inputIds.length} + ${maxNewTokens}`);
  }
  if (KvCache.pagesFor(total) > cache.pageCount) {
    const details = { quota: "tokens of the cache", limit: String(cache.tokensMax) };
    fail(`length: the cache holds ${cache.tokensMax} tokens, got ${total}`, "RESOURCE_EXHAUSTED", details);
  }
  if (waiting >= waitingMax) {
    const details = { quota: "waiting requests", limit: String(waitingMax) };
    fail(`queue: expected at most ${waitingMax} waiting requests`, "RESOURCE_EXHAUSTED", details);
  }
}
