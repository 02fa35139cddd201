// The services' own contracts for browsers: gRPC-web and Connect over HTTP/1.1. Calls go on to the services as they are.
// Only those that name no path of this machine: a key for the gateway is no key to its disk.
import { Readable } from "node:stream";
import {
  type Code,
  ConnectError,
  createConnectRouter,
  type HandlerContext,
  type ServiceImpl,
} from "@connectrpc/connect";
import type { UniversalHandler } from "@connectrpc/connect/protocol";
import { InferenceService } from "#gen/nibble/inference/v1/inference_pb.ts";
import { RegistryService } from "#gen/nibble/registry/v1/registry_pb.ts";
import { TrainerService } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import type { Connection } from "#packages/client";
import { type Answer, type Request, type Route, route } from "#packages/http";
import { type CallOptions, toStatus } from "#packages/rpc";
import type { Keys } from "./keys.ts";

const methods = {
  inference: [
    "generate",
    "chat",
    "resumeAnswer",
    "cancelAnswer",
    "tokenize",
    "countTokens",
    "score",
    "getModel",
    "listAdapters",
    "getServingStats",
  ],
  trainer: ["getTrainingJob", "listTrainingJobs", "cancelTrainingJob", "watchEvents"],
  registry: ["getAdapter", "listAdapters", "getVersion", "listVersions", "resolveAlias"],
} as const;

type AnyMethod = (request: unknown, options: CallOptions) => unknown;

/** With the details that the services give: who speaks Connect gets them as who speaks gRPC does. */
function connectError(thrown: unknown): ConnectError {
  const { code, message, details } = toStatus(thrown);
  const error = new ConnectError(message, code as number as Code);
  error.details = details.map(({ typeUrl, value }) => ({ type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1), value }));
  return error;
}

async function* eventsOf(begin: () => unknown): AsyncGenerator<unknown> {
  try {
    yield* begin() as AsyncIterable<unknown>;
  } catch (thrown) {
    throw connectError(thrown);
  }
}

export function webRoutes(connection: Connection, keys: Keys, readMaxBytes: number): Route[] {
  const optionsOf = ({ signal, timeoutMs, requestHeader }: HandlerContext): CallOptions => {
    const caller = keys.callerOf({ authorization: requestHeader.get("authorization") ?? "" });
    const left = timeoutMs();
    return {
      signal,
      ...(left === undefined ? {} : { deadlineMs: left }),
      ...(caller === "" ? {} : { metadata: { "x-nibble-caller": caller } }),
    };
  };
  const forwarded = (client: object, names: readonly string[], streams: ReadonlySet<string>) =>
    Object.fromEntries(
      names.map((name) => {
        const call = (client as Record<string, AnyMethod>)[name]!;
        const stream = (request: unknown, context: HandlerContext) => eventsOf(() => call(request, optionsOf(context)));
        const unary = async (request: unknown, context: HandlerContext) => {
          try {
            return await call(request, optionsOf(context));
          } catch (thrown) {
            throw connectError(thrown);
          }
        };
        return [name, streams.has(name) ? stream : unary];
      }),
    );
  const router = createConnectRouter({ grpc: false, readMaxBytes });
  for (const [name, service] of [
    ["inference", InferenceService],
    ["trainer", TrainerService],
    ["registry", RegistryService],
  ] as const) {
    // The trainer does not know whose a job is.
    if (name === "trainer" && keys.areOfSeveral) continue;
    const streams = new Set(service.methods.filter((m) => m.methodKind !== "unary").map((m) => m.localName));
    const implementation = forwarded(connection[name], methods[name], streams);
    router.service(service, implementation as Partial<ServiceImpl<typeof service>>);
  }
  return router.handlers.flatMap((handler) =>
    route(handler.allowedMethods.join(" "), handler.requestPath, (request) => answerOf(handler, request)),
  );
}

async function answerOf(handler: UniversalHandler, { method, url, headers, body, signal }: Request): Promise<Answer> {
  const header = new Headers();
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) header.set(name, String(value));
  const answer = await handler({ httpVersion: "1.1", method, url: url.href, header, body, signal });
  const { body: pieces } = answer;
  return {
    status: answer.status,
    headers: Object.fromEntries(answer.header ?? []),
    ...(pieces ? { stream: () => Readable.from(pieces, { objectMode: false }) } : {}),
  };
}
