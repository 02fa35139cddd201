// The handlers of answers, tokens and scores: decode, call the domain, encode. No decisions here.
import type { ChatRequest, GenerateRequest } from "#gen/nibble/inference/v1/generation_pb.ts";
import type { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import type { TokenizeRequest } from "#gen/nibble/inference/v1/scoring_pb.ts";
import { type TextTokenizer, textOfToken } from "#packages/data";
import { type CallContext, type Handlers, parseName } from "#packages/rpc";
import { answers } from "./answers.ts";
import { decodeMessages, decodeSampling, decodeScoreText, decodeTools, encodeEvent, encodeScore } from "./encode.ts";
import { holdTraced } from "./engine-trace.ts";
import { encodePrompt, needTokenizer, type Prompt } from "./prompt.ts";
import type { Resumable } from "./resumable.ts";
import { score } from "./score.ts";
import type { Served, Serving } from "./serving.ts";

/** What Tokenize and CountTokens ask for. */
type TokensWish = Pick<TokenizeRequest, "input" | "adapter" | "skipSpecialTokens">;
type Answering = "generate" | "chat" | "resumeAnswer" | "cancelAnswer" | "tokenize" | "countTokens" | "score";

export const adapterIdOf = (name: string) => parseName("loadedAdapters/{adapter}", name, "adapter").adapter;

/** Who asks, for fairness: what a gateway says, or the machine that the call comes from. */
export function callerOf({ metadata, peer }: CallContext): string {
  const [given] = metadata.get("x-nibble-caller");
  return typeof given === "string" && given.length <= 256 ? given : peer.replace(/:\d+$/, "");
}

/** Counts a request, and keeps its adapter in memory, until `release`. */
async function hold({ adapters, requests }: Served, id: string | null, signal: AbortSignal) {
  const ended = requests.begin(id ?? "", id === null ? "" : adapters.get(id).source.version);
  try {
    const held = id === null ? null : await holdTraced(id, () => adapters.hold(id, signal));
    const release = () => {
      held?.release();
      ended();
    };
    return { engineId: held?.engineId ?? null, tokenizer: held?.tokenizer ?? null, release };
  } catch (thrown) {
    ended();
    throw thrown;
  }
}

/** Holds its adapter for as long as a request's events come: also without a client. */
export async function* holding<T>(
  served: Served,
  id: string | null,
  signal: AbortSignal,
  events: (engineId: string | null, tokenizer: TextTokenizer | null) => AsyncIterable<T>,
): AsyncGenerator<T> {
  const { engineId, tokenizer, release } = await hold(served, id, signal);
  try {
    yield* events(engineId, tokenizer);
  } finally {
    release();
  }
}

const conversation = ({ messages, tools }: Pick<ChatRequest, "messages" | "tools">): Prompt => ({
  messages: decodeMessages(messages),
  tools: decodeTools(tools),
});

export function answerHandlers(
  serving: Serving,
  resumable: Resumable,
): Pick<Handlers<typeof InferenceService>, Answering> {
  /** Generate and Chat differ in their prompt alone. */
  async function* answer(asked: GenerateRequest | ChatRequest, prompt: Prompt, context: CallContext) {
    const { signal } = context;
    const { served } = serving;
    const id = asked.adapter === "" ? null : served.adapters.get(adapterIdOf(asked.adapter)).id;
    const { returnLogits: wantLogits, returnLogprobs: wantLogprobs } = asked;
    const { n, ...sampling } = decodeSampling(asked.sampling);
    const request = { ...sampling, prompt, wantLogits, wantLogprobs, caller: callerOf(context) };
    const start = (until: AbortSignal) =>
      holding(served, id, until, (adapterId, tokenizer) =>
        answers(served.model, { ...request, adapterId, tokenizer }, n, until),
      );
    const events = asked.requestId === "" ? start(signal) : resumable.begin(asked.requestId, start, signal);
    for await (const event of events) yield encodeEvent(event);
  }
  const tokensOf = ({ input, adapter, skipSpecialTokens }: TokensWish) => {
    const { model, adapters } = serving.served;
    const own = adapter === "" ? null : adapters.get(adapterIdOf(adapter)).source.tokenizer;
    const tokenizer = needTokenizer(own ?? model.tokenizer);
    const text = { text: input.case === "prompt" ? input.value : "", addSpecialTokens: !skipSpecialTokens };
    const ids = encodePrompt(input.case === "conversation" ? conversation(input.value) : text, tokenizer);
    return { ids, tokenizer, model };
  };
  return {
    generate: async function* (request, context) {
      const { input } = request;
      const prompt = input.case === "inputIds" ? { ids: input.value.ids } : { text: input.value ?? "" };
      yield* answer(request, prompt, context);
    },
    chat: async function* (request, context) {
      yield* answer(request, conversation(request), context);
    },
    resumeAnswer: async function* ({ requestId, afterSequence }, { signal }) {
      for await (const event of resumable.resume(requestId, Number(afterSequence), signal)) yield encodeEvent(event);
    },
    cancelAnswer: ({ requestId }) => {
      resumable.cancel(requestId);
      return {};
    },
    tokenize: (request) => {
      const { ids, tokenizer } = tokensOf(request);
      return { ids: [...ids], tokens: ids.map((id) => tokenizer.tokenOf(id)) };
    },
    score: async ({ adapter, context, continuations, topLogprobs }, call) => {
      const { served } = serving;
      const { model } = served;
      const id = adapter === "" ? null : served.adapters.get(adapterIdOf(adapter)).id;
      const { engineId: adapterId, tokenizer: own, release } = await hold(served, id, call.signal);
      const tokenizer = own ?? model.tokenizer;
      const texts = continuations.map((one) => decodeScoreText(one) ?? { ids: [] });
      const request = { adapterId, tokenizer, continuations: texts, topLogprobs, caller: callerOf(call) };
      const scoring = score(model, { ...request, context: decodeScoreText(context) }, call.signal);
      const scores = await scoring.finally(release);
      return { scores: scores.map((one) => encodeScore(one, (id) => textOfToken(tokenizer, id))) };
    },
    countTokens: (request) => {
      const { ids, model } = tokensOf(request);
      return { tokens: ids.length, contextLength: model.contextLength };
    },
  };
}
