// A server of the kit with the routes of a test.
import type { TestContext } from "node:test";
import { pino } from "pino";
import { NibbleError } from "#packages/errors";
import { type Answer, HttpServer, type HttpServerOptions, type Request, route } from "#packages/http";

export const silent = pino({ enabled: false });

export function errorAnswer({ code, message }: NibbleError): Answer {
  const status = { INVALID_ARGUMENT: 400, NOT_FOUND: 404, UNAVAILABLE: 503 }[code as string] ?? 500;
  return { status, json: { error: message } };
}

export async function startServer(
  t: TestContext,
  handlers: Record<string, (request: Request) => Promise<Answer>>,
  options: Partial<HttpServerOptions> = {},
): Promise<HttpServer> {
  const server = await HttpServer.start({
    name: "test",
    host: "127.0.0.1",
    port: 0,
    logger: silent,
    errorAnswer,
    notFound: (method, path, allowed) =>
      new NibbleError(`${method} ${path}: none; ${allowed}`, { code: "NOT_FOUND", op: "test" }),
    routes: Object.entries(handlers).flatMap(([key, handler]) => {
      const [method = "", path = ""] = key.split(" ");
      return route(method, path, handler);
    }),
    ...options,
  });
  t.after(() => server.close(0));
  return server;
}
