// One request after the other: to its route, its errors to answers, and what becomes of those who go away.
import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { finished, pipeline } from "node:stream/promises";
import type { Logger } from "pino";
import { NibbleError } from "#packages/errors";
import { badRequest } from "./body.ts";
import { corsHeaders, preflight } from "./cors.ts";
import { findRoute, methodsOf } from "./router.ts";
import { observeRequest } from "./telemetry.ts";
import type { Answer, Request, Route } from "./types.ts";

export interface HandlerOptions {
  /** What the log and messages call the server. */
  name: string;
  routes: readonly Route[];
  logger: Logger;
  /** Throws for callers that are not to be heard at all. */
  check?: (headers: IncomingMessage["headers"], path: string) => void;
  /** An error in the words of the server's API. */
  errorAnswer: (error: NibbleError) => Answer;
  /** For an address without a route; `allowed` are the methods that it has one for. */
  notFound: (method: string, path: string, allowed: readonly string[]) => NibbleError;
  /** Origins whose pages may read the answers. Default: none. */
  origins?: readonly string[];
  /** Silence of a client after which its connection is cut, in milliseconds. Default: 120,000. */
  idleMsMax?: number;
  drainSignal: AbortSignal;
}

export const idleMsDefault = 120_000;
/** Of a body that was refused. */
const dropBytesMax = 256 << 20;
const requestIdCharsMax = 128;

/** What is found out on the way, for the log. */
interface Seen {
  route?: string;
  error?: NibbleError;
}

export class RequestHandler {
  readonly #options: HandlerOptions;
  readonly #idleMsMax: number;

  constructor(options: HandlerOptions) {
    this.#options = options;
    this.#idleMsMax = options.idleMsMax ?? idleMsDefault;
  }

  async handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const started = performance.now();
    const { method = "GET", url = "/", headers } = incoming;
    const path = pathOf(url);
    const requestId = requestIdOf(headers);
    const logger = this.#options.logger.child({ requestId });
    const observation = observeRequest(method, path, headers);
    const seen: Seen = {};
    const abort = new AbortController();
    // Once all of a request is here, the silence is ours: work may take its time.
    incoming.once("end", () => incoming.socket.setTimeout(0));
    response.once("close", () => {
      const message = "the request: the client went away";
      if (!response.writableFinished) abort.abort(new NibbleError(message, { code: "CANCELLED", op: "http" }));
    });
    response.setHeader("X-Request-Id", requestId);
    const cors = corsHeaders(headers, this.#options.origins ?? []);
    for (const [name, value] of Object.entries(cors)) response.setHeader(name, value);
    try {
      const answer = await observation.run(() =>
        this.#answer(incoming, { requestId, logger, signal: abort.signal }, seen),
      );
      incoming.socket.setTimeout(this.#idleMsMax);
      if (this.#options.drainSignal.aborted) response.shouldKeepAlive = false;
      await observation.run(() => send(incoming, response, answer));
      if (this.#options.drainSignal.aborted) incoming.socket.end();
    } catch (thrown) {
      // The client went away, or the answer turned out to be damaged: it must not be taken for whole.
      response.destroy();
      seen.error ??= NibbleError.from(abort.signal.aborted ? abort.signal.reason : thrown, "http");
      if (!isGone(thrown)) logger.error({ err: thrown, path }, `${this.#options.name}: an answer was cut`);
    }
    const status = response.headersSent ? response.statusCode : 499;
    observation.end({ route: seen.route, status, error: seen.error });
    const ms = Math.round((performance.now() - started) * 10) / 10;
    const peer = incoming.socket.remoteAddress;
    const line = { method, path, status, ms, peer, isWhole: response.writableFinished };
    logger.info(seen.error ? { ...line, error: seen.error.message } : line, "request");
  }

  async #answer(
    incoming: IncomingMessage,
    parts: Pick<Request, "requestId" | "logger" | "signal">,
    seen: Seen,
  ): Promise<Answer> {
    try {
      return await this.#find(incoming, parts, seen);
    } catch (thrown) {
      if (parts.signal.aborted || (incoming.destroyed && !incoming.complete)) throw thrown;
      const error = NibbleError.from(thrown, this.#options.name);
      seen.error = error;
      if (error.code === "INTERNAL") {
        parts.logger.error({ err: error, path: incoming.url }, `${this.#options.name}: a request failed`);
      }
      return this.#options.errorAnswer(error);
    }
  }

  async #find(
    incoming: IncomingMessage,
    parts: Pick<Request, "requestId" | "logger" | "signal">,
    seen: Seen,
  ): Promise<Answer> {
    const { routes, check, notFound, drainSignal, origins = [] } = this.#options;
    const { method = "GET", headers } = incoming;
    const origin = `http://${headers.host ?? "localhost"}`;
    const url = parsed(incoming.url ?? "/", origin);
    check?.(headers, url.pathname);
    const found = findRoute(routes, method, url.pathname);
    if (!found) {
      const allowed = methodsOf(routes, url.pathname);
      const answer = preflight(method, headers, { origins, allowed });
      if (answer) return answer;
      throw notFound(method, url.pathname, allowed);
    }
    seen.route = found.route.path;
    // One that stops reading early, because it refuses what comes, must not cut the connection: the answer goes there.
    const body = incoming.iterator({ destroyOnReturn: false });
    const { params } = found;
    return found.route.handler({ ...parts, method, url, params, headers, body, origin, drainSignal });
  }
}

function pathOf(url: string): string {
  return url.split("?", 1)[0] ?? "/";
}

function requestIdOf(headers: IncomingMessage["headers"]): string {
  const given = headers["x-request-id"];
  const isGood = typeof given === "string" && given.length <= requestIdCharsMax && /^[\x21-\x7e]+$/.test(given);
  return isGood ? given : randomUUID();
}

function parsed(path: string, origin: string): URL {
  try {
    return new URL(origin + path);
  } catch {
    throw badRequest(`the address: expected a path, got ${path.slice(0, 80)}`);
  }
}

function isGone(thrown: unknown): boolean {
  const code = (thrown as NodeJS.ErrnoException).code ?? "";
  return ["ECONNRESET", "EPIPE", "ERR_STREAM_PREMATURE_CLOSE", "ABORT_ERR", "CANCELLED"].includes(code);
}

/** Most clients read an answer only when they have sent everything: what comes is let go, up to a limit. */
function dropRest(incoming: IncomingMessage): void {
  let left = dropBytesMax;
  incoming.on("data", (piece: Buffer) => {
    left -= piece.length;
    if (left < 0) incoming.destroy();
  });
  incoming.resume();
}

async function send(incoming: IncomingMessage, response: ServerResponse, answer: Answer): Promise<void> {
  const { status = 200, headers = {}, json, text, stream } = answer;
  const type = json === undefined ? {} : { "Content-Type": "application/json; charset=utf-8" };
  const body = text === undefined && json === undefined ? undefined : Buffer.from(text ?? JSON.stringify(json));
  if (!incoming.complete) dropRest(incoming);
  response.writeHead(status, {
    ...type,
    ...(body ? { "Content-Length": String(body.length) } : {}),
    ...headers,
  });
  if (stream) await pipeline(stream(), response);
  else {
    response.end(incoming.method === "HEAD" ? undefined : body);
    await finished(response);
  }
}
