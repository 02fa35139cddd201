// An HTTP server in front of another one: it hands requests on, unless a test wants something else to happen to them.
import { once } from "node:events";
import { createServer, type IncomingMessage, request, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

/** True: it answered by itself. */
export type Intercept = (incoming: IncomingMessage, answer: ServerResponse) => boolean | Promise<boolean>;

export interface HttpFront {
  url: string;
  /** "GET /path" of every request so far. */
  requests: string[];
  intercept: Intercept;
}

export async function startFront(t: TestContext, target: string): Promise<HttpFront> {
  const front: HttpFront = { url: "", requests: [], intercept: () => false };
  const server = createServer(async (incoming, answer) => {
    front.requests.push(`${incoming.method} ${incoming.url}`);
    if (await front.intercept(incoming, answer)) return;
    const { method, headers, url = "/" } = incoming;
    const onward = request(new URL(url, target), { method, headers }, (got) => {
      answer.writeHead(got.statusCode ?? 500, got.headers);
      got.pipe(answer);
      got.on("error", () => answer.destroy());
    });
    onward.on("error", () => answer.destroy());
    answer.on("close", () => onward.destroy());
    incoming.pipe(onward);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  front.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return front;
}
