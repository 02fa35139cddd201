// The hub's HTTP port: requests to handlers, errors to answers, and the drain. It knows no repositories.

import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { pipeline } from "node:stream/promises";
import type { Logger } from "pino";
import { NibbleError } from "#packages/errors";
import { repoNotFound } from "./access.ts";
import { answerOf } from "./errors.ts";
import { type Answer, findRoute, type Request, type Route } from "./http.ts";

export interface HubServerOptions {
  routes: readonly Route[];
  host: string;
  /** 0 picks a free one. */
  port: number;
  logger: Logger;
  /** Throws for callers that are not to be heard at all. */
  check: (headers: IncomingMessage["headers"]) => void;
  /** Silence of a client after which its connection is cut, in milliseconds. Default: 120,000. */
  idleMsMax?: number;
}

const idleMsDefault = 120_000;
/** Of a body that was refused. */
const dropBytesMax = 256 << 20;

export class HubServer {
  readonly #server: Server;
  readonly #host: string;
  #closed: Promise<void> | undefined;

  private constructor(server: Server, host: string) {
    this.#server = server;
    this.#host = host;
  }

  static async start(options: HubServerOptions): Promise<HubServer> {
    const { host, port } = options;
    const handler = new RequestHandler(options);
    // A large file may take its time: requests end by silence, not by their length.
    const server = createServer({ requestTimeout: 0 }, (request, response) => void handler.handle(request, response));
    server.timeout = options.idleMsMax ?? idleMsDefault;
    server.listen({ host, port, exclusive: true });
    try {
      await once(server, "listening");
    } catch (thrown) {
      throw listenError(thrown, `${host}:${port}`);
    }
    return new HubServer(server, host);
  }

  /** "http://host:port". */
  get url(): string {
    const { port } = this.#server.address() as AddressInfo;
    return `http://${this.#host.includes(":") ? `[${this.#host}]` : this.#host}:${port}`;
  }

  /**
   * Takes no more requests; those under way may finish for `ms`, then their connections are cut. A second call waits
   * for the first.
   */
  close(ms: number): Promise<void> {
    this.#closed ??= this.#close(ms);
    return this.#closed;
  }

  async #close(ms: number): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#server.closeIdleConnections();
    const timer = setTimeout(() => this.#server.closeAllConnections(), ms);
    await closed;
    clearTimeout(timer);
  }
}

function listenError(thrown: unknown, address: string): NibbleError {
  const error = NibbleError.from(thrown, "listen");
  const isTaken = (thrown as NodeJS.ErrnoException).code === "EADDRINUSE";
  const message = isTaken
    ? `${address}: expected a free port for the hub, got one that another process listens on`
    : `${address}: expected an address for the hub to listen on, got: ${error.message}`;
  return new NibbleError(message, { code: "FAILED_PRECONDITION", op: "listen", details: { address }, cause: thrown });
}

class RequestHandler {
  readonly #routes: readonly Route[];
  readonly #logger: Logger;
  readonly #check: HubServerOptions["check"];
  readonly #idleMsMax: number;

  constructor({ routes, logger, check, idleMsMax = idleMsDefault }: HubServerOptions) {
    this.#routes = routes;
    this.#logger = logger;
    this.#check = check;
    this.#idleMsMax = idleMsMax;
  }

  async handle(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    // Once all of a request is here, the silence is ours: putting a large file together takes its time.
    incoming.once("end", () => incoming.socket.setTimeout(0));
    try {
      const answer = await this.#answer(incoming);
      incoming.socket.setTimeout(this.#idleMsMax);
      await send(incoming, response, answer);
    } catch (thrown) {
      // The client went away, or the bytes of a file turned out to be damaged: it must not take them for whole.
      response.destroy();
      if (!isGone(thrown)) this.#logger.error({ err: thrown, path: incoming.url }, "hub: an answer was cut");
    }
  }

  async #answer(incoming: IncomingMessage): Promise<Answer> {
    try {
      return await this.#find(incoming);
    } catch (thrown) {
      if (isGone(thrown) && incoming.destroyed) throw thrown;
      const error = NibbleError.from(thrown, "hub");
      if (error.code === "INTERNAL") this.#logger.error({ err: error, path: incoming.url }, "hub: a request failed");
      else this.#logger.debug({ path: incoming.url, reason: error.message }, "hub: a request was refused");
      return answerOf(error);
    }
  }

  async #find(incoming: IncomingMessage): Promise<Answer> {
    const { method = "GET", headers } = incoming;
    this.#check(headers);
    const origin = `http://${headers.host ?? "localhost"}`;
    const url = parsed(incoming.url ?? "/", origin);
    const found = findRoute(this.#routes, method, url.pathname);
    if (!found) throw repoNotFound(`${method} ${url.pathname}`);
    // One that stops reading early, because it refuses what comes, must not cut the connection: the answer goes there.
    const body = incoming.iterator({ destroyOnReturn: false });
    const request: Request = { method, url, params: found.params, headers, body, origin };
    return found.handler(request);
  }
}

function parsed(path: string, origin: string): URL {
  try {
    return new URL(origin + path);
  } catch {
    throw new NibbleError(`the address: expected a path, got ${path.slice(0, 80)}`, {
      code: "INVALID_ARGUMENT",
      op: "hub",
    });
  }
}

function isGone(thrown: unknown): boolean {
  const code = (thrown as NodeJS.ErrnoException).code ?? "";
  return ["ECONNRESET", "EPIPE", "ERR_STREAM_PREMATURE_CLOSE", "ABORT_ERR"].includes(code);
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
  const { status = 200, headers = {}, json, stream } = answer;
  const body = json === undefined ? undefined : Buffer.from(JSON.stringify(json));
  if (!incoming.complete) dropRest(incoming);
  response.writeHead(status, {
    ...(body ? { "Content-Type": "application/json; charset=utf-8", "Content-Length": String(body.length) } : {}),
    ...headers,
  });
  if (stream) await pipeline(stream(), response);
  else response.end(incoming.method === "HEAD" ? undefined : body);
}
