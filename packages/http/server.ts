// An HTTP port: it listens, says where, and stops. What requests are answered with is request-handler.ts.
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { NibbleError } from "#packages/errors";
import { type HandlerOptions, idleMsDefault, RequestHandler } from "./request-handler.ts";

export interface HttpServerOptions extends Omit<HandlerOptions, "drainSignal"> {
  host: string;
  /** 0 picks a free one. */
  port: number;
  /** Time for the whole of a request to come, in milliseconds. Default: 0, no limit but that on silence. */
  requestMsMax?: number;
  /** Connections at a time; further ones are closed at once. Default: no limit but the process's own. */
  connectionsMax?: number;
}

/** Longer than clients and proxies keep a connection in their pools: it is they who are to close it. */
const keepAliveMs = 75_000;

export class HttpServer {
  /** "host:port". */
  readonly address: string;
  readonly #server: Server;
  readonly #draining: AbortController;
  #closed: Promise<boolean> | undefined;

  private constructor(server: Server, host: string, draining: AbortController) {
    const { port } = server.address() as AddressInfo;
    this.address = `${host.includes(":") ? `[${host}]` : host}:${port}`;
    this.#server = server;
    this.#draining = draining;
  }

  /** @throws FAILED_PRECONDITION for an address that it cannot listen on. */
  static async start(options: HttpServerOptions): Promise<HttpServer> {
    const { host, port, name, requestMsMax = 0, connectionsMax } = options;
    const draining = new AbortController();
    const handler = new RequestHandler({ ...options, drainSignal: draining.signal });
    const server = createServer({ requestTimeout: requestMsMax }, (request, response) => {
      void handler.handle(request, response);
    });
    server.timeout = options.idleMsMax ?? idleMsDefault;
    server.keepAliveTimeout = keepAliveMs;
    if (connectionsMax !== undefined) server.maxConnections = connectionsMax;
    server.listen({ host, port, exclusive: true });
    try {
      await once(server, "listening");
    } catch (thrown) {
      throw listenError(thrown, `${host}:${port}`, name);
    }
    return new HttpServer(server, host, draining);
  }

  /** "http://host:port". */
  get url(): string {
    return `http://${this.address}`;
  }

  /**
   * Takes no more requests; those under way may finish for `ms`, then their connections are cut. A second call waits
   * for the first. True if every request finished by itself.
   */
  close(ms: number): Promise<boolean> {
    this.#closed ??= this.#close(ms);
    return this.#closed;
  }

  async #close(ms: number): Promise<boolean> {
    const closed = once(this.#server, "close");
    this.#server.close();
    this.#draining.abort(new NibbleError("the server: is shutting down", { code: "UNAVAILABLE", op: "drain" }));
    this.#server.closeIdleConnections();
    let isInTime = true;
    const timer = setTimeout(() => {
      isInTime = false;
      this.#server.closeAllConnections();
    }, ms);
    await closed;
    clearTimeout(timer);
    return isInTime;
  }
}

function listenError(thrown: unknown, address: string, name: string): NibbleError {
  const error = NibbleError.from(thrown, "listen");
  const isTaken = (thrown as NodeJS.ErrnoException).code === "EADDRINUSE";
  const message = isTaken
    ? `${address}: expected a free port for the ${name}, got one that another process listens on`
    : `${address}: expected an address for the ${name} to listen on, got: ${error.message}`;
  return new NibbleError(message, { code: "FAILED_PRECONDITION", op: "listen", details: { address }, cause: thrown });
}
