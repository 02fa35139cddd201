// The hub's HTTP port: the kit's server with the hub's errors. It knows no repositories.
import { HttpServer, type HttpServerOptions } from "#packages/http";
import { repoNotFound } from "./access.ts";
import { answerOf } from "./errors.ts";

export type HubServerOptions = Omit<HttpServerOptions, "name" | "errorAnswer" | "notFound">;

export const HubServer = {
  /** A large file may take its time: requests end by silence, not by their length. */
  start: (options: HubServerOptions): Promise<HttpServer> =>
    HttpServer.start({
      ...options,
      name: "hub",
      errorAnswer: answerOf,
      notFound: (method, path) => repoNotFound(`${method} ${path}`),
    }),
};
