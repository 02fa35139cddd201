// POST /v1/chat/completions and /v1/completions: read, ask, answer whole or as a stream.
import { randomUUID } from "node:crypto";
import { type AnswerAsk, type InferenceClient, steadyAnswer } from "#packages/client";
import { type Answer, events, objectOf, type Request, type Route, route } from "#packages/http";
import { errorBody } from "../errors.ts";
import type { Keys } from "../keys.ts";
import type { RequestMeter, ServingMetrics } from "../metrics.ts";
import type { Models, Target } from "../models.ts";
import { type AnswerEvent, answers } from "./answers.ts";
import { type Asked, readChat, readCompletion } from "./requests.ts";
import { Choice, chatShape, completionShape, type Shape, usageOf } from "./shapes.ts";

export interface CompletionsParts {
  /** Milliseconds since 1970. */
  now: () => number;
  models: Models;
  inference: InferenceClient;
  keys: Keys;
  metrics: ServingMetrics;
  bodyBytesMax: number;
  heartbeatMs: number;
}

/** A service that is not there is 503 within half a second; an answer that has begun is waited for. */
const beginRetriesMax = 2;

/** What the two APIs do differently. */
interface Kind<C> {
  operation: "chat" | "text_completion";
  idPrefix: string;
  read(body: Record<string, unknown>): Asked<C>;
  ask(request: C & { adapter: string }): AnswerAsk;
  shape(): Shape;
}

/** One request under way. */
interface Job {
  asked: Asked<unknown>;
  shape: Shape;
  n: number;
  /** What every object of the answer has. */
  head: { id: string; created: number; model: string; system_fingerprint: string };
  events: AsyncIterable<AnswerEvent>;
}

async function whole({ asked, shape, n, head, events: all }: Job): Promise<Answer> {
  const choices = asked.calls.flatMap((_, i) => Array.from({ length: n }, (_, j) => new Choice(i * n + j)));
  for await (const event of all) choices[event.index]?.push(event);
  const views = choices.map((choice) => shape.whole(choice, asked));
  return { json: { ...head, object: shape.object, choices: views, usage: usageOf(choices, n) } };
}

/** The chunks of a stream, as JSON. */
async function* chunks({ asked, shape, n, head, events: all }: Job): AsyncGenerator<string> {
  const usage = asked.includeUsage ? { usage: null } : {};
  const chunk = (choice: unknown) =>
    JSON.stringify({ ...head, object: shape.chunkObject, choices: [choice], ...usage });
  const choices = new Map<number, Choice>();
  for await (const event of all) {
    let choice = choices.get(event.index);
    if (!choice) {
      choice = new Choice(event.index);
      choices.set(event.index, choice);
      const opening = shape.opening(event.index);
      if (opening !== undefined) yield chunk(opening);
    }
    const added = choice.push(event);
    if (added.text !== "" || added.logprobs.length > 0) yield chunk(shape.piece(event.index, added, asked));
    if (event.end) for (const closing of shape.closing(choice)) yield chunk(closing);
  }
  if (!asked.includeUsage) return;
  const total = usageOf([...choices.values()], n);
  yield JSON.stringify({ ...head, object: shape.chunkObject, choices: [], usage: total });
}

export class CompletionsApi {
  readonly #parts: CompletionsParts;

  constructor(parts: CompletionsParts) {
    this.#parts = parts;
  }

  routes(): Route[] {
    return [
      ...route("POST", "/v1/chat/completions", (request) =>
        this.#answer(request, {
          operation: "chat",
          idPrefix: "chatcmpl",
          read: readChat,
          ask: (chat) => ({ chat }),
          shape: () => chatShape,
        }),
      ),
      ...route("POST", "/v1/completions", (request) =>
        this.#answer(request, {
          operation: "text_completion",
          idPrefix: "cmpl",
          read: readCompletion,
          ask: (generate) => ({ generate }),
          shape: completionShape,
        }),
      ),
    ];
  }

  async #answer<C>(request: Request, kind: Kind<C>): Promise<Answer> {
    const { models, keys, metrics, bodyBytesMax, heartbeatMs } = this.#parts;
    const caller = keys.callerOf(request.headers);
    const asked = kind.read(await objectOf(request, { bytesMax: bodyBytesMax, isJson: true }));
    const target = await models.resolve(asked.model, request.signal);
    const meter = metrics.request(kind.operation, target.name);
    const job = this.#job(request, kind, { asked, target, caller, meter });
    if (!asked.stream) return whole(job);
    return events(chunks(job), { heartbeatMs, end: "[DONE]", onError: (error) => JSON.stringify(errorBody(error)) });
  }

  #job<C>(
    { signal, requestId }: Request,
    kind: Kind<C>,
    { asked, target, caller, meter }: { asked: Asked<C>; target: Target; caller: string; meter: RequestMeter },
  ): Job {
    const { models, inference, keys, now } = this.#parts;
    const metadata = { "x-request-id": requestId, ...(caller === "" ? {} : { "x-nibble-caller": caller }) };
    const calls = asked.calls.map((call) => () => {
      const ask = kind.ask({ ...call, adapter: target.adapter });
      return steadyAnswer(inference, ask, { signal, metadata, beginRetriesMax });
    });
    const { n, blamed } = asked;
    const begun = () => keys.begin(caller);
    return {
      asked,
      shape: kind.shape(),
      n,
      head: {
        id: `${kind.idPrefix}-${randomUUID().replaceAll("-", "")}`,
        created: Math.floor(now() / 1000),
        model: target.name,
        system_fingerprint: `fp_${target.base.digest.replace("sha256:", "").slice(0, 10)}`,
      },
      events: meter.watch(answers({ models, target, calls, n, blamed, begun, signal })),
    };
  }
}
